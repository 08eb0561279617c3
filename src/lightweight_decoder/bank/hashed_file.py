"""A file of a bank on its way out: hashed while it is written."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
import zlib
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from lightweight_decoder.bank.manifest import BlockSums, FileInfo
from lightweight_decoder.errors import BankBuildError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy.typing as npt
    from typing_extensions import Buffer

_CHUNK_BYTES = 4 * 2**20
_MOST_WAITING = 6
"""Chunks on their way to the hash or to the disk; each is there twice, once for either."""

BLOCK_BYTES = 8 * 2**20
"""Of what has a sum of its own, more than a header: a million rows of 384 numbers have 184."""

NPY_HEADER_BYTES = 128
"""Room for the header of any array we write; a multiple of 64, so that the data stays aligned."""


class HashedFile(io.RawIOBase):
    """Takes a file's bytes in order; one thread hashes them while another one writes them.

    Errors of the disk come up in a later call. Who opened the file, empty, for reading and writing,
    closes it; ``path`` is its name, for messages.
    """

    def __init__(self, file: BinaryIO, path: Path) -> None:
        super().__init__()
        self._path = path
        self._file = file
        self._num_taken = 0
        self._waiting: list[memoryview] = []
        self._num_waiting = 0
        self._hash = hashlib.sha256()
        self._sums = _SumsByBlock()
        self._jobs: deque[Future[None]] = deque()
        self._threads = (ThreadPoolExecutor(1), ThreadPoolExecutor(1))

    def writable(self) -> bool:
        """Say yes, as Arrow asks."""
        return True

    def tell(self) -> int:
        """Return how many bytes came so far."""
        return self._num_taken

    def write(self, data: Buffer, /) -> int:
        """Take the next bytes, which must stay as they are; errors of earlier ones come up."""
        chunk = memoryview(data).cast("B")
        self._num_taken += len(chunk)
        self._num_waiting += len(chunk)
        self._waiting.append(chunk)
        if self._num_waiting >= _CHUNK_BYTES:
            self._hand_over()
            while len(self._jobs) > _MOST_WAITING:
                self._jobs.popleft().result()
        return len(chunk)

    def finish(self, start: bytes = b"") -> FileInfo:
        """Write what is left, and the first bytes anew where they are not ``start``.

        Returns the file's size and checksum; by then it is on the disk.
        """
        self._hand_over()
        while self._jobs:
            self._jobs.popleft().result()
        with reporting_full_disk(self._path, len(start)):
            self._file.seek(0)
            if self._file.read(len(start)) != start:
                self._file.seek(0)
                self._file.write(start)
                self._file.seek(0)
                self._hash = hashlib.file_digest(self._file, "sha256")  # type: ignore[arg-type] # any file will do
                self._file.seek(0)
                self._sums.replace_first(self._file.read(BLOCK_BYTES))
            with contextlib.suppress(io.UnsupportedOperation):  # one in memory
                os.fsync(self._file.fileno())
        return FileInfo(self._num_taken, self._hash.hexdigest(), self._sums.finish())

    def close(self) -> None:
        """Stop where it is."""
        for thread in self._threads:
            thread.shutdown(cancel_futures=True)
        super().close()

    def _hand_over(self) -> None:
        """Give what waits to both threads."""
        chunks, self._waiting, self._num_waiting = self._waiting, [], 0
        hashing, storing = self._threads
        self._jobs.append(hashing.submit(self._digest, chunks))
        self._jobs.append(storing.submit(self._store, chunks))

    def _digest(self, chunks: list[memoryview]) -> None:
        """Hash chunks."""
        for chunk in chunks:
            self._hash.update(chunk)
            self._sums.update(chunk)

    def _store(self, chunks: list[memoryview]) -> None:
        """Write chunks."""
        for chunk in chunks:
            rest = chunk
            with reporting_full_disk(self._path, len(chunk)):
                while rest:
                    rest = rest[self._file.write(rest) :]


class _SumsByBlock:
    """Sums of a file's blocks, of bytes that come in pieces of any size."""

    def __init__(self) -> None:
        self._sums: list[int] = []
        self._current, self._room = 0, BLOCK_BYTES

    def update(self, data: memoryview) -> None:
        """Take the next bytes."""
        while data:
            piece, data = data[: self._room], data[self._room :]
            self._current = zlib.crc32(piece, self._current)
            self._room -= len(piece)
            if not self._room:
                self._sums.append(self._current)
                self._current, self._room = 0, BLOCK_BYTES

    def replace_first(self, block: bytes) -> None:
        """Sum up the first block anew."""
        if self._sums:
            self._sums[0] = zlib.crc32(block)
        else:
            self._current = zlib.crc32(block)

    def finish(self) -> BlockSums:
        """Return the sums of all blocks, the last one too."""
        last = [self._current] if self._room < BLOCK_BYTES else []
        return BlockSums(BLOCK_BYTES, "".join(f"{crc:08x}" for crc in self._sums + last))


class NpyWriter:
    """Appends rows to a ``.npy`` file whose number of rows is known for sure only at the end.

    Args:
        file: Where they go.
        expected_rows: How many rows will come, as far as known. The header is written first; if it
            was right the file need not be read again for its checksum.
    """

    def __init__(self, file: HashedFile, *, expected_rows: int | None = None) -> None:
        self._file = file
        self._row_shape: tuple[int, ...] = ()
        self._dtype: np.dtype[Any] | None = None
        self._expected_rows = expected_rows or 0
        self._num_rows = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array so far."""
        return (self._num_rows, *self._row_shape)

    def append(self, rows: npt.NDArray[Any]) -> None:
        """Write ``rows``, (b, ...), behind the others: in the background, so they must stay."""
        if self._dtype is None:
            self._dtype, self._row_shape = rows.dtype, rows.shape[1:]
            self._file.write(_header((self._expected_rows, *self._row_shape), self._dtype))
        self._num_rows += len(rows)
        self._file.write(np.ascontiguousarray(rows).view(np.uint8).reshape(-1).data)

    def finish(self) -> FileInfo:
        """Write the header if it turned out wrong, and wait for the disk."""
        assert self._dtype is not None  # noqa: S101, no file is finished without rows
        return self._file.finish(_header(self.shape, self._dtype))


def _header(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bytes:
    """Return a version 1.0 header of exactly the reserved size."""
    buffer = io.BytesIO()
    description = {
        "shape": shape,
        "fortran_order": False,
        "descr": np.lib.format.dtype_to_descr(dtype),
    }
    np.lib.format.write_array_header_1_0(buffer, description)
    header = buffer.getvalue()
    if len(header) != NPY_HEADER_BYTES:
        raise AssertionError(f"numpy wrote a header of {len(header)} bytes")
    return header


@contextlib.contextmanager
def reporting_full_disk(path: Path, needed_bytes: int) -> Iterator[None]:
    """Turn a failed write of ``needed_bytes`` bytes to ``path`` into an error of ours."""
    try:
        yield
    except OSError as error:
        free = shutil.disk_usage(path.parent).free if path.parent.is_dir() else 0
        raise BankBuildError.unexpected(
            path,
            f"room for {needed_bytes:,} more bytes",
            f"{error.strerror or error} ({free:,} bytes free)",
            summary="the file cannot be written",
            advice="Free some space or choose another output folder; nothing half-made was kept",
        ) from error
