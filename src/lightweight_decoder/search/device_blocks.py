"""Brings vectors to the device that computes, a block at a time."""
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lightweight_decoder.search.read_ahead import read_ahead

if TYPE_CHECKING:
    from collections.abc import Iterator

_STREAMED_BYTES = 2**28
_WORKING_BYTES = 2**33  # maxima, rounded vectors, values of a float64 repair


def fits(vectors: Tensor, device: torch.device) -> bool:
    """Say whether vectors can stay on a device and leave a GPU's memory room to work."""
    if device.type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    return vectors.nbytes + min(_WORKING_BYTES, free // 2) <= free


def device_blocks(
    vectors: Tensor, device: torch.device, most_rows: int
) -> Iterator[tuple[int, Tensor]]:
    """Yield blocks of vectors on a device, each with the row it starts at.

    Vectors that are on the device already are cut and not copied. Others are copied to a GPU while
    it computes on the block before: use a block before asking for the next, which overwrites it.
    While a block is used, the system reads the next one of mapped vectors from the disk.
    Two blocks of page-locked memory and two on the device, of up to 256 MiB, are taken for that.

    Args:
        vectors: (n, d), on any device.
        device: Where the blocks are wanted.
        most_rows: The largest number of rows in a block.
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

    Args:
        vectors: (n, d), on any device.
        dtype: The type of the blocks.
        device: Where the blocks are wanted.
        max_bytes: Size of the largest block, but for a single row.
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
