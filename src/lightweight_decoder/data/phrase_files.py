"""What a bank is built from: files of texts, encoded here or with vectors of their own."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from lightweight_decoder.bank import BankRows
from lightweight_decoder.data.tables import TABLE_SUFFIXES, read_columns, read_lines
from lightweight_decoder.embeddings import open_embeddings
from lightweight_decoder.errors import InputDataError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from lightweight_decoder.data.base import Encoder

_TEXTS_AT_ONCE = 4_096


def read_texts(
    path: Path, *, text_column: str = "text", metadata_columns: Sequence[str] = ()
) -> tuple[list[str], dict[str, list[object]]]:
    """Returns the texts of a table, or the lines of any other file, and the metadata columns.

    A metadata column in which every value is a number is one of numbers.

    Raises:
        InputDataError: The file is missing, damaged or empty, or lacks a column.
    """
    if path.suffix.lower() not in TABLE_SUFFIXES:
        return read_lines(path), {}
    columns = read_columns(path, [text_column, *metadata_columns])
    texts = columns[text_column]
    return texts, {name: _numbers_or_texts(columns[name]) for name in metadata_columns}


def encoded_rows(
    texts: Sequence[str], metadata: dict[str, list[object]], encoder: Encoder
) -> Iterator[BankRows]:
    """Yields blocks of texts with the vectors that the encoder makes of them."""
    for first in range(0, len(texts), _TEXTS_AT_ONCE):
        rows = slice(first, first + _TEXTS_AT_ONCE)
        yield BankRows(
            texts=texts[rows],
            vectors=encoder.encode(texts[rows]),
            metadata={name: column[rows] for name, column in metadata.items()},
        )


def rows_with_vectors(
    texts: Sequence[str], metadata: dict[str, list[object]], vectors: Path, *, texts_path: Path
) -> Iterator[BankRows]:
    """Yields blocks of texts with the vectors of another file, row by row.

    Raises:
        InputDataError: The files have different numbers of rows, or the vectors are damaged.
    """
    remaining = iter(texts)
    first = 0
    for block in open_embeddings(vectors).blocks():
        some = list(islice(remaining, len(block.vectors)))
        if len(some) < len(block.vectors):
            raise _different_lengths(texts_path, vectors, len(texts), "more")
        rows = slice(first, first + len(some))
        first += len(some)
        yield BankRows(
            texts=some,
            vectors=block.vectors,
            metadata={name: column[rows] for name, column in metadata.items()},
        )
    if first < len(texts):
        raise _different_lengths(texts_path, vectors, len(texts), first)


def _numbers_or_texts(column: list[str]) -> list[object]:
    """The column as whole numbers, else as floats, else as it is."""
    for number in (int, float):
        try:
            return [number(value) for value in column]
        except ValueError:
            continue
    return list(column)


def _different_lengths(texts: Path, vectors: Path, num_texts: int, found: object) -> InputDataError:
    """The error for texts and vectors that do not belong together."""
    return InputDataError(
        "texts and vectors differ in number",
        where=vectors,
        expected=f"{num_texts} rows, as many as {texts} has",
        found=found,
        advice="Row i of one file belongs to row i of the other; remove what is too much",
    )
