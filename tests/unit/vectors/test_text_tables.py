from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lightweight_decoder.errors import InputDataError
from lightweight_decoder.vectors import text_tables
from lightweight_decoder.vectors.text_tables import (
    count_lines,
    read_columns,
    read_lines,
    stream_columns,
    stream_lines,
)

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


def test_numbers_become_texts(tmp_path):
    pyarrow.parquet.write_table(pa.table({"label": [3, 4]}), tmp_path / "a.parquet")
    (tmp_path / "a.jsonl").write_text('{"label": 3}\n\n{"label": 4.5}\n')
    assert read_columns(tmp_path / "a.parquet", ["label"]) == {"label": ["3", "4"]}
    assert read_columns(tmp_path / "a.jsonl", ["label"]) == {"label": ["3", "4.5"]}


def test_a_missing_file_is_refused(tmp_path, suffix):
    with pytest.raises(InputDataError, match=rf"absent\{suffix}: the file is missing"):
        read_columns(tmp_path / f"absent{suffix}", ["text"])


def test_a_folder_is_no_table(tmp_path):
    with pytest.raises(InputDataError, match="found a folder"):
        read_columns(tmp_path, ["text"])


def test_an_unknown_ending_is_refused(tmp_path):
    (tmp_path / "table.xlsx").write_text("text\na\n")
    with pytest.raises(InputDataError, match=r"expected \.csv .*found \.xlsx"):
        read_columns(tmp_path / "table.xlsx", ["text"])


@pytest.mark.parametrize(("name", "content"), [("a.csv", ""), ("a.csv", "text\n"), ("a.jsonl", "")])
def test_an_empty_table_is_refused(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(InputDataError, match="table is empty"):
        read_columns(tmp_path / name, ["text"])


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
    with pytest.raises(InputDataError, match=r"row 2: a text is empty in column 'text'"):
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
        ('{"text": "b"', "not JSON"),
        ('["b"]', "not an object"),
        ('{"label": "b"}', "no column 'text'"),
        ('{"text": ["b"]}', "'text' is not a text"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_a_malformed_json_line_is_named(tmp_path, line, problem):
    (tmp_path / "a.jsonl").write_text(f'{{"text": "a"}}\n{line}\n')
    with pytest.raises(InputDataError, match=f"line 2: .*{problem}"):
        read_columns(tmp_path / "a.jsonl", ["text"])


def test_a_lone_surrogate_is_refused(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "\\ud800"}\n')
    with pytest.raises(InputDataError, match="row 0: a text is not valid Unicode"):
        read_columns(tmp_path / "a.jsonl", ["text"])


def test_a_csv_row_of_another_length_is_named(tmp_path):
    (tmp_path / "a.csv").write_text("text,label\na,x\nb\n")
    with pytest.raises(InputDataError, match="Row #3: Expected 2 columns, got 1"):
        read_columns(tmp_path / "a.csv", ["text", "label"])


def test_a_parquet_column_of_lists_has_no_texts(tmp_path):
    path = write(tmp_path / "a.parquet", {"text": [["a"], ["b"]]})
    with pytest.raises(InputDataError, match="'text' has no texts"):
        read_columns(path, ["text"])


def test_bytes_that_are_no_table_are_refused(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"text\n\xff\xfe\x00\n")
    with pytest.raises(InputDataError, match=path.name):
        read_columns(path, ["text"])


def test_a_cut_parquet_file_is_refused(tmp_path):
    path = write(tmp_path / "a.parquet", TABLE)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputDataError, match="Parquet file cannot be read"):
        read_columns(path, ["text"])


def test_lines_are_texts(tmp_path):
    (tmp_path / "a.txt").write_bytes("\ufeffone\r\nzwei Straßen\n".encode())
    assert read_lines(tmp_path / "a.txt") == ["one", "zwei Straßen"]


@pytest.mark.parametrize(
    ("content", "problem"),
    [(b"", "empty"), (b"a\n\nb\n", "row 1: a text is empty"), (b"\xff\xfe", "cannot be read")],
)
def test_lines_that_are_no_texts_are_refused(tmp_path, content, problem):
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(InputDataError, match=problem):
        read_lines(tmp_path / "a.txt")


@given(lines=st.lists(st.text(st.sampled_from("aé \u2028"), min_size=1), min_size=1, max_size=9))
def test_lines_come_in_pieces_of_any_size(tmp_path_factory, lines):
    lines = [f"{line}." for line in lines]
    path = tmp_path_factory.mktemp("lines") / "a.txt"
    for end in ("", "\n"):
        path.write_bytes(("\n".join(lines) + end).encode())
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(text_tables, "_CHUNK_CHARACTERS", 3)
            assert [line for some in stream_lines(path) for line in some] == lines
            assert count_lines(path) == len(lines)


def test_a_blank_line_far_down_is_named_by_its_row(tmp_path, monkeypatch):
    monkeypatch.setattr(text_tables, "_CHUNK_CHARACTERS", 3)
    (tmp_path / "a.txt").write_text("a\nb\nc\n \nd\n")
    with pytest.raises(InputDataError, match="row 3: a text is empty"):
        list(stream_lines(tmp_path / "a.txt"))


@pytest.fixture
def small_blocks(monkeypatch):
    """Let every format come in many blocks."""
    monkeypatch.setattr(text_tables, "_ROWS_AT_ONCE", 100)
    monkeypatch.setattr(text_tables, "_CSV_BLOCK_BYTES", 2**16)


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
    with pytest.raises(InputDataError, match="Row #1002: Expected 2 columns, got 1"):  # header: #1
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
