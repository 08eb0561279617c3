"""Asks the system to read mapped vectors before they are needed."""

from __future__ import annotations

import ctypes
import mmap
import sys
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

_WINDOW_BYTES = 2**17
"""Linux reads no more for one request than the device's read-ahead window, 128 KiB by default."""


def read_ahead(rows: Tensor) -> None:
    """Start reading what is not in memory yet, and do not wait for it.

    Takes no memory of the process: what is read goes to the page cache, which all processes share.
    Does nothing for memory that is no file's, for a GPU's, and on systems other than Linux.

    Args:
        rows: (b, d), consecutive rows of a map.
    """
    madvise = _madvise()
    if madvise is None or rows.device.type != "cpu" or not len(rows):
        return
    first = rows.data_ptr() // mmap.PAGESIZE * mmap.PAGESIZE
    end = rows.data_ptr() + rows.nbytes
    for start in range(first, end, _WINDOW_BYTES):
        if madvise(start, min(_WINDOW_BYTES, end - start), mmap.MADV_WILLNEED):
            return  # advice only: what cannot be read says so when it is used


@cache
def _madvise() -> Callable[[int, int, int], int] | None:
    """The system's function by address: a tensor does not give away the map that it lies in."""
    if not sys.platform.startswith("linux"):
        return None
    function = ctypes.CDLL(None).madvise
    function.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    function.restype = ctypes.c_int
    return function
