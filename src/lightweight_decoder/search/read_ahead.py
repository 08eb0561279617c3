"""Asks the system to read mapped vectors before they are needed."""

from __future__ import annotations

import ctypes
import mmap
import sys
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

_WINDOW_PAGES = max(1, 2**17 // mmap.PAGESIZE)
"""Linux reads no more for one request than the device's read-ahead window, 128 KiB by default."""


def read_ahead(rows: Tensor) -> None:
    """Start reading what is not in memory yet, and do not wait for it.

    Takes no memory of the process: what is read goes to the page cache, which all processes share.
    Does nothing for memory that is no file's, for a GPU's, and on systems other than Linux; nor for
    a file that the process neither owns nor may write to, of which Linux does not say what is in
    memory.

    Args:
        rows: (b, d), consecutive rows of a map.
    """
    system = _system()
    if system is None or rows.device.type != "cpu" or not len(rows):
        return
    first = rows.data_ptr() // mmap.PAGESIZE * mmap.PAGESIZE
    size = rows.data_ptr() + rows.nbytes - first
    in_memory = np.zeros(-(-size // mmap.PAGESIZE), dtype=np.uint8)
    # Asking first takes a twentieth of the time of as many requests for nothing.
    system.mincore(first, size, in_memory.ctypes.data)
    windows = np.arange(0, len(in_memory), _WINDOW_PAGES)
    wanted = np.minimum.reduceat(in_memory & 1, windows) == 0
    for start in (windows[wanted] * mmap.PAGESIZE).tolist():
        length = min(_WINDOW_PAGES * mmap.PAGESIZE, size - start)
        if system.madvise(first + start, length, mmap.MADV_WILLNEED):
            return  # advice only: what cannot be read says so when it is used


class _System(NamedTuple):
    """The system's functions by address: a tensor does not give away the map that it lies in."""

    mincore: Callable[[int, int, int], int]
    madvise: Callable[[int, int, int], int]


@cache
def _system() -> _System | None:
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    library.mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)
    library.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return _System(library.mincore, library.madvise)
