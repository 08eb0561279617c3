"""Brings vectors to the device that computes, a block at a time.

While a block is used, the system is asked to read the next one of mapped vectors from the disk.
"""
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import ctypes
import math
import mmap
import sys
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_STREAMED_BYTES = 2**28
_WORKING_BYTES = 2**33  # maxima, rounded vectors, values of a float64 repair
_WINDOW_PAGES = max(1, 2**17 // mmap.PAGESIZE)
"""Linux reads no more for one request than the device's read-ahead window, 128 KiB by default."""


def slices(length: int, step: int) -> Iterator[slice]:
    """Cut ``range(length)`` into slices of at most ``step``."""
    for start in range(0, length, step):
        yield slice(start, min(start + step, length))


def fits(vectors: Tensor, device: torch.device) -> bool:
    """Say whether vectors can stay on a device and leave a GPU's memory room to work."""
    if device.type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    return vectors.nbytes + min(_WORKING_BYTES, free // 2) <= free


def device_blocks(
    vectors: Tensor, device: torch.device, most_rows: int
) -> Iterator[tuple[int, Tensor]]:
    """Yield blocks of at most ``most_rows`` vectors on a device, each with the row it starts at.

    Vectors that are on the device already are cut and not copied. Others are copied to a GPU while
    it computes on the block before: use a block before asking for the next, which overwrites it.
    While a block is used, the system reads the next one of mapped vectors from the disk.
    Two blocks of page-locked memory and two on the device, of up to 256 MiB, are taken for that.
    """
    if device.type == "cuda" and vectors.device.type == "cpu":
        fitting = max(1, _STREAMED_BYTES // (vectors.shape[1] * vectors.itemsize))
        yield from _streamed(vectors, device, min(most_rows, fitting, len(vectors)))
        return
    if len(vectors) <= most_rows:
        yield 0, vectors.to(device)
        return
    for start in range(0, len(vectors), most_rows):
        read_ahead(vectors[start + most_rows : start + 2 * most_rows])
        yield start, vectors[start : start + most_rows].to(device)


def converted_blocks(
    vectors: Tensor, dtype: torch.dtype, device: torch.device, *, max_bytes: int
) -> Iterator[tuple[int, Tensor]]:
    """Yield blocks of about the same size on a device in another type; see :func:`device_blocks`.

    None is larger than ``max_bytes``, but for a single row.
    """
    most_rows = max(1, max_bytes // (vectors.shape[1] * dtype.itemsize))
    num_blocks = math.ceil(len(vectors) / most_rows)
    for start, block in device_blocks(vectors, device, math.ceil(len(vectors) / num_blocks)):
        yield start, block.to(dtype)


def _streamed(vectors: Tensor, device: torch.device, num_rows: int) -> Iterator[tuple[int, Tensor]]:
    """Copy through two page-locked buffers, on a stream of their own."""
    computing, copying = torch.cuda.current_stream(device), torch.cuda.Stream(device)
    shape = (2, num_rows, vectors.shape[1])
    sent = torch.empty(shape, dtype=vectors.dtype, pin_memory=True)
    received = torch.empty(shape, dtype=vectors.dtype, device=device)
    copying.wait_stream(computing)  # the memory may have belonged to somebody until now
    copied, used = ([torch.cuda.Event() for _ in range(2)] for _ in range(2))
    for number, start in enumerate(range(0, len(vectors), num_rows)):
        turn = number % 2
        rows = vectors[start : start + num_rows]
        read_ahead(vectors[start + num_rows : start + 2 * num_rows])
        copied[turn].synchronize()  # nobody reads the page-locked buffer any more
        sent[turn, : len(rows)].copy_(rows)
        with torch.cuda.stream(copying):
            copying.wait_event(used[turn])
            received[turn, : len(rows)].copy_(sent[turn, : len(rows)], non_blocking=True)
            copied[turn].record(copying)
        computing.wait_event(copied[turn])
        yield start, received[turn, : len(rows)]
        used[turn].record(computing)


def read_ahead(rows: Tensor) -> None:
    """Start reading consecutive rows of a map that are not in memory yet, and do not wait for it.

    Takes no memory of the process: what is read goes to the page cache, which all processes share.
    Does nothing for memory that is no file's, for a GPU's, and on systems other than Linux; nor for
    a file that the process neither owns nor may write to, of which Linux does not say what is in
    memory.
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
