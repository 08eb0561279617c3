"""Reads columns of texts from CSV, JSON lines, Parquet or plain text files."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from lightweight_decoder.errors import InputDataError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")
_PARQUET_SUFFIXES = (".parquet", ".pq")
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
TABLE_SUFFIXES = (*_DELIMITERS, *_JSON_SUFFIXES, *_PARQUET_SUFFIXES)

_Columns = dict[str, list[str]]


def read_columns(path: Path, columns: Sequence[str]) -> _Columns:
    """Read columns of texts.

    The format follows from the file's ending: ``.csv`` and ``.tsv`` with a header line, ``.jsonl``
    (``.ndjson``, ``.json``) with one object a line, ``.parquet`` (``.pq``). Numbers become text.

    Args:
        path: The table.
        columns: Which columns.

    Returns:
        For each column the texts of all rows, none of them blank; at least one row.

    Raises:
        InputDataError: If the file is missing, of another format, damaged or without rows, if a
            column is missing (the message has those there are), or if a text is blank (the message
            has its row, from 0, not counting the header).
    """
    readers = {
        **dict.fromkeys(_DELIMITERS, _read_csv),
        **dict.fromkeys(_JSON_SUFFIXES, _read_json_lines),
        **dict.fromkeys(_PARQUET_SUFFIXES, _read_parquet),
    }
    _check_is_file(path)
    if path.suffix.lower() not in readers:
        expected = " ".join(readers)
        raise _unusable(path, "the table's format is unknown", expected, path.suffix or "no ending")
    table = readers[path.suffix.lower()](path, columns)
    if not table[columns[0]]:
        raise _unusable(path, "the table is empty", "at least one row", "none")
    for name in columns:
        _refuse_unusable_texts(path, name, table[name])
    return table


def read_lines(path: Path) -> list[str]:
    """Read a text file, one text a line; an empty last line does not count.

    Raises:
        InputDataError: If the file is missing, is not UTF-8, has no lines, or has a blank one.
    """
    _check_is_file(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise _unusable(path, "the file cannot be read", "lines of UTF-8", error) from error
    if not lines:
        raise _unusable(path, "the file is empty", "at least one line", "none")
    _refuse_unusable_texts(path, None, lines)
    return lines


def _check_is_file(path: Path) -> None:
    """Refuse what is not a file."""
    if not path.is_file():
        found = "a folder" if path.is_dir() else "nothing there"
        raise _unusable(path, "the file is missing", "a file", found)


def _read_csv(path: Path, columns: Sequence[str]) -> _Columns:
    """Read a CSV or TSV file with a header line."""
    strings = {name: pa.string() for name in columns}
    try:
        table = pyarrow.csv.read_csv(
            path,
            read_options=pyarrow.csv.ReadOptions(use_threads=False),  # errors then name the row
            parse_options=pyarrow.csv.ParseOptions(
                delimiter=_DELIMITERS[path.suffix.lower()], newlines_in_values=True
            ),
            convert_options=pyarrow.csv.ConvertOptions(column_types=strings),
        )
    except pa.ArrowInvalid as error:
        if "Empty CSV" in str(error):
            raise _unusable(path, "the table is empty", "a header line and rows", "none") from error
        raise _unusable(path, "the CSV cannot be read", "rows like the header", error) from error
    _check_columns(path, columns, table.column_names)
    return {name: table.column(name).to_pylist() for name in columns}


def _read_parquet(path: Path, columns: Sequence[str]) -> _Columns:
    """Read a Parquet file."""
    try:
        _check_columns(path, columns, pyarrow.parquet.read_schema(path).names)
        table = pyarrow.parquet.read_table(path, columns=list(columns))
    except (pa.ArrowException, OSError) as error:
        raise _unusable(path, "the Parquet file cannot be read", "a whole file", error) from error
    return {name: _to_texts(path, name, table.column(name)) for name in columns}


def _to_texts(path: Path, name: str, column: Any) -> list[str]:  # noqa: ANN401, pyarrow has no types
    """Turn a column into texts; missing values become blank ones."""
    try:
        return [text or "" for text in column.cast(pa.string()).to_pylist()]
    except pa.ArrowException as error:
        raise _unusable(path, f"column {name!r} has no texts", "texts", column.type) from error


def _read_json_lines(path: Path, columns: Sequence[str]) -> _Columns:
    """Read a file with one JSON object a line; blank lines are skipped."""
    table: _Columns = {name: [] for name in columns}
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    _add_json_line(path, number, line, table)
    except UnicodeDecodeError as error:
        raise _unusable(path, "the file cannot be read", "lines of UTF-8", error) from error
    return table


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


def _refuse_unusable_texts(path: Path, name: str | None, texts: Sequence[str]) -> None:
    """Refuse blank texts, and those that are not valid Unicode."""
    of_column = "" if name is None else f" in column {name!r}"
    for row, text in enumerate(texts):
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
