"""Writes the bank's phrase table: one row per distinct text, in order of first appearance."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, BinaryIO, Self

import numpy as np
import pyarrow as pa

from lightweight_decoder.bank.arrays import flush_to_disk, reporting_full_disk
from lightweight_decoder.bank.normalization import is_storable, normalize_text
from lightweight_decoder.bank.phrases import TEXT_COLUMN, TEXT_TYPE
from lightweight_decoder.errors import BankBuildError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

    from lightweight_decoder.datatypes import IntArray

_BATCH_ROWS = 16_384
"""Phrases per record batch: what a look-up checks when it first touches a part of the file."""


class PhraseWriter:
    """Gives each text its phrase id and writes new phrases to an Arrow file.

    Holds every distinct text in memory (to recognize it again) and one batch of metadata. The type
    of a metadata column is that of its values in the first batch.

    Args:
        path: File to create.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._id_of: dict[str, int] = {}
        self._pending: dict[str, list[object]] = {}
        self._pending_rows: list[int] = []  # the input row of each pending phrase, for messages
        self._schema: pa.Schema | None = None
        self._writer: Any = None
        self._file: BinaryIO

    def __enter__(self) -> Self:
        with reporting_full_disk(self.path, 0):
            self._file = self.path.open("wb")
        return self

    @property
    def num_phrases(self) -> int:
        """How many distinct texts there were so far."""
        return len(self._id_of)

    def add(
        self, texts: Sequence[str], metadata: Mapping[str, Sequence[object]], *, first_row: int
    ) -> IntArray:
        """Return the phrase id of each text; texts not seen before are written.

        Raises:
            BankBuildError: If a text is empty or not a text, if metadata columns change or do not
                fit their type, or if the file cannot be written.
        """
        self._check_columns(texts, metadata, first_row)
        phrase_ids = np.empty(len(texts), dtype=np.int64)
        for i, text in enumerate(texts):
            key = _checked_text(text, first_row + i)
            new_id = len(self._id_of)
            phrase_ids[i] = self._id_of.setdefault(key, new_id)
            if phrase_ids[i] == new_id:
                self._pending[TEXT_COLUMN].append(key)
                for name, values in metadata.items():
                    self._pending[name].append(values[i])
                self._pending_rows.append(first_row + i)
                if len(self._pending_rows) == _BATCH_ROWS:
                    self._write_pending()
        return phrase_ids

    def _check_columns(
        self, texts: Sequence[str], metadata: Mapping[str, Sequence[object]], first_row: int
    ) -> None:
        """Refuse columns that differ from the first block's or from the number of texts."""
        at = f"rows from {first_row}"
        if TEXT_COLUMN in metadata:
            raise BankBuildError(
                f"a metadata column may not be called {TEXT_COLUMN!r}",
                at=at,
                advice="Give the column another name; this one holds the phrases",
            )
        for name, values in metadata.items():
            if len(values) != len(texts):
                expected = f"{len(texts)} values (one per text)"
                raise BankBuildError(
                    f"the metadata column {name!r} has another length",
                    at=at,
                    expected=expected,
                    found=len(values),
                )
        if not self._pending:
            self._pending = {name: [] for name in (TEXT_COLUMN, *metadata)}
        if set(self._pending) != {TEXT_COLUMN, *metadata}:
            raise BankBuildError(
                "the metadata columns change",
                at=at,
                expected=sorted(set(self._pending) - {TEXT_COLUMN}),
                found=sorted(metadata),
            )

    def _write_pending(self) -> None:
        """Write the phrases gathered so far as one record batch."""
        if self._schema is None:
            self._schema = self._inferred_schema()
            with reporting_full_disk(self.path, 0):
                self._writer = pa.ipc.new_file(self._file, self._schema)
        arrays = [
            self._to_array(name, self._pending[name], self._schema.field(name).type)
            for name in self._schema.names
        ]
        batch = pa.record_batch(arrays, schema=self._schema)
        with reporting_full_disk(self.path, batch.nbytes):
            self._writer.write_batch(batch)
        self._pending = {name: [] for name in self._pending}
        self._pending_rows = []

    def _inferred_schema(self) -> pa.Schema:
        """Choose each metadata column's type by its first values; texts where all are missing."""
        fields = [(TEXT_COLUMN, TEXT_TYPE)]
        for name in list(self._pending)[1:]:
            inferred = self._to_array(name, self._pending[name], None).type
            fields.append((name, pa.string() if inferred == pa.null() else inferred))
        return pa.schema(fields)

    def _to_array(self, name: str, values: list[object], data_type: Any) -> Any:  # noqa: ANN401, pyarrow has no types
        """Convert one column, or name the first row that does not fit."""
        try:
            return pa.array(values, type=data_type)
        except (pa.ArrowException, OverflowError, UnicodeEncodeError, TypeError) as error:
            raise self._misfit(name, values, data_type) from error

    def _misfit(self, name: str, values: list[object], data_type: Any) -> BankBuildError:  # noqa: ANN401
        """Find the first value at which the conversion of a column fails."""
        fits, fails = 0, len(values)
        while fails - fits > 1:  # values[:fits] convert, values[:fails] do not
            middle = (fits + fails) // 2
            try:
                known = pa.array(values[:middle], type=data_type).type
            except (pa.ArrowException, OverflowError, UnicodeEncodeError, TypeError):
                fails = middle
            else:
                fits, data_type = middle, data_type or (known if known != pa.null() else None)
        return BankBuildError(
            f"a value does not fit the metadata column {name!r}",
            at=f"row {self._pending_rows[fits]}",
            expected=data_type or "a number, a text or a truth value",
            found=repr(values[fits])[:80],
            advice="Give the column values of one type",
        )

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if error_type is None:
                self._finish()
        finally:
            # The first error is the one to report; closing may well hit the same full disk again.
            with contextlib.suppress(OSError, pa.ArrowException):
                if self._writer is not None:
                    self._writer.close()
            with contextlib.suppress(OSError):
                self._file.close()

    def _finish(self) -> None:
        """Write what is left and the file's footer."""
        if self._pending_rows:
            self._write_pending()
        with reporting_full_disk(self.path, 0):
            if self._writer is not None:
                self._writer.close()
            flush_to_disk(self._file)


def _checked_text(text: object, row: int) -> str:
    """Return a text in its normal form, or refuse it."""
    key = normalize_text(text) if isinstance(text, str) else ""
    if not key or not is_storable(key):
        raise BankBuildError(
            "a text cannot be a phrase",
            at=f"row {row}",
            expected="a text with something besides white space, in valid Unicode",
            found=repr(text)[:80],
            advice="Remove the row or repair its text",
        )
    return key
