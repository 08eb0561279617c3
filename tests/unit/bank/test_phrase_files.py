from __future__ import annotations

import csv

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightweight_decoder.bank import phrase_files
from lightweight_decoder.bank.phrase_files import (
    Texts,
    TextStream,
    encoded_rows,
    encoded_sample,
    open_texts,
    rows_of_embeddings,
    rows_with_vectors,
)
from lightweight_decoder.errors import InputDataError
from lightweight_decoder.vectors import open_embeddings, text_tables

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\r\n\x00"), min_size=1).filter(
    lambda text: text.strip()
)


class Lengths:
    """An encoder whose vectors say how long a text is."""

    def encode_phrases(self, texts):
        return np.array([[len(text), 1] for text in texts], dtype=np.float32)


def stream(texts, metadata=None, path="p.txt"):
    """Texts as if they came from a file, in blocks of three."""
    metadata = metadata or {}
    blocks = [
        Texts(texts[i : i + 3], {name: column[i : i + 3] for name, column in metadata.items()})
        for i in range(0, len(texts), 3)
    ]
    return TextStream(path, blocks, num_rows=len(texts))


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

    opened = open_texts(path, metadata_columns=["frequency"])

    assert opened.num_rows == len(texts)
    assert opened.take(len(texts) + 1) == (texts, {"frequency": numbers})


@pytest.mark.parametrize(
    ("column", "expected"),
    [(["1", "2"], [1, 2]), (["1", "2.5"], [1.0, 2.5]), (["1", "two"], ["1", "two"])],
)
def test_a_column_is_of_numbers_where_all_of_it_is(tmp_path, column, expected):
    (tmp_path / "p.csv").write_text("text,c\n" + "".join(f"t{c},{c}\n" for c in column))

    assert open_texts(tmp_path / "p.csv", metadata_columns=["c"]).take(9)[1] == {"c": expected}


def test_any_other_file_has_a_text_a_line(tmp_path):
    (tmp_path / "p.txt").write_text("text,frequency\nzwölf\n", encoding="utf-8")

    opened = open_texts(tmp_path / "p.txt")
    assert opened.num_rows == 2
    assert opened.take(9) == (["text,frequency", "zwölf"], {})


@given(counts=st.lists(st.integers(0, 5), max_size=9))
def test_as_many_rows_are_taken_as_asked_for(counts):
    texts, numbers = list("abcdefgh"), list(range(8))
    opened = stream(texts, {"n": numbers})
    start = 0
    for count in counts:
        some = opened.take(count)
        assert some.texts == texts[start : start + count]
        assert some.metadata.get("n", []) == numbers[start : start + count]
        start += count


def test_blank_lines_are_kept_when_asked_for(tmp_path):
    (tmp_path / "p.txt").write_text("a\n\nb\n")
    assert open_texts(tmp_path / "p.txt", keep_unusable=True).take(9).texts == ["a", "", "b"]
    (tmp_path / "p.csv").write_text("text\na\n \nb\n")
    assert open_texts(tmp_path / "p.csv", keep_unusable=True).take(9).texts == ["a", " ", "b"]


def test_encoded_rows_keep_text_vector_and_metadata_together():
    texts = [f"{'x' * (i % 7)}{i}" for i in range(5_000)]  # more than one block
    blocks = list(encoded_rows(stream(texts, {"number": list(range(5_000))}), Lengths()))

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
            stream(["a", "b", "c"], {"n": [1, 2, 3]}), open_embeddings(tmp_path / "v.npy")
        )
    )

    read, found = joined(blocks)
    assert read == ["a", "b", "c"]
    np.testing.assert_array_equal(found, vectors)


@pytest.mark.parametrize(("num_texts", "found"), [(2, "more"), (4, "3")])
def test_texts_and_vectors_that_differ_in_number(tmp_path, num_texts, found):
    np.save(tmp_path / "v.npy", np.ones((3, 4), dtype=np.float32))
    with pytest.raises(InputDataError, match=rf"v\.npy.*expected {num_texts} rows.*found {found}"):
        list(rows_with_vectors(stream(["t"] * num_texts), open_embeddings(tmp_path / "v.npy")))


def test_rows_of_embeddings_have_the_texts_beside_them(tmp_path):
    (tmp_path / "glove.txt").write_text("a 1 2\nb 3 4\n")
    read, vectors = joined(list(rows_of_embeddings(open_embeddings(tmp_path / "glove.txt"))))
    assert read == ["a", "b"]
    np.testing.assert_array_equal(vectors, [[1, 2], [3, 4]])


def test_metadata_beside_the_vectors(tmp_path):
    (tmp_path / "a.jsonl").write_text(
        '{"text": "a", "v": [1, 2], "n": 7, "zip": "01234"}\n'
        '{"text": "b", "v": [3, 4], "n": null, "zip": "94110"}\n'
    )
    reader = open_embeddings(tmp_path / "a.jsonl")
    blocks = list(rows_of_embeddings(reader, metadata_columns=["n", "zip"]))
    assert joined(blocks)[0] == ["a", "b"]
    assert blocks[0].metadata == {"n": [7, None], "zip": ["01234", "94110"]}
    with pytest.raises(InputDataError, match="no column 'm'"):
        list(rows_of_embeddings(reader, metadata_columns=["m"]))


def test_metadata_of_what_is_no_table_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", v=np.ones((1, 2)), text=np.array(["a"]))
    with pytest.raises(InputDataError, match="this is no table"):
        list(rows_of_embeddings(open_embeddings(tmp_path / "a.npz"), metadata_columns=["n"]))


def test_columns_that_could_be_the_texts_are_named(tmp_path):
    (tmp_path / "a.csv").write_text("title,body,v\na,b,[1]\n")
    with pytest.raises(InputDataError, match=r"columns that could be: title, body.*text_column="):
        list(rows_of_embeddings(open_embeddings(tmp_path / "a.csv")))


def test_rows_without_vector_or_text_are_kept_when_asked_for(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a", "v": null}\n{"text": null, "v": [3, 4]}\n')
    reader = open_embeddings(tmp_path / "a.jsonl")
    texts, vectors = joined(list(rows_of_embeddings(reader, keep_unusable=True)))
    assert texts == ["a", ""]
    np.testing.assert_array_equal(vectors, [[np.nan, np.nan], [3, 4]])


def test_embeddings_without_texts_are_refused(tmp_path):
    np.save(tmp_path / "v.npy", np.ones((3, 4), dtype=np.float32))
    with pytest.raises(InputDataError, match=r"v\.npy: the embeddings have no texts.*input=FILE"):
        list(rows_of_embeddings(open_embeddings(tmp_path / "v.npy")))


def test_bad_vectors_are_kept_when_asked_for(tmp_path):
    np.save(tmp_path / "v.npy", np.array([[1, 2], [np.nan, 0]], dtype=np.float32))
    reader = open_embeddings(tmp_path / "v.npy")
    blocks = list(rows_with_vectors(stream(["a", "b"]), reader, keep_unusable=True))
    assert joined(blocks)[0] == ["a", "b"]
    with pytest.raises(InputDataError, match="row 1"):
        list(rows_with_vectors(stream(["a", "b"]), reader))


class Numbers:
    """An encoder that finds the number in a text, and keeps what it was asked for."""

    def __init__(self):
        self.encoded = []

    def encode_phrases(self, texts):
        self.encoded += texts
        return np.array([[float(text.removeprefix("text "))] for text in texts], np.float32)


@pytest.mark.parametrize("size", [1, 7, 300, 10_000])
def test_a_sample_of_texts_is_drawn_from_all_and_only_that_is_encoded(tmp_path, monkeypatch, size):
    monkeypatch.setattr(phrase_files, "_TEXTS_AT_ONCE", 64)
    (tmp_path / "texts.txt").write_text("\n".join(f"text {i}" for i in range(1_000)))
    encoder = Numbers()
    blocks = encoded_sample(open_texts(tmp_path / "texts.txt"), encoder, num_rows=size)
    drawn = np.concatenate(list(blocks))[:, 0]
    assert len(drawn) == len(encoder.encoded) == min(size, 1_000)
    assert (np.diff(drawn) > 0).all()
    if size == 300:
        assert 80 < (drawn < 333).sum() < 120


@pytest.mark.parametrize(
    ("first", "last", "kind"), [("1", "2", int), ("1", "2.5", float), ("1.5", "?", str)]
)
def test_a_column_has_one_kind_of_numbers_whichever_block_they_are_in(
    tmp_path, monkeypatch, first, last, kind
):
    monkeypatch.setattr(text_tables, "_ROWS_AT_ONCE", 2)
    path = tmp_path / "p.csv"
    path.write_text("text,value\n" + f"phrase,{first}\n" * 8 + f"phrase,{last}\n")

    opened = open_texts(path, metadata_columns=["value"])

    values = opened.take(100).metadata["value"]
    assert opened.num_rows == 9
    assert values == [kind(first)] * 8 + [kind(last)]
    assert {type(value) for value in values} == {kind}
