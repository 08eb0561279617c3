"""Reads columns of texts from CSV, JSON lines, Parquet or plain text files."""

from __future__ import annotations

import json
from itertools import islice
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from lightweight_decoder.errors import InputDataError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")
_PARQUET_SUFFIXES = (".parquet", ".pq")
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
TABLE_SUFFIXES = (*_DELIMITERS, *_JSON_SUFFIXES, *_PARQUET_SUFFIXES)

_CHUNK_CHARACTERS = 2**18
_ROWS_AT_ONCE = 4_096
_CSV_BLOCK_BYTES = 2**20
"""Arrow's default, which a row has to fit in; it reads 32 blocks ahead."""

_Columns = dict[str, list[str]]


def read_columns(path: Path, columns: Sequence[str]) -> _Columns:
    """Read columns of texts into memory; see :func:`stream_columns`."""
    table: _Columns = {name: [] for name in columns}
    for block in stream_columns(path, columns):
        for name, texts in block.items():
            table[name] += texts
    return table


def stream_columns(
    path: Path, columns: Sequence[str], *, keep_unusable: bool = False
) -> Iterator[_Columns]:
    """Read columns of texts some rows at a time, in memory that does not grow with the file.

    The format follows from the file's ending: ``.csv`` and ``.tsv`` with a header line, ``.jsonl``
    (``.ndjson``, ``.json``) with one object a line, ``.parquet`` (``.pq``). Numbers become text.

    Args:
        path: The table.
        columns: Which columns.
        keep_unusable: Give blank texts out too.

    Yields:
        For each column the texts of the same rows, at least one.

    Raises:
        InputDataError: If the file is missing, of another format, damaged or without rows, if a
            column is missing (the message has those there are), or if a text is blank (the message
            has its row, from 0, not counting the header). Blocks before it were right.
    """
    readers = {
        **dict.fromkeys(_DELIMITERS, _stream_csv),
        **dict.fromkeys(_JSON_SUFFIXES, _stream_json_lines),
        **dict.fromkeys(_PARQUET_SUFFIXES, _stream_parquet),
    }
    _check_is_file(path)
    if path.suffix.lower() not in readers:
        expected = " ".join(readers)
        raise _unusable(path, "the table's format is unknown", expected, path.suffix or "no ending")
    num_rows = 0
    for block in readers[path.suffix.lower()](path, columns):
        for name in () if keep_unusable else columns:
            _refuse_unusable_texts(path, name, block[name], first_row=num_rows)
        num_rows += len(block[columns[0]])
        yield block
    if not num_rows:
        raise _unusable(path, "the table is empty", "at least one row", "none")


def read_lines(path: Path) -> list[str]:
    """Read a text file, one text a line; see :func:`stream_lines`."""
    return [line for lines in stream_lines(path) for line in lines]


def stream_lines(path: Path, *, keep_unusable: bool = False) -> Iterator[list[str]]:
    """Read a text file some lines at a time, one text a line; an empty last line does not count.

    Args:
        path: The file.
        keep_unusable: Give blank lines out too.

    Yields:
        Lists of at least one line.

    Raises:
        InputDataError: If the file is missing, is not UTF-8, has no lines, or has a blank one.
    """
    _check_is_file(path)
    num_lines = 0
    try:
        for lines in _split_lines(path):
            if not keep_unusable and not all(map(str.strip, lines)):
                _refuse_unusable_texts(path, None, lines, first_row=num_lines)
            num_lines += len(lines)
            yield lines
    except (OSError, UnicodeDecodeError) as error:
        raise _unusable(path, "the file cannot be read", "lines of UTF-8", error) from error
    if not num_lines:
        raise _unusable(path, "the file is empty", "at least one line", "none")


def count_lines(path: Path) -> int:
    """Count what :func:`stream_lines` gives, without looking at it.

    Raises:
        InputDataError: If the file is missing.
    """
    _check_is_file(path)
    num_lines, last = 0, b"\n"
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_CHARACTERS):
            num_lines, last = num_lines + chunk.count(b"\n"), chunk[-1:]
    return num_lines + (last != b"\n")


def _split_lines(path: Path) -> Iterator[list[str]]:
    """Yield a file's lines, some at a time."""
    rest = ""
    with path.open(encoding="utf-8-sig") as file:
        while chunk := file.read(_CHUNK_CHARACTERS):
            lines = (rest + chunk).split("\n")
            rest = lines.pop()
            if lines:
                yield lines
    if rest:
        yield [rest]


def _check_is_file(path: Path) -> None:
    """Refuse what is not a file."""
    if not path.is_file():
        found = "a folder" if path.is_dir() else "nothing there"
        raise _unusable(path, "the file is missing", "a file", found)


def _stream_csv(path: Path, columns: Sequence[str]) -> Iterator[_Columns]:
    """Read a CSV or TSV file with a header line."""
    try:
        with _open_csv(path, pyarrow.csv.ConvertOptions()) as reader:
            _check_columns(path, columns, reader.schema.names)
        convert = pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(columns, pa.string()), include_columns=list(columns)
        )
        with _open_csv(path, convert) as reader:
            for batch in reader:
                if batch.num_rows:
                    yield {name: batch.column(name).to_pylist() for name in columns}
    except pa.ArrowInvalid as error:
        if "Empty CSV" in str(error):
            raise _unusable(path, "the table is empty", "a header line and rows", "none") from error
        raise _unusable(path, "the CSV cannot be read", "rows like the header", error) from error


def _open_csv(path: Path, convert: pyarrow.csv.ConvertOptions) -> pyarrow.csv.CSVStreamingReader:
    """Open a CSV or TSV file at its start."""
    return pyarrow.csv.open_csv(
        path,
        read_options=pyarrow.csv.ReadOptions(
            block_size=_CSV_BLOCK_BYTES,
            use_threads=False,  # errors then name the row
        ),
        parse_options=pyarrow.csv.ParseOptions(
            delimiter=_DELIMITERS[path.suffix.lower()], newlines_in_values=True
        ),
        convert_options=convert,
    )


def _stream_parquet(path: Path, columns: Sequence[str]) -> Iterator[_Columns]:
    """Read a Parquet file."""
    try:
        with pyarrow.parquet.ParquetFile(path, memory_map=True) as file:
            _check_columns(path, columns, file.schema_arrow.names)
            for batch in file.iter_batches(_ROWS_AT_ONCE, columns=list(columns)):
                yield {name: _to_texts(path, name, batch.column(name)) for name in columns}
    except (pa.ArrowException, OSError) as error:
        raise _unusable(path, "the Parquet file cannot be read", "a whole file", error) from error


def _to_texts(path: Path, name: str, column: Any) -> list[str]:  # noqa: ANN401, pyarrow has no types
    """Turn a column into texts; missing values become blank ones."""
    try:
        return [text or "" for text in column.cast(pa.string()).to_pylist()]
    except pa.ArrowException as error:
        raise _unusable(path, f"column {name!r} has no texts", "texts", column.type) from error


def _stream_json_lines(path: Path, columns: Sequence[str]) -> Iterator[_Columns]:
    """Read a file with one JSON object a line; blank lines are skipped."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            numbered = ((number, line) for number, line in enumerate(file, 1) if line.strip())
            while some := list(islice(numbered, _ROWS_AT_ONCE)):
                block: _Columns = {name: [] for name in columns}
                for number, line in some:
                    _add_json_line(path, number, line, block)
                yield block
    except UnicodeDecodeError as error:
        raise _unusable(path, "the file cannot be read", "lines of UTF-8", error) from error


def _add_json_line(path: Path, number: int, line: str, table: _Columns) -> None:
    """Append the values of one line to the columns."""
    at = f"line {number}"
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _unusable(path, "the line is not JSON", "an object", error, at=at) from error
    if not isinstance(record, dict):
        raise _unusable(path, "the line is not an object", "{...}", repr(line.strip()[:60]), at=at)
    _check_columns(path, list(table), list(record), at=at)
    for name, texts in table.items():
        value = record[name]
        if isinstance(value, (dict, list)):
            raise _unusable(path, f"{name!r} is not a text", "a text", repr(value)[:60], at=at)
        texts.append("" if value is None else str(value))


def _check_columns(
    path: Path, columns: Sequence[str], there_are: Sequence[str], *, at: str | None = None
) -> None:
    """Refuse a table without the columns asked for, or with two of the same name."""
    for name in columns:
        if there_are.count(name) != 1:
            found = f"the columns {', '.join(map(repr, there_are)) or '(none)'}"
            problem = (
                f"there is no column {name!r}"
                if name not in there_are
                else (f"there are several columns {name!r}")
            )
            advice = (
                "Name a column with data.text_column, data.label_column or data.target_column,"
                " or with text_column in build_bank.py"
            )
            raise InputDataError(
                problem, where=path, at=at, expected=repr(name), found=found, advice=advice
            )


def _refuse_unusable_texts(
    path: Path, name: str | None, texts: Sequence[str], *, first_row: int = 0
) -> None:
    """Refuse blank texts, and those that are not valid Unicode."""
    of_column = "" if name is None else f" in column {name!r}"
    for row, text in enumerate(texts, start=first_row):
        if not text.strip():
            problem = f"a text is empty{of_column}"
        elif not _is_unicode(text):
            problem = f"a text is not valid Unicode{of_column}"
        else:
            continue
        raise InputDataError(
            problem,
            where=path,
            at=f"row {row}",
            expected="a text",
            found=repr(text[:60]),
            advice="Fill the text in, or remove the row",
        )


def _is_unicode(text: str) -> bool:
    """Say whether a text can be written as UTF-8; a lone surrogate cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _unusable(
    path: Path, problem: str, expected: str, found: object, *, at: str | None = None
) -> InputDataError:
    """Build the error for a file that cannot be used."""
    shown = (str(found).splitlines() or [""])[0][:200]
    return InputDataError(problem, where=path, at=at, expected=expected, found=shown)
