from __future__ import annotations

import csv

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightweight_decoder.data.phrase_files import encoded_rows, read_texts, rows_with_vectors
from lightweight_decoder.errors import InputDataError

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\r\n\x00"), min_size=1).filter(
    lambda text: text.strip()
)


class Lengths:
    """An encoder whose vectors say how long a text is."""

    def encode(self, texts):
        return np.array([[len(text), 1] for text in texts], dtype=np.float32)


def joined(blocks):
    """All rows of all blocks."""
    texts = [text for block in blocks for text in block.texts]
    return texts, np.concatenate([block.vectors for block in blocks])


@given(texts=st.lists(TEXT, min_size=1, max_size=8), data=st.data())
def test_a_table_gives_back_what_was_written(tmp_path_factory, texts, data):
    numbers = data.draw(st.lists(st.integers(0, 9), min_size=len(texts), max_size=len(texts)))
    path = tmp_path_factory.mktemp("tables") / "p.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_ALL)
        writer.writerow(["text", "frequency"])
        writer.writerows(zip(texts, numbers, strict=True))

    read, metadata = read_texts(path, metadata_columns=["frequency"])

    assert read == texts
    assert metadata == {"frequency": numbers}


@pytest.mark.parametrize(
    ("column", "expected"),
    [(["1", "2"], [1, 2]), (["1", "2.5"], [1.0, 2.5]), (["1", "two"], ["1", "two"])],
)
def test_a_column_is_of_numbers_where_all_of_it_is(tmp_path, column, expected):
    (tmp_path / "p.csv").write_text("text,c\n" + "".join(f"t{c},{c}\n" for c in column))

    assert read_texts(tmp_path / "p.csv", metadata_columns=["c"])[1] == {"c": expected}


def test_any_other_file_has_a_text_a_line(tmp_path):
    (tmp_path / "p.txt").write_text("text,frequency\nzwölf\n", encoding="utf-8")

    assert read_texts(tmp_path / "p.txt") == (["text,frequency", "zwölf"], {})


def test_encoded_rows_keep_text_vector_and_metadata_together():
    texts = [f"{'x' * (i % 7)}{i}" for i in range(5_000)]  # more than one block
    blocks = list(encoded_rows(texts, {"number": list(range(5_000))}, Lengths()))

    read, vectors = joined(blocks)
    assert len(blocks) > 1
    assert read == texts
    np.testing.assert_array_equal(vectors[:, 0], [len(text) for text in texts])
    assert [number for block in blocks for number in block.metadata["number"]] == list(range(5_000))


def test_rows_with_vectors_pair_row_by_row(tmp_path):
    vectors = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    np.save(tmp_path / "v.npy", vectors)
    blocks = list(
        rows_with_vectors(
            ["a", "b", "c"], {"n": [1, 2, 3]}, tmp_path / "v.npy", texts_path=tmp_path / "p.txt"
        )
    )

    read, found = joined(blocks)
    assert read == ["a", "b", "c"]
    np.testing.assert_array_equal(found, vectors)


@pytest.mark.parametrize(("num_texts", "found"), [(2, "more"), (4, "3")])
def test_texts_and_vectors_that_differ_in_number(tmp_path, num_texts, found):
    np.save(tmp_path / "v.npy", np.ones((3, 4), dtype=np.float32))
    with pytest.raises(InputDataError, match=rf"v\.npy.*expected {num_texts} rows.*found {found}"):
        list(
            rows_with_vectors(
                ["t"] * num_texts, {}, tmp_path / "v.npy", texts_path=tmp_path / "p.txt"
            )
        )
