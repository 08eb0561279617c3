"""Writes the bank's phrase table: one row per distinct text, in order of first appearance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa

from lightweight_decoder.bank.output_file import OutputFile
from lightweight_decoder.bank.phrases import TEXT_COLUMN, TEXT_TYPE
from lightweight_decoder.bank.text_index import TextIndex
from lightweight_decoder.errors import BankBuildError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from lightweight_decoder.bank.manifest import FileInfo
    from lightweight_decoder.datatypes import IntArray

_BATCH_ROWS = 16_384
"""Phrases per record batch: what a look-up checks when it first touches a part of the file."""


class PhraseWriter:
    """Gives each text its phrase id and writes new phrases to an Arrow file.

    Holds a hash of every distinct text in memory (to recognize it again), and one batch of texts
    and metadata. The type of a metadata column is that of its values in the first batch.

    Args:
        path: File to create, or to go on with.
        kept_bytes: As for :class:`~lightweight_decoder.bank.output_file.OutputFile`.
    """

    def __init__(self, path: Path, *, kept_bytes: int = 0) -> None:
        self.file = OutputFile(path, kept_bytes=kept_bytes)
        self._index = TextIndex()
        self._pending: dict[str, list[object]] = {}
        self._pending_rows: list[int] = []  # the input row of each pending phrase, for messages
        self._schema: pa.Schema | None = None
        self._writer: Any = None

    @property
    def num_phrases(self) -> int:
        """How many distinct texts there were so far."""
        return len(self._index)

    def add(
        self, texts: Sequence[str], metadata: Mapping[str, Sequence[object]], rows: IntArray
    ) -> IntArray:
        """Return the phrase id of each text; texts not seen before are written.

        Args:
            texts: b texts, normalized.
            metadata: Columns of b values each.
            rows: (b,) the input row of each text, for messages.

        Raises:
            BankBuildError: If metadata columns do not fit their type, or if the file cannot be
                written.
        """
        if not self._pending:
            self._pending = {name: [] for name in (TEXT_COLUMN, *metadata)}
        phrase_ids, new = self._index.add(texts)
        for name, values in {TEXT_COLUMN: texts, **metadata}.items():
            all_new = len(new) == len(texts)
            self._pending[name].extend(values if all_new else [values[i] for i in new.tolist()])
        self._pending_rows.extend(rows[new].tolist())
        while len(self._pending_rows) >= _BATCH_ROWS:
            self._write_pending()
        return phrase_ids

    def _write_pending(self) -> None:
        """Write the phrases gathered first as one record batch."""
        batch = {name: values[:_BATCH_ROWS] for name, values in self._pending.items()}
        if self._schema is None:
            self._schema = self._inferred_schema(batch)
            self._writer = pa.ipc.new_file(self.file, self._schema)
        arrays = [
            self._to_array(name, batch[name], self._schema.field(name).type)
            for name in self._schema.names
        ]
        self._writer.write_batch(pa.record_batch(arrays, schema=self._schema))
        self._pending = {name: values[_BATCH_ROWS:] for name, values in self._pending.items()}
        self._pending_rows = self._pending_rows[_BATCH_ROWS:]

    def _inferred_schema(self, batch: dict[str, list[object]]) -> pa.Schema:
        """Choose each metadata column's type by its first values; texts where all are missing."""
        fields = [(TEXT_COLUMN, TEXT_TYPE)]
        for name in list(batch)[1:]:
            inferred = self._to_array(name, batch[name], None).type
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

    def finish(self) -> FileInfo:
        """Write what is left and the file's footer, and wait for the disk."""
        if self._pending_rows:
            self._write_pending()
        if self._writer is not None:
            self._writer.close()
        return self.file.finish()

    def close(self) -> None:
        """Stop where it is."""
        self.file.close()
