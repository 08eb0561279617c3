"""Recognizes texts that came before, in about 30 bytes for each."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lightweight_decoder.datatypes import IntArray

_FREE = -1
_FIRST_CAPACITY = 2**12
_ROWS_AT_ONCE = 2**16
_GROWTH = 1.25


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
