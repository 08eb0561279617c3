"""First passes of exact search: lists of float32 products that are likely to hold the answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from lightweight_decoder.datatypes import NO_ID
from lightweight_decoder.search.device_blocks import converted_blocks
from lightweight_decoder.search.full_float32 import full_float32
from lightweight_decoder.search.kernels.group_maxima import Precision, choice_error, top_k_products

if TYPE_CHECKING:
    from collections.abc import Iterator

_QUERY_ROWS = 256


class Listed(NamedTuple):
    """What a first pass keeps for each query."""

    values: Tensor | None
    """(q, m) float32 products, falling, -inf where fewer than m vectors are left; None: the pass
    has only rougher ones, and lists in no order."""
    vectors: Tensor
    """(q, m) int64; without values ``NO_ID`` where fewer than m vectors are left."""
    unseen: Tensor
    """(q, 1): the cosine of a vector that is not listed is higher by float32's error at most."""

    def to(self, device: torch.device) -> Listed:
        """Bring all of it to a device."""
        values = None if self.values is None else self.values.to(device)
        return Listed(values, self.vectors.to(device), self.unseen.to(device))


def grouped_pass(
    queries: Tensor,
    vectors: Tensor,
    list_length: int,
    excluded: Tensor | None,
    *,
    precision: Precision,
    vectors_error: float,
) -> Listed:
    """List the products of vectors that rougher products choose; needs Triton.

    Args:
        queries: (q, d) float32 of length one, on the device that computes.
        vectors: (n, d) of length one, there or on the CPU.
        list_length: m, how many to list.
        excluded: (q, w) int64 vectors not to list, filled up with ``NO_ID``, or None.
        precision: What the rougher products are computed in.
        vectors_error: The length of the longest part that this rounds off a vector.
    """
    values, ids, ceiling = top_k_products(
        queries, vectors, list_length, excluded=excluded, precision=precision
    )
    error = choice_error(queries, vectors_error, precision)
    return Listed(values, ids, torch.maximum(values[:, -1], ceiling + error)[:, None])


def blocked_pass(
    queries: Tensor,
    vectors: Tensor,
    list_length: int,
    excluded: Tensor | None,
    *,
    max_block_bytes: int,
) -> Listed:
    """List the largest of all float32 products, which are computed a block at a time.

    Args:
        queries: (q, d) float32 of length one, on the device that computes.
        vectors: (n, d) of length one, there or on the CPU.
        list_length: m, how many to list.
        excluded: (q, w) int64 vectors not to list, filled up with ``NO_ID``, or None.
        max_block_bytes: Size of the largest block of products, and of vectors converted at once.
    """
    values = queries.new_full((len(queries), list_length), -torch.inf)
    ids = torch.full_like(values, NO_ID, dtype=torch.int64)
    share = min(1.0, vectors.shape[1] / _QUERY_ROWS)  # a narrow block has the larger products
    blocks = converted_blocks(
        vectors, torch.float32, queries.device, max_bytes=int(max_block_bytes * share)
    )
    with full_float32(queries.device):
        for start, block in blocks:
            for rows in slices(len(queries), _QUERY_ROWS):
                scores = _products(queries[rows], block)
                hide_excluded(scores, None if excluded is None else excluded[rows], start)
                top = scores.topk(min(list_length, scores.shape[1]), dim=1)
                merged = torch.cat([values[rows], top.values], dim=1).topk(list_length, dim=1)
                found = torch.cat([ids[rows], top.indices + start], dim=1)
                values[rows], ids[rows] = merged.values, found.gather(1, merged.indices)
    return Listed(values, ids, values[:, -1:].clone())


def _products(queries: Tensor, vectors: Tensor) -> Tensor:
    """Multiply; torch takes all cores for one query only if it is a vector."""
    if len(queries) == 1:
        return torch.mv(vectors, queries[0])[None]
    return queries @ vectors.T


def slices(length: int, step: int) -> Iterator[slice]:
    """Cut ``range(length)`` into slices of at most ``step``."""
    for start in range(0, length, step):
        yield slice(start, min(start + step, length))


def hide_excluded(scores: Tensor, excluded: Tensor | None, first_vector: int) -> None:
    """Set the values of excluded vectors to -inf, in place."""
    if excluded is None:
        return
    columns = excluded - first_vector
    inside = (columns >= 0) & (columns < scores.shape[1]) & (excluded != NO_ID)
    scores[inside.nonzero()[:, 0], columns[inside]] = -torch.inf
