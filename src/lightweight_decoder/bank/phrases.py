"""The bank's phrase table: texts and metadata in a memory-mapped Arrow file."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lightweight_decoder.bank.manifest import REBUILD
from lightweight_decoder.datatypes import NO_ID
from lightweight_decoder.errors import BankError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy.typing as npt

    from lightweight_decoder.bank.stored_file import StoredFile
    from lightweight_decoder.datatypes import IntArray


TEXT_COLUMN = "text"
TEXT_TYPE = pa.large_string()  # 64-bit offsets: no limit on the bytes in one record batch


class PhraseTable:
    """Read access to ``phrases.arrow``, p rows of it; only what is asked for is read.

    Raises:
        BankError: If the file is damaged, has another number of rows or no column of texts.
    """

    def __init__(self, file: StoredFile, *, num_phrases: int) -> None:
        self._file, self._path = file, file.path
        self._checked: set[int] = set()
        file.require(file.info.bytes - 1)  # the footer
        content = pa.py_buffer(file.content)
        try:
            self._reader = pa.ipc.open_file(content)
            self._batches = [
                self._reader.get_batch(i) for i in range(self._reader.num_record_batches)
            ]
            self._names: list[str] = self._reader.schema.names
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise _damaged(self._path, "an Arrow IPC file", str(error).splitlines()[0]) from error
        self._starts = np.cumsum([0, *(batch.num_rows for batch in self._batches)])
        ends = [0, *(_end(batch) - content.address for batch in self._batches)]
        self._ends = np.clip(ends, 0, file.info.bytes).tolist()
        self._check(num_phrases)

    def _check(self, num_phrases: int) -> None:
        """Compare the table's outline with what the bank needs."""
        schema = self._reader.schema
        index = schema.get_field_index(TEXT_COLUMN)
        if index < 0 or schema.field(index).type != TEXT_TYPE:
            expected = f"one column {TEXT_COLUMN!r} of {TEXT_TYPE}"
            found = ", ".join(f"{field.name}: {field.type}" for field in schema)
            raise _damaged(self._path, expected, found)
        if self._starts[-1] != num_phrases:
            raise _damaged(self._path, f"{num_phrases} rows", f"{self._starts[-1]} rows")

    @property
    def column_names(self) -> tuple[str, ...]:
        """Names of the metadata columns."""
        return tuple(name for name in self._names if name != TEXT_COLUMN)

    def texts(self, phrase_ids: IntArray) -> npt.NDArray[np.object_]:
        """Look up the texts of phrases, shaped like the ids; ``NO_ID`` gives an empty text."""
        unique, inverse = np.unique(phrase_ids, return_inverse=True)
        texts = np.full(len(unique), "", dtype=object)
        taken = self._taken(self._names.index(TEXT_COLUMN), unique[unique != NO_ID])
        texts[unique != NO_ID] = [text for chunk in taken for text in chunk.to_pylist()]
        return texts[inverse].reshape(np.shape(phrase_ids))

    def column(self, name: str, phrase_ids: IntArray | None = None) -> npt.NDArray[Any]:
        """Read one column, (p,), or its values of (m,) phrases."""
        if name not in self.column_names:
            expected = f"one of {', '.join(self.column_names) or '(the bank has none)'}"
            problem = f"the bank has no column {name!r}"
            raise BankError.unexpected(self._path, expected, name, summary=problem)
        index = self._names.index(name)
        if phrase_ids is None:
            chunks = [self._batch(number).column(index) for number in range(len(self._batches))]
            return pa.chunked_array(chunks).to_numpy()  # type: ignore[no-any-return]
        unique, inverse = np.unique(phrase_ids, return_inverse=True)
        kind = self._reader.schema.field(index).type
        found = pa.chunked_array(self._taken(index, unique), type=kind).to_numpy()
        return found[inverse]  # type: ignore[no-any-return]

    def _taken(self, column: int, phrase_ids: IntArray) -> list[Any]:
        """Return a column's values of phrases, ascending, in one array for each record batch."""
        for wrong in phrase_ids[(phrase_ids < 0) | (phrase_ids >= self._starts[-1])][:1]:
            expected = f"a phrase id from 0 to {self._starts[-1] - 1}"
            problem = "there is no such phrase"
            raise BankError.unexpected(self._path, expected, wrong, summary=problem)
        # Without pa.array and to_numpy, which import pandas where it is installed: half a second.
        batches = np.searchsorted(self._starts, phrase_ids, side="right") - 1
        taken = []
        for number in np.unique(batches):
            rows = np.ascontiguousarray(phrase_ids[batches == number] - self._starts[number])
            buffers = [None, pa.py_buffer(rows)]
            chosen = pa.Array.from_buffers(pa.int64(), len(rows), buffers)
            taken.append(self._batch(number).column(column).take(chosen))
        return taken

    def find(self, texts: Sequence[str]) -> IntArray:
        """Find the rows of texts, (len(texts),), ``NO_ID`` where absent."""
        # The hash table is built over what is asked, not over the bank, which may be huge.
        normalized = [normalize_text(text) for text in texts]
        wanted = {text: i for i, text in enumerate(dict.fromkeys(filter(is_storable, normalized)))}
        row_of = np.full(len(wanted) + 1, NO_ID, dtype=np.int64)
        value_set = pa.array(wanted, type=TEXT_TYPE)
        for number, start in enumerate(self._starts[:-1]):
            column = self._batch(number).column(TEXT_COLUMN)
            matches = pc.index_in(column, value_set=value_set).fill_null(-1).to_numpy()
            rows = np.flatnonzero(matches >= 0)
            row_of[matches[rows]] = start + rows
        return row_of[[wanted.get(text, len(wanted)) for text in normalized]]

    def _batch(self, number: int) -> Any:  # noqa: ANN401, pyarrow has no types
        """Return a record batch, checked in full when it is first used."""
        batch = self._batches[number]
        self._file.require(self._ends[number], self._ends[number + 1])
        if number not in self._checked:
            try:
                batch.validate(full=True)  # a wrong offset would read outside of the file
            except pa.ArrowException as error:
                row = int(self._starts[number])
                found = str(error).splitlines()[0]
                raise _damaged(self._path, "valid texts", found, row=row) from error
            self._checked.add(number)
        return batch


def _end(batch: Any) -> int:  # noqa: ANN401, pyarrow has no types
    """Return the address behind the last byte of a record batch."""
    buffers = [buffer for column in batch.columns for buffer in column.buffers() if buffer]
    return max((buffer.address + buffer.size for buffer in buffers), default=0)


def _damaged(path: Path, expected: str, found: str, row: int | None = None) -> BankError:
    """Build the error for a table that is not as it was written."""
    at = None if row is None else f"row {row}"
    summary = "a phrase is damaged" if at else "the phrase table does not match the manifest"
    return BankError.unexpected(path, expected, found, at=at, summary=summary, advice=REBUILD)


_ODD_SPACE = ("  ", "\n ", " \n", "\n\n", *"\t\v\f\r\x1c\x1d\x1e\x1f")
"""What lines of ASCII have only where a text is blank or its white space is not normalized."""


def normalize_text(text: str) -> str:
    r"""Bring a text into the form in which texts of a bank are compared.

    Unicode NFC; every run of white space becomes one space; none at the ends.

    >>> normalize_text("  cafe\u0301\n au  lait ")
    'café au lait'
    """
    return " ".join(unicodedata.normalize("NFC", text).split())


def is_storable(text: str) -> bool:
    """Say whether a text can be written as UTF-8; a lone surrogate cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def normalize_texts(texts: Sequence[object]) -> list[str | None]:
    """Normalize many texts; None where one is no text, is blank or is not valid Unicode."""
    normalized: list[str | None] = list(texts)  # type: ignore[arg-type]
    if not _are_plain(normalized):
        for row, text in enumerate(texts):
            key = normalize_text(text) if isinstance(text, str) else ""
            normalized[row] = key if key and is_storable(key) else None
    return normalized


def _are_plain(texts: list[str | None]) -> bool:
    """Say whether all texts are ASCII with nothing but single spaces between words.

    Eight times as fast as looking at them one by one, as each question is one search in C.
    """
    try:
        lines = "\n".join(["", *texts, ""])  # type: ignore[list-item]
    except TypeError:
        return False
    return (
        lines.isascii()
        and lines.count("\n") == len(texts) + 1
        and not any(odd in lines for odd in _ODD_SPACE)
    )
