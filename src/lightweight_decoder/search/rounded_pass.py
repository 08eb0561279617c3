"""A first pass on processors that multiply bfloat16 faster than float32.

Products of rounded rows choose which vectors to look at again in float32. How far rounding can have
moved a product is known, so the caller knows which vectors cannot have been missed. Products are
kept for one block of vectors at a time; each block is cut into groups, and only members of the
groups with the largest maxima are compared (see :mod:`.group_maxima`).
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import linear

from lightweight_decoder.datatypes import NO_ID
from lightweight_decoder.search.device_blocks import converted_blocks
from lightweight_decoder.search.first_pass import Listed, hide_excluded, products_with, slices

LEAST_QUERIES = 64
"""Fewer are done sooner in float32: rounding the vectors takes longer than multiplying them."""

MOST_BYTES_KEPT = 2**28
"""Size of the largest rounded copy of the vectors that is kept for searches of few queries."""

_QUERY_ROWS = 256
_GROUP = 8
_ROUNDOFF = 2.0**-8


@cache
def is_fast() -> bool:
    """Say whether the processor has instructions for bfloat16 and torch uses them."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, probe, lambda: False)() for probe in probes)


def rounding_error(rows: Tensor) -> Tensor:
    """Return how far rounding to bfloat16 moves each row, (m,) float32 Euclidean lengths."""
    wide = rows.float()
    moved: Tensor = torch.linalg.vector_norm(wide - wide.bfloat16().float(), dim=1)
    return moved


def rounded_pass(
    queries: Tensor,
    vectors: Tensor,
    rounded_vectors: Tensor | None,
    list_length: int,
    excluded: Tensor | None,
    *,
    vectors_error: float,
    max_block_bytes: int,
) -> Listed:
    """List the float32 products of the vectors whose bfloat16 products are the largest.

    Args:
        queries: (q, d) float32 of length one, on the CPU.
        vectors: (n, d) of length one, there too.
        rounded_vectors: (n, d) bfloat16, the same rounded; None: a block at a time is.
        list_length: m, how many to list, fewer than n.
        excluded: (q, w) int64 vectors not to list, filled up with ``NO_ID``, or None.
        vectors_error: The largest ``rounding_error`` of the vectors.
        max_block_bytes: Size of the largest block of products, and of vectors converted at once.
    """
    rounded = queries.bfloat16()
    rough = torch.full((len(queries), list_length), -torch.inf)
    ids = torch.full(rough.shape, NO_ID)
    most_bytes = max_block_bytes * min(1.0, vectors.shape[1] / _QUERY_ROWS)
    source = vectors if rounded_vectors is None else rounded_vectors
    blocks = converted_blocks(source, torch.bfloat16, queries.device, max_bytes=int(most_bytes))
    for start, block in blocks:
        for rows in slices(len(queries), _QUERY_ROWS):
            scores = linear(rounded[rows], block)
            hide_excluded(scores, None if excluded is None else excluded[rows], start)
            top, columns = _largest(scores, list_length)
            merged = torch.cat([rough[rows], top], dim=1).topk(list_length, dim=1)
            found = torch.cat([ids[rows], columns + start], dim=1)
            rough[rows], ids[rows] = merged.values, found.gather(1, merged.indices)
    last = rough[:, -1:]
    own_rounding = _ROUNDOFF * last.abs().nan_to_num(posinf=0)  # nothing left: nothing unseen
    error = _choice_error(queries, vectors_error)[:, None] + own_rounding
    ids.masked_fill_(rough == -torch.inf, NO_ID)
    return _looked_at_again(queries, vectors, ids, unseen=last + error)


def _choice_error(queries: Tensor, vectors_error: float) -> Tensor:
    """Bound how far a product of rounded rows is off, its own rounding aside, (q,).

    |q v - q' v'| <= |q - q'| |v| + |q'| |v - v'| (Cauchy-Schwarz). Half a percent of a row's length
    is allowed for, and four times the rounding of float32 sums.
    """
    return 1.01 * (rounding_error(queries) + vectors_error) + (queries.shape[1] + 4) * 2.0**-22


def _largest(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k largest of each row, float32, unsorted, and their columns."""
    width = scores.shape[1] // _GROUP  # a group is every width-th column: maxima in long strides
    if width <= k:
        top = scores.float().topk(min(k, scores.shape[1]), dim=1, sorted=False)
        return top.values, top.indices
    grouped = scores[:, : width * _GROUP]
    maxima = grouped.view(len(scores), _GROUP, width).amax(dim=1)
    groups = maxima.float().topk(k, dim=1, sorted=False).indices
    members = groups[:, :, None] + torch.arange(0, width * _GROUP, width)
    rest = torch.arange(width * _GROUP, scores.shape[1]).expand(len(scores), -1)
    columns = torch.cat([members.flatten(1), rest], dim=1)
    top = scores.gather(1, columns).float().topk(k, dim=1, sorted=False)
    return top.values, columns.gather(1, top.indices)


def _looked_at_again(queries: Tensor, vectors: Tensor, ids: Tensor, *, unseen: Tensor) -> Listed:
    """Compute the products of chosen vectors in float32, and sort."""
    values = products_with(queries, vectors, ids)
    values, order = values.sort(dim=1, descending=True)
    return Listed(values, ids.gather(1, order), unseen)
