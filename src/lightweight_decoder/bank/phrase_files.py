"""What a bank is built from: files of texts, encoded here or with vectors of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lightweight_decoder.bank import SAMPLE_ROWS, BankRows
from lightweight_decoder.encoder import report_cut_texts
from lightweight_decoder.errors import InputDataError
from lightweight_decoder.vectors.columns import ColumnType
from lightweight_decoder.vectors.text_tables import known_texts, stream_columns

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from lightweight_decoder.datatypes import FloatArray
    from lightweight_decoder.encoder.encoder import Encoder
    from lightweight_decoder.vectors import EmbeddingBlock, EmbeddingReader

_TEXTS_AT_ONCE = 4_096
_VECTORS_AT_ONCE = 4_096
"""More than a reader's default, for fewer turns; at 384 numbers a block is 6 MiB."""


class Texts(NamedTuple):
    """Texts of consecutive rows, and the same rows' values of each metadata column."""

    texts: list[str]
    metadata: dict[str, list[object]]


class TextStream:
    """The ``num_rows`` rows of a file of texts, as many at a time as are asked for."""

    def __init__(self, path: Path, blocks: Iterable[Texts], *, num_rows: int) -> None:
        self.path = path
        self.num_rows = num_rows
        self._blocks = iter(blocks)
        self._block, self._start = Texts([], {}), 0

    def take(self, count: int) -> Texts:
        """Return the next ``count`` rows, fewer at the end."""
        taken = self._take_from_block(count)
        while len(taken.texts) < count:
            block = next(self._blocks, None)
            if block is None:
                break
            self._block, self._start = block, 0
            more = self._take_from_block(count - len(taken.texts))
            taken = Texts(
                taken.texts + more.texts,
                {
                    name: taken.metadata.get(name, []) + more.metadata[name]
                    for name in more.metadata
                },
            )
        return taken

    def _take_from_block(self, count: int) -> Texts:
        """Return rows of the block at hand."""
        rows = slice(self._start, self._start + count)
        self._start = min(rows.stop, len(self._block.texts))
        metadata = {name: column[rows] for name, column in self._block.metadata.items()}
        return Texts(self._block.texts[rows], metadata)


def open_texts(
    path: Path,
    *,
    text_column: str = "text",
    metadata_columns: Sequence[str] = (),
    keep_unusable: bool = False,
) -> TextStream:
    """Open the texts of a table, or the lines of any other text file, with metadata columns.

    Both are streamed, twice: first to count the rows and check all of them, so that a bad one shows
    before hours of encoding. A metadata column in which every value is a number, and stays what it
    is as one, is a column of numbers. Blank texts are refused unless ``keep_unusable``.

    Raises:
        InputDataError: The file is missing, damaged or empty, or lacks a column.
    """
    columns = [text_column, *metadata_columns]
    may_be_blank = columns if keep_unusable else metadata_columns
    texts = known_texts(path)
    types = {name: ColumnType(is_text=name in texts) for name in metadata_columns}
    num_rows = 0
    for block in stream_columns(path, columns, may_be_blank=may_be_blank):
        num_rows += len(block[text_column])
        for name, column_type in types.items():
            column_type.add(block[name])
    blocks = (
        Texts(
            block[text_column],
            {name: column_type.values(block[name]) for name, column_type in types.items()},
        )
        for block in stream_columns(path, columns, may_be_blank=may_be_blank)
    )
    return TextStream(path, blocks, num_rows=num_rows)


def encoded_rows(texts: TextStream, encoder: Encoder) -> Iterator[BankRows]:
    """Yield blocks of texts with the vectors that the encoder makes of them."""
    while (some := texts.take(_TEXTS_AT_ONCE)).texts:
        yield BankRows(some.texts, encoder.encode_phrases(some.texts), some.metadata)
    report_cut_texts(encoder)


def encoded_sample(
    texts: TextStream, encoder: Encoder, *, num_rows: int = SAMPLE_ROWS
) -> Iterator[FloatArray]:
    """Yield vectors of texts drawn from all over the file, at random; only these are encoded."""
    size = min(num_rows, texts.num_rows)
    drawn = np.sort(np.random.default_rng(0).choice(texts.num_rows, size, replace=False))
    first_row = 0
    while (some := texts.take(_TEXTS_AT_ONCE).texts) and first_row <= drawn[-1]:
        start, stop = np.searchsorted(drawn, (first_row, first_row + len(some)))
        if start < stop:
            yield encoder.encode_phrases([some[row - first_row] for row in drawn[start:stop]])
        first_row += len(some)


def rows_with_vectors(
    texts: TextStream, vectors: EmbeddingReader, *, keep_unusable: bool = False
) -> Iterator[BankRows]:
    """Yield blocks of texts with the vectors of another file, row by row.

    Raises:
        InputDataError: The files have different numbers of rows, or the vectors are damaged.
    """
    num_rows = 0
    for block in _blocks(vectors, keep_unusable=keep_unusable):
        some = texts.take(len(block.vectors))
        if len(some.texts) < len(block.vectors):
            raise _different_lengths(texts, vectors, "more")
        num_rows += len(some.texts)
        yield BankRows(some.texts, block.vectors, some.metadata)
    if texts.take(1).texts:
        raise _different_lengths(texts, vectors, num_rows)


def rows_of_embeddings(
    vectors: EmbeddingReader, *, metadata_columns: Sequence[str] = (), keep_unusable: bool = False
) -> Iterator[BankRows]:
    """Yield blocks of vectors with the texts, and metadata, that stand beside them in their file.

    Raises:
        InputDataError: The file has no texts, lacks a column, or is damaged.
    """
    metadata = None
    if metadata_columns:
        metadata = open_texts(
            vectors.path,
            text_column=metadata_columns[0],
            metadata_columns=metadata_columns,
            keep_unusable=True,
        )
    for block in _blocks(vectors, keep_unusable=keep_unusable):
        if block.texts is None:
            choices = ", ".join(getattr(vectors, "text_choices", ()))
            raise InputDataError.unexpected(
                vectors.path,
                "a text for each vector",
                f"columns that could be: {choices}" if choices else "vectors only",
                summary="the embeddings have no texts",
                advice="Name one with text_column=…"
                if choices
                else "Name a file of texts, one a row, with input=FILE",
            )
        some = {} if metadata is None else metadata.take(len(block.texts)).metadata
        yield BankRows(block.texts, block.vectors, some)


def vectors_of_embeddings(
    vectors: EmbeddingReader, *, keep_unusable: bool = False
) -> Iterator[FloatArray]:
    """Yield blocks of vectors alone, for a sample of them."""
    return (block.vectors for block in _blocks(vectors, keep_unusable=keep_unusable))


def _blocks(vectors: EmbeddingReader, *, keep_unusable: bool) -> Iterator[EmbeddingBlock]:
    """Return the vectors, block by block."""
    return vectors.blocks(_VECTORS_AT_ONCE, on_bad_row="keep" if keep_unusable else "raise")


def _different_lengths(
    texts: TextStream, vectors: EmbeddingReader, found: object
) -> InputDataError:
    """Return the error for texts and vectors that do not belong together."""
    expected = f"{texts.num_rows} rows, as many as {texts.path} has"
    problem = "texts and vectors differ in number"
    advice = "Row i of one file belongs to row i of the other; see whether both begin alike"
    return InputDataError.unexpected(vectors.path, expected, found, summary=problem, advice=advice)
