"""Columns of texts from tables of any format, or the lines of a text file, some rows at a time."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from lightweight_decoder.errors import InputDataError
from lightweight_decoder.vectors.opening import open_tables

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from pathlib import Path

    from lightweight_decoder.vectors.tables import Role

_ROWS_AT_ONCE = 4_096

_Columns = dict[str, list[str]]


def read_columns(path: Path, columns: Sequence[str]) -> _Columns:
    """Read columns of texts into memory; see :func:`stream_columns`."""
    table: _Columns = {name: [] for name in columns}
    for block in stream_columns(path, columns):
        for name, texts in block.items():
            table[name] += texts
    return table


def read_texts(path: Path, column: str) -> list[str]:
    """Read one column of texts into memory; see :func:`stream_columns`."""
    return read_columns(path, [column])[column]


def stream_columns(
    path: Path, columns: Sequence[str], *, may_be_blank: Collection[str] = ()
) -> Iterator[_Columns]:
    """Read columns of texts some rows at a time, in memory that does not grow with the file.

    Parquet and Arrow files are told by their content; ``.csv``, ``.tsv``, ``.json``, ``.jsonl`` and
    ``.ndjson`` by their name, plain or inside gzip or zstd (``.csv.gz``). Any other text file is a
    table of one column called "text", a row a line. A folder holds files of one table. Values that
    are no texts are spelled as Python spells them, in every format.

    Args:
        path: A file or a folder.
        columns: Which columns.
        may_be_blank: Columns that may have blank texts; what is missing is given as an empty one.

    Yields:
        For each column the texts of the same rows, at least one.

    Raises:
        InputDataError: If the file is missing, no table, damaged or without rows, if a column is
            missing (the message has those there are), or if a text is blank (the message has its
            row, from 0, not counting the names). Blocks before it were right.
    """
    roles: dict[str, Role] = dict.fromkeys(columns, "text")
    for table in open_tables(path):
        first_row = 0
        with closing(table.batches(roles, _ROWS_AT_ONCE)) as batches:
            for batch in batches:
                block = {name: batch.column(name).to_pylist() for name in columns}
                for name in columns:
                    if name not in may_be_blank:
                        _refuse_blank_texts(table.path, name, block[name], first_row)
                first_row += batch.num_rows
                yield {name: [text or "" for text in texts] for name, texts in block.items()}
        if not first_row:
            raise InputDataError.unexpected(
                table.path, "at least one row", "none", summary="the table is empty"
            )


def known_texts(path: Path) -> set[str]:
    """Return the columns that hold texts and nothing else, as far as the format tells."""
    return {
        name
        for table in open_tables(path)
        if table.is_typed
        for name, kind in table.kinds.items()
        if kind == "text"
    }


def _refuse_blank_texts(path: Path, name: str, texts: Sequence[str | None], first_row: int) -> None:
    """Refuse texts that have nothing but white space, and missing ones."""
    for row, text in enumerate(texts, first_row):
        if text is None or not text.strip():
            raise InputDataError.unexpected(
                path,
                "a text",
                "none, or no valid Unicode" if text is None else repr(text),
                at=f"row {row}",
                summary=f"a text is empty in column {name!r}",
                advice="Fill the text in, or remove the row",
            )
