"""Strings of any length in HDF5, read without h5py's conversion.

An HDF5 data set of such strings holds a reference for each: its length, and where in the file it
lies. h5py's library allocates what a reference states before it looks, and walks a damaged heap for
ever; here nothing is believed beyond the file's size. The layouts are those of the HDF5 File Format
Specification, version 3.0, sections III.E (global heap) and IV.A.2.d (variable-length types).
"""

from __future__ import annotations

import mmap
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from lightweight_decoder.errors import InputDataError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from pathlib import Path

    import numpy.typing as npt

    Objects = dict[int, tuple[int, int]]

_HEAPS_AT_ONCE = 64
"""Heaps whose contents are remembered: a writer fills several in turn."""


class HeapTexts:
    """The strings of a one-dimensional data set, by slices, as ``dataset.asstr()`` would give them.

    Args:
        path: The file.
        memory: Its bytes.
        dataset: h5py's data set of strings of any length.
        encoding: How the strings are encoded.
    """

    def __init__(self, path: Path, memory: mmap.mmap, dataset: Any, encoding: str) -> None:  # noqa: ANN401
        created = dataset.file.id.get_create_plist()
        address_size, self._size_size = created.get_sizes()
        self._base = created.get_userblock()
        self._reference = np.dtype(
            [("length", "<u4"), ("heap", f"<u{address_size}"), ("index", "<u4")]
        )
        self._path = path
        self._memory = memory
        self._encoding = encoding
        self._num_rows = len(dataset)
        self._objects = lru_cache(_HEAPS_AT_ONCE)(self._read_heap)
        self._references = self._reader(dataset)

    def __getitem__(self, rows: slice) -> list[str]:
        """Return the strings of rows that follow each other."""
        start, end, _ = rows.indices(self._num_rows)
        references = self._references(start, end)
        total = int(references["length"].sum(dtype=np.int64))
        if total > len(self._memory):
            raise self._damage(
                "the texts cannot be in this file",
                start,
                expected=f"at most {len(self._memory)} bytes, the file's size",
                found=f"{total} bytes in rows {start} to {end - 1}",
            )
        return [self._text(start + row, *each) for row, each in enumerate(references.tolist())]

    def _text(self, row: int, length: int, heap: int, index: int) -> str:
        """Look one string up; a heap at 0 means none."""
        if heap == 0 or length == 0:
            return ""
        start, size = self._objects(heap + self._base).get(index, (0, 0))
        if length > size:
            raise self._damage(
                "a text is not where its row says",
                row,
                expected=f"{length} bytes in the heap at byte {heap + self._base}",
                found=f"{size} bytes",
            )
        stored = self._memory[start : start + length]
        return stored.partition(b"\0")[0].decode(self._encoding)

    def _read_heap(self, start: int) -> Objects:
        """Return where a heap's objects lie: (first byte, size) by index."""
        head = 8 + self._size_size
        size = self._number(start + 8, self._size_size)
        end = start + size
        if self._memory[start : start + 4] != b"GCOL" or size < head or end > len(self._memory):
            return {}
        objects: Objects = {}
        at = start + head
        while at + head <= end:
            index, length = self._number(at, 2), self._number(at + 8, self._size_size)
            if index == 0 or at + head + length > end:  # the rest is free, or damaged
                break
            objects[index] = (at + head, length)
            at += head + -(-length // 8) * 8
        return objects

    def _number(self, start: int, size: int) -> int:
        """Read an unsigned number."""
        return int.from_bytes(self._memory[start : start + size], "little")

    def _reader(self, dataset: Any) -> Callable[[int, int], npt.NDArray[np.void]]:  # noqa: ANN401
        """Return what reads the references of rows from start to end."""
        if dataset.chunks is not None:
            return lambda start, end: np.concatenate(
                list(_chunk_parts(dataset, self._reference, start, end))
            )
        offset = dataset.id.get_offset()
        if offset is None:
            raise InputDataError(
                "these texts cannot be read safely",
                where=self._path,
                expected="strings stored in chunks or in one piece",
                found=f"{dataset.name}, stored compactly in its header",
                advice="Write the data set again, without a compact layout.",
            )
        return lambda start, end: np.frombuffer(
            self._memory[
                offset + start * self._reference.itemsize : offset + end * self._reference.itemsize
            ],
            self._reference,
        )

    def _damage(self, problem: str, row: int, *, expected: str, found: str) -> InputDataError:
        """Return the error for a row whose reference cannot be right."""
        return InputDataError(
            problem,
            where=self._path,
            at=f"row {row}",
            expected=expected,
            found=found,
            advice="The file may be damaged; write it again.",
        )


@contextmanager
def mapped(path: Path) -> Generator[mmap.mmap]:
    """Map a file's bytes, to read."""
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as memory,
    ):
        yield memory


def _chunk_parts(
    dataset: Any,  # noqa: ANN401
    reference: np.dtype[np.void],
    start: int,
    end: int,
) -> Iterator[npt.NDArray[np.void]]:
    """Yield the references of rows from start to end, a chunk at a time.

    A chunk is packed by the file's filters. It is copied as it is into a data set in memory that
    has the same filters, and plain bytes where the file has strings: h5py then unpacks it without
    following it.
    """
    import h5py  # noqa: PLC0415

    (size,) = dataset.chunks
    with h5py.File("chunk", "w", driver="core", backing_store=False) as memory:
        for first in range(start - start % size, end, size):
            mask, packed = dataset.id.read_direct_chunk((first,))
            copy = _one_chunk(memory, dataset, f"V{reference.itemsize}", str(first))
            copy.id.write_direct_chunk((0,), packed, mask)
            unpacked = np.frombuffer(copy[:].tobytes(), reference)
            del memory[str(first)]
            yield unpacked[max(0, start - first) : end - first]


def _one_chunk(file: Any, dataset: Any, dtype: str, name: str) -> Any:  # noqa: ANN401
    """Create a data set of one chunk, stored as another's are."""
    import h5py  # noqa: PLC0415

    stored, plan = dataset.id.get_create_plist(), h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plan.set_chunk(dataset.chunks)
    for number in range(stored.get_nfilters()):
        code, flags, values, _ = stored.get_filter(number)
        plan.set_filter(code, flags, values)
    space = h5py.h5s.create_simple(dataset.chunks)
    made = h5py.h5d.create(file.id, name.encode(), h5py.h5t.py_create(np.dtype(dtype)), space, plan)
    return h5py.Dataset(made)
