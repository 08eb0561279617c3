"""The fast ways to look at many vectors, behind one door: all that :mod:`..exact` knows of them.

A processor with instructions for int8 and an NVIDIA GPU with Triton choose in a lower precision
what is compared; elsewhere blocks of float32 products do. The modules are for this room alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lightweight_decoder.search.kernels import group_maxima, int8_pass
from lightweight_decoder.search.kernels.few_queries import FewQueriesSearch, Settled
from lightweight_decoder.search.kernels.first_pass import BlockedPass, FirstPass, Listed

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["FewQueriesSearch", "FirstPass", "Kernels", "Listed", "Settled", "make_kernels"]


@dataclass(frozen=True, slots=True)
class Kernels:
    """What a device offers for some vectors.

    Attributes:
        passes: First passes, the roughest first; each can go on with what the one before it left
            open. The first that suits is used.
        few: Answers few queries in one go; None where the device cannot.
    """

    passes: tuple[FirstPass, ...]
    few: FewQueriesSearch | None = None


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
    """Choose what is fast on a device.

    Args:
        vectors: (n, d) unit rows, on the device or, if they do not fit, on the CPU.
        owners: (n,) int64 beside them, the phrase of each vector; None: each is one of its own.
        device: What computes.
        margin: Products that differ by more are in their true order.
        max_block_bytes: Size of the largest block of products.
        max_copy_bytes: Size of the largest copy in int8 that is kept.
        quantized: Whether a CPU chooses in int8; None: where that is faster.
    """
    if group_maxima.is_available(device):
        roundings = group_maxima.Roundings(vectors, device)
        rough = group_maxima.GroupedPass(vectors, roundings)
        in_full = group_maxima.GroupedPass(vectors, roundings, in_full=True)
        blocked = BlockedPass(vectors, device, max_block_bytes=max_block_bytes, instead_of=rough)
        few = None
        if vectors.device.type == device.type:
            few = FewQueriesSearch(vectors, owners, margin=margin, roundings=roundings)
        return Kernels((rough, in_full, blocked), few)
    blocked = BlockedPass(vectors, device, max_block_bytes=max_block_bytes)
    if quantized is None:
        quantized = device.type == "cpu" and int8_pass.is_available()
        always = False
    else:
        always = quantized
    if not quantized:
        return Kernels((blocked,))
    int8 = int8_pass.Int8Vectors(
        vectors, max_block_bytes=max_block_bytes, max_copy_bytes=max_copy_bytes
    )
    shorter, longer = (
        int8_pass.Int8Pass(int8, stretch=stretch, always=always) for stretch in (1, 2)
    )
    return Kernels((shorter, longer, blocked))
