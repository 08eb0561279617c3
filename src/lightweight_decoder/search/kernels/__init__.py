"""The fast ways to look at many vectors, behind one door: all that :mod:`..exact` knows of them.

A processor with instructions for int8 and an NVIDIA GPU with Triton choose in a lower precision
what is compared; elsewhere blocks of float32 products do. The modules are for this room alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from lightweight_decoder.search.kernels import group_maxima, int8_pass
from lightweight_decoder.search.kernels.few_queries import FewQueriesSearch
from lightweight_decoder.search.kernels.first_pass import BlockedPass, FirstPass

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["FewQueriesSearch", "FirstPass", "Kernels", "make_kernels"]


class Kernels(NamedTuple):
    """What a device offers for some vectors."""

    passes: tuple[FirstPass, ...]
    """The roughest first; each can go on with what those before it left open."""
    few: FewQueriesSearch | None = None
    """Answers few queries in one go, where the device can."""


def make_kernels(
    vectors: Tensor,
    owners: Tensor | None,
    device: torch.device,
    *,
    margin: float,
    max_block_bytes: int,
    max_copy_bytes: int,
    quantized: bool | None,
) -> Kernels:
    """Choose what is fast on a device; the other arguments are those of :class:`.ExactSearch`.

    Vectors (n, d) are on the device or, if they do not fit, on the CPU, owners (n,) beside them
    (None: each vector is a phrase of its own). Products that differ by more than ``margin`` are in
    their true order.
    """
    if group_maxima.is_available(device):
        roundings = group_maxima.Roundings(vectors, device)
        rough, in_full = (
            group_maxima.GroupedPass(vectors, roundings, in_full=full) for full in (False, True)
        )
        few = FewQueriesSearch(vectors, owners, margin=margin, roundings=roundings)
        blocked = BlockedPass(vectors, device, max_block_bytes=max_block_bytes, instead_of=rough)
        is_there = vectors.device.type == device.type
        return Kernels((rough, in_full, blocked), few if is_there else None)
    blocked = BlockedPass(vectors, device, max_block_bytes=max_block_bytes)
    can_round = device.type == "cpu" and int8_pass.is_available()
    if not (can_round if quantized is None else quantized):
        return Kernels((blocked,))
    int8 = int8_pass.Int8Vectors(
        vectors, max_block_bytes=max_block_bytes, max_copy_bytes=max_copy_bytes
    )
    shorter, longer = (
        int8_pass.Int8Pass(int8, stretch=stretch, always=bool(quantized)) for stretch in (1, 2)
    )
    return Kernels((shorter, longer, blocked))
