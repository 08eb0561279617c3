"""Writes the bank's phrase table: one row per distinct text, in order of first appearance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa

from lightweight_decoder.bank.phrases import TEXT_COLUMN, TEXT_TYPE
from lightweight_decoder.errors import BankBuildError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lightweight_decoder.bank.hashed_file import HashedFile
    from lightweight_decoder.bank.manifest import FileInfo
    from lightweight_decoder.datatypes import IntArray

_BATCH_ROWS = 16_384
"""Phrases per record batch: what a look-up checks when it first touches a part of the file."""

_FREE = -1
_FIRST_CAPACITY = 2**12
_ROWS_AT_ONCE = 2**16
_GROWTH = 1.25


class PhraseWriter:
    """Gives each text its phrase id and writes new phrases to an Arrow file.

    Holds a hash of every distinct text in memory (to recognize it again), and one batch of texts
    and metadata. The type of a metadata column is that of its values in the first batch.
    """

    def __init__(self, file: HashedFile) -> None:
        self._file = file
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
        """Return the phrase id of each of b normalized texts; texts not seen before are written.

        Metadata are columns of b values each; ``rows`` (b,) are the texts' input rows, for
        messages.

        Raises:
            BankBuildError: If metadata columns do not fit their type, or the file cannot be
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
            self._writer = pa.ipc.new_file(self._file, self._schema)
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
        return BankBuildError.unexpected(
            None,
            data_type or "a number, a text or a truth value",
            repr(values[fits])[:80],
            at=f"row {self._pending_rows[fits]}",
            summary=f"a value does not fit the metadata column {name!r}",
            advice="Give the column values of one type",
        )

    def finish(self) -> FileInfo:
        """Write what is left and the file's footer, and wait for the disk."""
        if self._pending_rows:
            self._write_pending()
        if self._writer is not None:
            self._writer.close()
        return self._file.finish()


class Numbered(NamedTuple):
    """Ids of texts, and the places at which a text came for the first time."""

    ids: IntArray
    new: IntArray


class TextIndex:
    """Numbers distinct texts in the order of their first appearance.

    Keeps 128 bits of hash for each (two runs of Python's SipHash, keyed anew in each process, so
    that no input can aim at a collision): two of 10,000,000 texts are taken for one with a
    probability of 2e-25. Open addressing with double hashing, a block of texts at a time.
    """

    def __init__(self) -> None:
        self._count = 0
        self._hashes = [np.empty(_FIRST_CAPACITY, dtype=np.int64) for _ in range(2)]  # of each id
        self._slots = np.full(2 * _FIRST_CAPACITY, _FREE, dtype=np.int32)

    def __len__(self) -> int:
        return self._count

    def add(self, texts: Sequence[str]) -> Numbered:
        """Return the number b texts; the ids, (b,), of new ones go on from the highest."""
        first, last = self._count, self._count + len(texts)
        self._reserve(last)
        self._hashes[0][first:last] = np.fromiter(map(hash, texts), np.int64, len(texts))
        self._hashes[1][first:last] = [hash(text + "\n") for text in texts]
        ids = self._settle(first, last)
        # Each text took the id of its row. Close the gaps that known texts leave.
        new = np.flatnonzero(ids == np.arange(first, last))
        rank = np.zeros(len(texts), dtype=np.int64)
        rank[new] = np.arange(len(new))
        slots_of_new = self._found_slots[new]
        self._count += len(new)
        self._slots[slots_of_new] = np.arange(first, self._count)
        for hashes in self._hashes:
            hashes[first : self._count] = hashes[first + new]
        here = ids >= first
        ids[here] = first + rank[ids[here] - first]
        return Numbered(ids, new)

    def _settle(self, first: int, last: int) -> IntArray:
        """Find the ids of the texts whose hashes lie at ``first`` to ``last``, storing new ones."""
        wanted = [hashes[first:last] for hashes in self._hashes]
        mask = len(self._slots) - 1
        slots = wanted[0] & mask
        steps = wanted[1] | 1  # odd, so that they lead to every slot
        ids = np.empty(last - first, dtype=np.int64)
        left = np.arange(last - first)
        while left.size:
            here = slots[left]
            free = left[self._slots[here] == _FREE][::-1]
            self._slots[slots[free]] = first + free  # reversed: of several rows the first one stays
            stored = self._slots[here]
            is_same = (self._hashes[0][stored] == wanted[0][left]) & (
                self._hashes[1][stored] == wanted[1][left]
            )
            ids[left[is_same]] = stored[is_same]
            left = left[~is_same]
            slots[left] = (slots[left] + steps[left]) & mask
        self._found_slots = slots
        return ids

    def _reserve(self, count: int) -> None:
        """Make room for ``count`` texts, with at most half of the slots in use."""
        if count > len(self._hashes[0]):
            for hashes in self._hashes:  # in place: both old and new need not fit
                hashes.resize(int(count * _GROWTH), refcheck=False)
        if 2 * count > len(self._slots):
            num_slots = 2 ** (2 * count - 1).bit_length()
            self._slots = np.full(num_slots, _FREE, dtype=np.int32)
            for first in range(0, self._count, _ROWS_AT_ONCE):
                self._settle(first, min(first + _ROWS_AT_ONCE, self._count))
