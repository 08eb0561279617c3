"""Columns of texts, from every format alike."""

from __future__ import annotations

import json
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lightweight_decoder.errors import InputDataError
from lightweight_decoder.vectors import json_file, streams, text_tables
from lightweight_decoder.vectors.text_tables import read_columns, read_texts, stream_columns

TABLE = {"text": ["a, b", 'say "hi"', "two\nlines", "Straße"], "label": ["x", "y", "x", "7"]}
TEXTS = st.lists(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")).filter(str.strip),
    min_size=1,
)


def quoted(value):
    return '"' + value.replace('"', '""') + '"'


def write(path, table):
    """Write a table in the format that the path's ending says, without the code under test."""
    rows = list(zip(*table.values(), strict=True))
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pa.table(table), path)
    elif path.suffix == ".jsonl":
        lines = [json.dumps(dict(zip(table, row, strict=True))) for row in rows]
        path.write_text("\n".join(lines))
    else:
        separator = "\t" if path.suffix == ".tsv" else ","
        lines = [separator.join(map(quoted, row)) for row in [tuple(table), *rows]]
        path.write_text("".join(f"{line}\n" for line in lines), newline="", encoding="utf-8")
    return path


@pytest.fixture(params=[".csv", ".tsv", ".jsonl", ".parquet"])
def suffix(request):
    return request.param


def test_every_format_gives_the_same_texts(tmp_path, suffix):
    path = write(tmp_path / f"table{suffix}", {"id": ["1", "2", "3", "4"], **TABLE})
    assert read_columns(path, ["text", "label"]) == TABLE


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(texts=TEXTS)
def test_any_text_comes_back_as_it_was(tmp_path, suffix, texts):
    path = write(tmp_path / f"table{suffix}", {"text": texts})
    assert read_columns(path, ["text"]) == {"text": texts}


PACK = {".gz": "gzip", ".zst": "zstd"}


@pytest.mark.parametrize("packed", PACK)
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.txt"])
def test_packed_tables(tmp_path, name, packed):
    table = {"text": TABLE["text"]} if name != "a.txt" else {"text": ["a b", "c"]}
    path = tmp_path / name
    if name == "a.txt":
        path.write_text("a b\nc\n")
    else:
        write(path, table)
    content = pa.compress(path.read_bytes(), PACK[packed], asbytes=True)
    (tmp_path / f"{name}{packed}").write_bytes(content)
    assert read_columns(tmp_path / f"{name}{packed}", ["text"]) == table


def test_semicolons(tmp_path):
    (tmp_path / "a.csv").write_text('text;label\nguten Tag;x\ndanke, gern;y\n"a;b";z\n')
    expected = {"text": ["guten Tag", "danke, gern", "a;b"], "label": ["x", "y", "z"]}
    assert read_columns(tmp_path / "a.csv", ["text", "label"]) == expected


def test_texts_may_have_separators_that_separate_nothing(tmp_path):
    (tmp_path / "a.csv").write_text("text\nbye; now\na\tb\nc | d\n")
    assert read_texts(tmp_path / "a.csv", "text") == ["bye; now", "a\tb", "c | d"]


@pytest.mark.parametrize("suffix", [".arrow", ".parquet", ".json"])
def test_other_formats_are_told_by_their_content(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    if suffix == ".json":
        path.write_text(json.dumps([{"text": text} for text in TABLE["text"]], indent=1))
    elif suffix == ".arrow":
        pyarrow.feather.write_feather(pa.table(TABLE), path)
    else:
        write(path, TABLE)
    if suffix != ".json":
        path = path.rename(tmp_path / "a.bin")
    assert read_texts(path, "text") == TABLE["text"]


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([True, False], ["True", "False"]),
        ([1.0, 2.5], ["1.0", "2.5"]),
        ([10**18, -1], ["1000000000000000000", "-1"]),
        (["01234", "1_001"], ["01234", "1_001"]),
        (["2024-01-31", "true"], ["2024-01-31", "true"]),
        ([1e-7, 1e22], ["1e-07", "1e+22"]),
    ],
)
def test_one_table_in_three_formats_has_the_same_texts(tmp_path, values, texts):
    (tmp_path / "a.csv").write_text("n,label\n" + "".join(f"0,{value}\n" for value in values))
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"label": v}) + "\n" for v in values))
    pyarrow.parquet.write_table(pa.table({"label": values}), tmp_path / "a.parquet")
    for name in ("a.csv", "a.jsonl", "a.parquet"):
        assert read_texts(tmp_path / name, "label") == texts, name


def test_blank_texts_may_be_given_out(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a", "label": null}\n{"text": "b"}\n')
    (block,) = stream_columns(tmp_path / "a.jsonl", ["text", "label"], may_be_blank=["label"])
    assert block == {"text": ["a", "b"], "label": ["", ""]}


def test_numbers_become_texts(tmp_path):
    pyarrow.parquet.write_table(pa.table({"label": [3, 4]}), tmp_path / "a.parquet")
    (tmp_path / "a.jsonl").write_text('{"label": 3}\n\n{"label": 4.5}\n')
    assert read_columns(tmp_path / "a.parquet", ["label"]) == {"label": ["3", "4"]}
    assert read_columns(tmp_path / "a.jsonl", ["label"]) == {"label": ["3", "4.5"]}


def test_a_missing_file_is_refused(tmp_path, suffix):
    with pytest.raises(InputDataError, match=rf"absent\{suffix}: there is no such file"):
        read_columns(tmp_path / f"absent{suffix}", ["text"])


def test_a_folder_holds_the_shards_of_a_table(tmp_path, suffix):
    for name, rows in (("part-2", slice(0, 3)), ("part-10", slice(3, 4))):
        write(tmp_path / f"{name}{suffix}", {key: each[rows] for key, each in TABLE.items()})
    (tmp_path / "_SUCCESS").write_text("")
    assert read_columns(tmp_path, ["text", "label"]) == TABLE


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(InputDataError, match="folder is empty"):
        read_columns(tmp_path, ["text"])


@pytest.mark.parametrize("name", ["table.xlsx", "table.csv", "table.txt", "table.npy"])
def test_bytes_of_another_format_are_refused(tmp_path, name):
    with zipfile.ZipFile(tmp_path / name, "w") as archive:
        archive.writestr("xl/workbook.xml", "<workbook/>")
    with pytest.raises(InputDataError, match=r"not supported.*found a zip archive"):
        read_columns(tmp_path / name, ["text"])


def test_a_file_of_arrays_is_no_table(tmp_path):
    np.save(tmp_path / "a.npy", np.ones((2, 3)))
    with pytest.raises(InputDataError, match=r"no table.*expected CSV.*found a file of arrays"):
        read_columns(tmp_path / "a.npy", ["text"])


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.txt"])
def test_an_empty_file_is_refused(tmp_path, name):
    (tmp_path / name).write_text("")
    with pytest.raises(InputDataError, match="file is empty"):
        read_columns(tmp_path / name, ["text"])


def test_a_table_of_names_alone_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text("text\n")
    with pytest.raises(InputDataError, match="table is empty"):
        read_columns(tmp_path / "a.csv", ["text"])


def test_an_empty_parquet_table_is_refused(tmp_path):
    path = write(tmp_path / "a.parquet", {"text": pa.array([], pa.string())})
    with pytest.raises(InputDataError, match="table is empty"):
        read_columns(path, ["text"])


def test_a_missing_column_is_named_with_those_there_are(tmp_path, suffix):
    path = write(tmp_path / f"table{suffix}", TABLE)
    with pytest.raises(InputDataError, match=r"no column 'category'.*'text', 'label'"):
        read_columns(path, ["text", "category"])


def test_a_column_that_is_there_twice_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text("text,text\na,b\n")
    with pytest.raises(InputDataError, match="several columns 'text'"):
        read_columns(tmp_path / "a.csv", ["text"])


@pytest.mark.parametrize("blank", ["", "  ", "\t"])
def test_an_empty_text_is_named_by_column_and_row(tmp_path, suffix, blank):
    path = write(tmp_path / f"table{suffix}", {"text": ["a", "b", blank], "label": ["x", "y", "x"]})
    with pytest.raises(InputDataError, match="row 2: a text is empty in column 'text'"):
        read_columns(path, ["text", "label"])


def test_a_missing_value_is_an_empty_text(tmp_path):
    write(tmp_path / "a.parquet", {"text": ["a", None]})
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"text": null}\n')
    for name in ("a.parquet", "a.jsonl"):
        with pytest.raises(InputDataError, match="row 1: a text is empty"):
            read_columns(tmp_path / name, ["text"])


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"text": "b"', "line 2: .*expected JSON"),
        ('{"label": "b"}', "row 1: a text is empty"),
        ('{"text": ["b"]}', "row 1: 'text' is not a text"),
        ("[" * 100_000, "line 2: cannot be read"),
        ("b", "line 2: cannot be read"),
    ],
)
def test_a_malformed_json_line_is_named(tmp_path, line, problem):
    (tmp_path / "a.jsonl").write_text(f'{{"text": "a"}}\n{line}\n')
    with pytest.raises(InputDataError, match=problem):
        read_columns(tmp_path / "a.jsonl", ["text"])


def test_a_lone_surrogate_is_refused(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "\\ud800"}\n')
    with pytest.raises(InputDataError, match=r"row 0: a text is empty.*no valid Unicode"):
        read_columns(tmp_path / "a.jsonl", ["text"])


def test_a_csv_row_of_another_length_is_named(tmp_path):
    (tmp_path / "a.csv").write_text("text,label\na,x\nb\n")
    with pytest.raises(InputDataError, match=r"row 1: the rows differ.*found 1: 'b'"):
        read_columns(tmp_path / "a.csv", ["text", "label"])


def test_a_parquet_column_of_lists_has_no_texts(tmp_path):
    path = write(tmp_path / "a.parquet", {"text": [["a"], ["b"]]})
    with pytest.raises(InputDataError, match="column 'text' has no texts"):
        read_columns(path, ["text"])


def test_bytes_that_are_no_table_are_refused(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"text\n\xff\xfe\x00\n")
    with pytest.raises(InputDataError, match=path.name):
        read_columns(path, ["text"])


def test_a_cut_parquet_file_is_refused(tmp_path):
    path = write(tmp_path / "a.parquet", TABLE)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputDataError, match=r"a\.parquet: cannot be read"):
        read_columns(path, ["text"])


def test_lines_are_texts(tmp_path):
    (tmp_path / "a.txt").write_bytes("\ufeffone\r\nzwei Straßen\n".encode())
    assert read_texts(tmp_path / "a.txt", "text") == ["one", "zwei Straßen"]


@pytest.mark.parametrize("start", ["PK is a code", "BZh", "FEA1", "PAR1", "\u00e9t\u00e9"])
def test_lines_may_begin_as_other_files_do(tmp_path, start):
    (tmp_path / "a.txt").write_text(f"{start}\nb\n", encoding="utf-8")
    assert read_texts(tmp_path / "a.txt", "text") == [start, "b"]


def test_lines_have_no_other_column(tmp_path):
    (tmp_path / "a.txt").write_text("a\n")
    with pytest.raises(InputDataError, match=r"no column 'label'.*found the columns 'text'"):
        read_columns(tmp_path / "a.txt", ["text", "label"])


@pytest.mark.parametrize(
    ("content", "problem"),
    [(b"a\n\nb\n", "row 1: a text is empty"), (b"a\nb\xe9\n", "line 1 or later: cannot be read")],
)
def test_lines_that_are_no_texts_are_refused(tmp_path, content, problem):
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(InputDataError, match=problem):
        read_texts(tmp_path / "a.txt", "text")


@given(lines=st.lists(st.text(st.sampled_from("aé \u2028"), min_size=1), min_size=1, max_size=9))
def test_lines_come_in_pieces_of_any_size(tmp_path_factory, lines):
    lines = [f"{line}." for line in lines]
    path = tmp_path_factory.mktemp("lines") / "a.txt"
    for end in ("", "\n"):
        path.write_bytes(("\n".join(lines) + end).encode())
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(streams, "CHUNK_BYTES", 3)
            assert read_texts(path, "text") == lines


def test_a_blank_line_far_down_is_named_by_its_row(tmp_path, monkeypatch):
    monkeypatch.setattr(text_tables, "_ROWS_AT_ONCE", 2)
    (tmp_path / "a.txt").write_text("a\nb\nc\n \nd\n")
    with pytest.raises(InputDataError, match="row 3: a text is empty"):
        read_texts(tmp_path / "a.txt", "text")


@pytest.fixture
def small_blocks(monkeypatch):
    """Let every format come in many blocks."""
    monkeypatch.setattr(text_tables, "_ROWS_AT_ONCE", 100)
    monkeypatch.setattr(json_file, "_BATCH_RECORDS", 100)
    monkeypatch.setattr(streams, "CHUNK_BYTES", 2**16)


@pytest.mark.usefixtures("small_blocks")
def test_a_table_comes_some_rows_at_a_time(tmp_path, suffix):
    table = {
        "id": [str(row) for row in range(1000)],
        "text": [f"phrase {row} " * 40 for row in range(1000)],
    }
    path = write(tmp_path / f"table{suffix}", table)
    blocks = list(stream_columns(path, ["text", "id"]))
    assert len(blocks) > 3
    for name in ("text", "id"):
        assert [text for block in blocks for text in block[name]] == table[name]


@pytest.mark.usefixtures("small_blocks")
def test_a_blank_text_far_down_is_found_at_its_row(tmp_path, suffix):
    texts = ["many words " * 40] * 1000
    texts[777] = " "
    path = write(tmp_path / f"table{suffix}", {"text": texts})
    with pytest.raises(InputDataError, match="row 777: a text is empty"):
        read_columns(path, ["text"])


@pytest.mark.usefixtures("small_blocks")
def test_a_row_of_another_width_far_down_is_found_at_its_row(tmp_path):
    path = write(tmp_path / "a.csv", {"text": ["many words " * 40] * 1000, "id": ["1"] * 1000})
    path.write_bytes(path.read_bytes() + b"alone\n")
    with pytest.raises(InputDataError, match=r"row 1000: the rows differ .*found 1"):
        read_columns(path, ["text"])


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_memory_does_not_grow_with_the_table(tmp_path, suffix):
    pool, usual = pa.proxy_memory_pool(pa.default_memory_pool()), pa.default_memory_pool()
    texts = [f"{row} " + "x" * 2000 for row in range(12_000)]
    path = write(tmp_path / f"table{suffix}", {"text": texts})
    assert path.stat().st_size > (24_000_000 if suffix == ".csv" else 0)
    pa.set_memory_pool(pool)
    try:
        num_rows = sum(len(block["text"]) for block in stream_columns(path, ["text"]))
    finally:
        pa.set_memory_pool(usual)
    assert num_rows == len(texts)
    assert 0 < pool.max_memory() < 8_000_000
