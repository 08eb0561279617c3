"""A file of an open bank: mapped, watched, checked when it is first read, and seen as an array."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import mmap
import os
import sys
import time
import tokenize
import weakref
import zlib
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from lightweight_decoder.bank.manifest import REBUILD
from lightweight_decoder.errors import BankError
from lightweight_decoder.files import open_regular, user_cache_dir, whole_file
from lightweight_decoder.memory import move_limit

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy.typing as npt

    from lightweight_decoder.bank.manifest import FileInfo

_MAP_NORESERVE: Final = 0x4000  # mmap has a name for it from Python 3.13 on
_HEADER_BYTES = 4_096
"""More than the header of an array of numbers takes."""
_SETTLED_S = 2.0
"""A file that changed later than that before it was opened could change again in the same tick."""


class StoredFile:
    """A file of a bank, in memory or mapped.

    Of a mapped file, the sums of its blocks are compared when they are first read. That all of them
    were right is remembered in the user's cache, for as long as the system says that the file did
    not change: reading 500 MB takes 0.06 s where one core multiplies, and summing them 0.14 s, so
    that it would be felt in every process, and is in the first one only.

    Args:
        content: What is in it.
        path: Its name, for messages and in the cache.
        info: What the manifest says of it.
        status: What the system said of a mapped file when it was opened; None: in memory.
    """

    def __init__(
        self,
        content: mmap.mmap | memoryview,
        path: Path,
        info: FileInfo,
        status: os.stat_result | None = None,
    ) -> None:
        self.content = content
        self.path = path
        self.info = info
        self._status = status

    @classmethod
    def map(cls, path: Path, info: FileInfo) -> StoredFile:
        """Map a file, if it is a regular one of the size that it must have."""
        expected = f"{info.bytes} bytes"
        try:
            with open_regular(path) as file:
                status = os.fstat(file.fileno())
                if status.st_size == info.bytes:
                    return cls(_mapped(file.fileno(), status.st_size), path, info, status)
        except OSError as error:
            raise mismatch(path, expected, error.strerror) from error
        raise mismatch(path, expected, f"{status.st_size} bytes")

    def check_whole(self) -> None:
        """Compare the checksum of the whole file."""
        found = hashlib.sha256(self.content).hexdigest()
        if found != self.info.sha256:
            raise mismatch(self.path, f"sha256 {self.info.sha256}", f"sha256 {found}")
        self._unread = set()

    def take_as_right(self) -> None:
        """Do not check again what was read and compared."""
        if self._unread:
            self._unread = set()
            self._remember()

    def require(self, start: int = 0, stop: int | None = None) -> None:
        """Make sure that the file is there in full, and that bytes ``start`` to ``stop`` are right.

        Raises:
            BankError: If the file was cut while it was open, or a block that was not read before
                has another sum.
        """
        self.require_size()
        if self._unread and self.info.blocks is not None:
            size = self.info.blocks.bytes
            last = (self.info.bytes if stop is None else stop) - 1
            for block in range(start // size, last // size + 1):
                if block in self._unread:
                    for problem in self.wrong_block(block):
                        raise problem
                    self._unread.discard(block)
            if not self._unread:
                self._remember()

    def require_size(self) -> None:
        """Make sure that the file is still there in full: reading what is not ends the process."""
        if isinstance(self.content, mmap.mmap) and self.content.size() < self.info.bytes:
            found = f"{self.content.size()} bytes: it was cut while it was open"
            raise mismatch(self.path, f"{self.info.bytes} bytes", found)

    def wrong_block(self, block: int) -> Iterator[BankError]:
        """Yield an error if the sum of a block is another one."""
        sums = self.info.blocks
        assert sums is not None  # noqa: S101, who asks knows that there are blocks
        start, stop = block * sums.bytes, min((block + 1) * sums.bytes, self.info.bytes)
        found = zlib.crc32(memoryview(self.content)[start:stop])
        if found != sums[block]:
            expected, at = f"crc32 {sums[block]:08x}", f"bytes {start} to {stop - 1}"
            yield mismatch(self.path, expected, f"crc32 {found:08x}", at=at)

    @cached_property
    def _unread(self) -> set[int]:
        """Blocks that are to be checked when they are read."""
        if self._status is None or self.info.blocks is None or self._is_remembered():
            return set()
        return set(range(len(self.info.blocks)))

    @property
    def _memo(self) -> Path:
        """Where it is remembered that this file was right."""
        name = hashlib.blake2b(os.fsencode(self.path), digest_size=16).hexdigest()
        return user_cache_dir() / "checked" / f"{name}.json"

    @property
    def _state(self) -> list[object]:
        """What the system changes when the file changes, and what the file must hold."""
        status = self._status
        assert status is not None  # noqa: S101, asked of mapped files only
        inode = [status.st_dev, status.st_ino, status.st_size]
        return [*inode, status.st_mtime_ns, status.st_ctime_ns, self.info.sha256]

    def _is_remembered(self) -> bool:
        """Say whether the file was right when it was as it is."""
        try:
            with open_regular(self._memo) as file:
                known: object = json.loads(file.read())
        except (OSError, ValueError):
            return False
        return known == self._state

    def _remember(self) -> None:
        """Note that the file is right as it is, where that is possible."""
        status = self._status
        if status is None or time.time() - max(status.st_mtime, status.st_ctime) < _SETTLED_S:
            return
        with contextlib.suppress(OSError, BankError):
            self._memo.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(self._memo, error=BankError) as partial:
                partial.write_text(json.dumps(self._state))


def _mapped(descriptor: int, num_bytes: int) -> mmap.mmap:
    """Map an open file into memory without reading it.

    The map is private (copy on write): torch may look at it without a warning, and the file cannot
    be changed through it. No memory is set aside for such copies, so that a bank may be larger than
    the machine's memory: a plain private map of more is refused by Linux.
    """
    if not sys.platform.startswith("linux"):
        return mmap.mmap(descriptor, 0, access=mmap.ACCESS_COPY)
    move_limit(num_bytes)
    flags, access = mmap.MAP_PRIVATE | _MAP_NORESERVE, mmap.PROT_READ | mmap.PROT_WRITE
    mapped = mmap.mmap(descriptor, num_bytes, flags=flags, prot=access)
    weakref.finalize(mapped, move_limit, -num_bytes)
    return mapped


def array_in(file: StoredFile, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Return the array that a ``.npy`` file holds, without reading or copying it.

    Raises:
        BankError: If it is no array of that shape and dtype; those of objects are never loaded.
    """
    header = io.BytesIO(file.content[:_HEADER_BYTES])
    try:
        version = np.lib.format.read_magic(header)
        if version != (1, 0):
            raise ValueError(f"version {version}")  # noqa: TRY301
        found_shape, by_columns, found_dtype = np.lib.format.read_array_header_1_0(header)
        expected, found = (shape, np.dtype(dtype), False), (found_shape, found_dtype, by_columns)
        if expected == found:
            return np.ndarray(shape, dtype, buffer=file.content, offset=header.tell())
    except (ValueError, TypeError, SyntaxError, tokenize.TokenError, OverflowError) as error:
        raise _unreadable(file.path, "a .npy file of numbers", str(error)) from error
    raise _unreadable(file.path, _describe(*expected), _describe(*found))


def _describe(shape: tuple[int, ...], dtype: np.dtype[Any], by_columns: bool) -> str:  # noqa: FBT001
    """Put an array's header in words."""
    return f"shape {shape} of {dtype}{' stored by columns' if by_columns else ''}"


def _unreadable(path: Path, expected: str, found: str) -> BankError:
    """Build the error for a file that is not the array the manifest promises."""
    return BankError.unexpected(
        path, expected, found, summary="the array does not match the manifest", advice=REBUILD
    )


def mismatch(path: Path, expected: str, found: str | None, *, at: str | None = None) -> BankError:
    """Build the error for a file that differs from the manifest."""
    summary = "the file does not match the manifest"
    return BankError.unexpected(path, expected, found, at=at, summary=summary, advice=REBUILD)
