"""A file of a bank, written from its start to its end: hashed on the way, resumed where it was."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, BinaryIO

from lightweight_decoder.bank.manifest import FileInfo
from lightweight_decoder.errors import BankBuildError, ResumeError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from typing_extensions import Buffer

_CHUNK_BYTES = 4 * 2**20
_MOST_WAITING = 6
"""Chunks on their way to the hash or to the disk; each is there twice, once for either."""


class OutputFile(io.RawIOBase):
    """Takes a file's bytes in order; one thread hashes them while another one writes them.

    What an interrupted build left is compared with the bytes that should be there, then written on.
    Errors of the disk come up in a later call.

    Args:
        path: File to create, or to go on with.
        kept_bytes: How many of its first bytes are known to be on the disk; the rest is cut off.
    """

    def __init__(self, path: Path, *, kept_bytes: int = 0) -> None:
        super().__init__()
        self.path = path
        self.stored_bytes = kept_bytes
        self._kept_bytes = kept_bytes
        self._num_taken = 0
        self._waiting: list[memoryview] = []
        self._num_waiting = 0
        self._hash = hashlib.sha256()
        self._jobs: deque[Future[None]] = deque()
        with reporting_full_disk(path, 0):
            self._file: BinaryIO = path.open("r+b" if kept_bytes else "wb", 0)
            if kept_bytes:
                self._file.truncate(kept_bytes)
        self._threads = (ThreadPoolExecutor(1), ThreadPoolExecutor(1))

    def writable(self) -> bool:
        """Say yes, as Arrow asks."""
        return True

    def tell(self) -> int:
        """Return how many bytes came so far."""
        return self._num_taken

    def write(self, data: Buffer, /) -> int:
        """Take the next bytes, which the caller must leave as they are.

        Raises:
            BankBuildError: If the disk took an earlier write badly.
            ResumeError: If a kept byte is another one than it should be.
        """
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

        Returns:
            The file's size and checksum; by then it is on the disk.
        """
        self._hand_over()
        while self._jobs:
            self._jobs.popleft().result()
        if self._num_taken < self._kept_bytes:
            raise self._differs(self._num_taken)
        with reporting_full_disk(self.path, len(start)):
            if self._replace_start(start):
                with self.path.open("rb") as file:
                    checksum = hashlib.file_digest(file, "sha256").hexdigest()
            else:
                checksum = self._hash.hexdigest()
            os.fsync(self._file.fileno())
        return FileInfo(bytes=self._num_taken, sha256=checksum)

    def synchronize(self) -> int:
        """Return how many bytes are on the disk for good, after waiting for them; any thread."""
        num_bytes = self.stored_bytes
        os.fsync(self._file.fileno())
        return num_bytes

    def close(self) -> None:
        """Stop where it is."""
        if self.closed:
            return
        for thread in self._threads:
            thread.shutdown(cancel_futures=True)
        with contextlib.suppress(OSError):  # the first error is the one to report
            self._file.close()
        super().close()

    def _hand_over(self) -> None:
        """Give what waits to both threads."""
        start = self._num_taken - self._num_waiting
        chunks, self._waiting, self._num_waiting = self._waiting, [], 0
        hashing, storing = self._threads
        self._jobs.append(hashing.submit(self._digest, chunks))
        self._jobs.append(storing.submit(self._store, chunks, start))

    def _digest(self, chunks: list[memoryview]) -> None:
        """Hash chunks."""
        for chunk in chunks:
            self._hash.update(chunk)

    def _store(self, chunks: list[memoryview], start: int) -> None:
        """Compare chunks with what is kept, and write what is not."""
        for chunk in chunks:
            num_kept = min(len(chunk), max(0, self._kept_bytes - start))
            with reporting_full_disk(self.path, len(chunk)):
                if num_kept and self._read(num_kept) != chunk[:num_kept]:
                    raise self._differs(start)
                rest = chunk[num_kept:]
                while rest:
                    rest = rest[self._file.write(rest) :]
            start += len(chunk)
            self.stored_bytes = max(start, self._kept_bytes)

    def _read(self, num_bytes: int) -> bytes:
        """Return the next bytes of the file, fewer at its end."""
        parts = []
        while num_bytes and (part := self._file.read(num_bytes)):
            parts.append(part)
            num_bytes -= len(part)
        return b"".join(parts)

    def _replace_start(self, start: bytes) -> bool:
        """Write the first bytes anew if they are others; say whether they were."""
        with self.path.open("rb") as file:
            if file.read(len(start)) == start:
                return False
        self._file.seek(0)
        self._file.write(start)
        return True

    def _differs(self, position: int) -> ResumeError:
        """Build the error for rows that are not those of the interrupted build."""
        return ResumeError(
            "the interrupted build was of other rows",
            where=self.path,
            at=f"byte {position}",
            expected="the texts, vectors and options that it was started with",
            found="something else",
            advice="Start anew without resume=true, or name the same input and options",
        )


@contextlib.contextmanager
def reporting_full_disk(path: Path, needed_bytes: int) -> Iterator[None]:
    """Turn a failed write of ``needed_bytes`` bytes to ``path`` into an error of ours."""
    try:
        yield
    except OSError as error:
        free = shutil.disk_usage(path.parent).free if path.parent.is_dir() else 0
        raise BankBuildError(
            "the file cannot be written",
            where=path,
            expected=f"room for {needed_bytes:,} more bytes",
            found=f"{error.strerror or error} ({free:,} bytes free)",
            advice="Free some space or choose another output folder; nothing half-made was kept",
        ) from error
