"""The files of a bank as they are read: mapped, and seen as arrays."""

from __future__ import annotations

import io
import mmap
import os
import sys
import tokenize
import weakref
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from lightweight_decoder.errors import BankError
from lightweight_decoder.memory import move_limit

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

_MAP_NORESERVE: Final = 0x4000  # mmap has a name for it from Python 3.13 on
_HEADER_BYTES = 4_096
"""More than the header of an array of numbers takes."""

REBUILD = "The bank was cut or altered; copy or build it again"


def map_file(path: Path) -> mmap.mmap:
    """Map a file into memory without reading it.

    The map is private (copy on write): torch may look at it without a warning, and the file cannot
    be changed through it. No memory is set aside for such copies, so that a bank may be larger than
    the machine's memory: a plain private map of more is refused by Linux.

    Raises:
        OSError: If the file cannot be opened.
    """
    with path.open("rb") as file:
        if not sys.platform.startswith("linux"):
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        num_bytes = os.fstat(file.fileno()).st_size
        move_limit(num_bytes)
        mapped = mmap.mmap(
            file.fileno(),
            0,
            flags=mmap.MAP_PRIVATE | _MAP_NORESERVE,
            prot=mmap.PROT_READ | mmap.PROT_WRITE,
        )
    weakref.finalize(mapped, move_limit, -num_bytes)
    return mapped


def map_array(path: Path, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Map a ``.npy`` file and see it as the array that it must hold; see both functions below."""
    return array_in(map_file(path), path, shape, dtype)


def array_in(
    content: mmap.mmap | memoryview, where: Path, shape: tuple[int, ...], dtype: npt.DTypeLike
) -> npt.NDArray[Any]:
    """Return the array that the content of a ``.npy`` file holds, without reading or copying it.

    Raises:
        BankError: If it is not a plain array of that shape and dtype, such as one of objects, which
            are never loaded.
    """
    header = io.BytesIO(content[:_HEADER_BYTES])
    try:
        version = np.lib.format.read_magic(header)
        if version != (1, 0):
            raise ValueError(f"version {version}")  # noqa: TRY301
        found_shape, by_columns, found_dtype = np.lib.format.read_array_header_1_0(header)
        expected, found = (shape, np.dtype(dtype), False), (found_shape, found_dtype, by_columns)
        if expected == found:
            return np.ndarray(shape, dtype, buffer=content, offset=header.tell())
    except (ValueError, TypeError, SyntaxError, tokenize.TokenError, OverflowError) as error:
        raise _unreadable(where, "a .npy file of numbers", str(error)) from error
    raise _unreadable(where, _describe(*expected), _describe(*found))


def _describe(shape: tuple[int, ...], dtype: np.dtype[Any], by_columns: bool) -> str:  # noqa: FBT001
    """Put an array's header in words."""
    return f"shape {shape} of {dtype}{' stored by columns' if by_columns else ''}"


def _unreadable(path: Path, expected: str, found: str) -> BankError:
    """Build the error for a file that is not the array the manifest promises."""
    return BankError.unexpected(
        path, expected, found, summary="the array does not match the manifest", advice=REBUILD
    )
