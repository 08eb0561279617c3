"""A first pass on processors that multiply int8 faster than float32 (VNNI, AMX).

Products of rounded rows choose which vectors to look at again in float32. How far rounding can have
moved a product is known, so the caller knows which vectors cannot have been missed. Products are
kept for one block of vectors at a time; each block is cut into groups, and only members of the
groups with the largest maxima are compared (see :mod:`.group_maxima`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lightweight_decoder.datatypes import NO_ID
from lightweight_decoder.search.device_blocks import device_blocks
from lightweight_decoder.search.first_pass import Listed, hide_excluded, products_with, slices

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MOST_BYTES_KEPT = 2**28
"""Size of the largest int8 copy of the vectors that is kept from one search to the next."""

_LEAST_QUERIES = 256
_SMALL_SEARCHES_BEFORE_COPY = 8  # rounding 50,000 x 384 takes as long as 12 searches for a query

_STEPS = 127
_ZERO_POINT = 128  # oneDNN multiplies uint8 by int8
_TINY = torch.finfo(torch.float32).tiny
_BFLOAT16_ROUNDOFF = 2.0**-8

_GROUP = 8
_BLOCK_ROWS = 2**17
_ROUNDED_ROWS = 1_024  # their float32 stays in the cache
_QUERY_ROWS = 256
_SCORE_BYTES = 2**24  # what one block's products may take: half of a large cache


@cache
def is_available() -> bool:
    """Say whether the processor has instructions for int8 and torch multiplies with them exactly.

    Without VNNI, oneDNN adds pairs of products in 16 bits, where large ones are cut off.
    """
    probes = ("_is_vnni_supported", "_is_amx_tile_supported")
    if not any(getattr(torch.cpu, probe, lambda: False)() for probe in probes):
        return False
    largest = torch.ones(64, 64)
    try:
        block = Int8Block.of(0, largest)
        products = block.products(_quantized_queries(largest)[0])
    except (AttributeError, RuntimeError):  # another torch's operators
        return False
    return bool((products == 64 * _STEPS).all())


@dataclass(frozen=True, slots=True)
class Int8Block:
    """Some of a bank's vectors as int8, laid out for the processor.

    Attributes:
        first_vector: The row of the bank at which they begin.
        packed: Steps of int8, in oneDNN's layout.
        scales: (m,) float32, the length of each vector's steps.
        zero_points: (m,) int32, all 0.
        error: How far rounding moves one of the vectors at most, a Euclidean length.
    """

    first_vector: int
    packed: Tensor
    scales: Tensor
    zero_points: Tensor
    error: float

    @classmethod
    def of(cls, first_vector: int, vectors: Tensor) -> Int8Block:
        """Round (m, d) vectors, each to 127 steps of its own up to its largest entry."""
        steps = torch.empty(vectors.shape, dtype=torch.int8)
        scales = torch.empty(len(vectors))
        error = 0.0
        for rows in slices(len(vectors), _ROUNDED_ROWS):
            wide = vectors[rows].float()
            rounded, scale = _quantized(wide)
            steps[rows], scales[rows] = rounded, scale.squeeze(1)
            error = max(error, _moved(wide, rounded, scale).max().item())
        packed = torch.ops.onednn.qlinear_prepack(steps, [_QUERY_ROWS, vectors.shape[1]])
        return cls(first_vector, packed, scales, torch.zeros(len(scales), dtype=torch.int32), error)

    def products(self, queries: Tensor) -> Tensor:
        """Multiply by (q, d) rounded queries; (q, m) bfloat16, in steps of each query."""
        product: Tensor = torch.ops.onednn.qlinear_pointwise(
            *(queries, 1.0, _ZERO_POINT),
            *(self.packed, self.scales, self.zero_points),
            *(None, 1.0, 0, torch.bfloat16),  # no bias; how the products are given
            *("none", [], ""),  # nothing is done to them
        )
        return product


class Int8Vectors:
    """A bank's vectors as int8, kept where they are small and come in useful again.

    Args:
        vectors: (n, d) of length one, on the CPU.
        max_block_bytes: Size of the largest block.
    """

    def __init__(self, vectors: Tensor, *, max_block_bytes: int) -> None:
        self._vectors = vectors
        self._max_block_bytes = max_block_bytes
        self._kept: list[Int8Block] | None = None
        self._num_small_searches = 0

    def pay(self, num_queries: int) -> bool:
        """Say whether a search for so many queries, the next one, should use them."""
        if self._kept is not None or num_queries >= _LEAST_QUERIES:
            return True
        self._num_small_searches += 1
        return self._can_be_kept and self._num_small_searches > _SMALL_SEARCHES_BEFORE_COPY

    def blocks(self) -> Iterable[Int8Block]:
        """Return the blocks; where they are too large to keep, each is made when it is its turn."""
        if self._kept is None and self._can_be_kept:
            self._kept = list(self._made())
        return self._made() if self._kept is None else self._kept

    @property
    def _can_be_kept(self) -> bool:
        return self._vectors.numel() <= MOST_BYTES_KEPT

    def _made(self) -> Iterator[Int8Block]:
        num_vectors, dim = self._vectors.shape
        most_rows = max(1, min(_BLOCK_ROWS, self._max_block_bytes // dim))
        num_rows = math.ceil(num_vectors / math.ceil(num_vectors / most_rows))
        for start, block in device_blocks(self._vectors, torch.device("cpu"), num_rows):
            yield Int8Block.of(start, block)


def int8_pass(
    queries: Tensor,
    vectors: Tensor,
    blocks: Iterable[Int8Block],
    list_length: int,
    excluded: Tensor | None,
) -> Listed:
    """List the float32 products of the vectors whose int8 products are the largest.

    Args:
        queries: (q, d) float32 of length one, on the CPU.
        vectors: (n, d) of length one, there too.
        blocks: All of them, rounded.
        list_length: m, how many to list, fewer than n.
        excluded: (q, w) int64 vectors not to list, filled up with ``NO_ID``, or None.
    """
    rounded, scale, moved = _quantized_queries(queries)
    rough = torch.full((len(queries), list_length), -torch.inf)
    ids = torch.full(rough.shape, NO_ID)
    vectors_moved = 0.0
    for block in blocks:
        vectors_moved = max(vectors_moved, block.error)
        fitting = _SCORE_BYTES // (2 * len(block.scales))
        for rows in slices(len(queries), max(1, min(_QUERY_ROWS, fitting))):
            scores = block.products(rounded[rows])
            hide_excluded(scores, None if excluded is None else excluded[rows], block.first_vector)
            top, columns = _largest(scores, list_length)
            merged = torch.cat([rough[rows], top], dim=1).topk(list_length, dim=1)
            found = torch.cat([ids[rows], columns + block.first_vector], dim=1)
            rough[rows], ids[rows] = merged.values, found.gather(1, merged.indices)
    last = rough[:, -1:] * scale
    own_rounding = _BFLOAT16_ROUNDOFF * last.abs().nan_to_num(posinf=0)  # nothing left: none unseen
    # |q v - q' v'| <= |q - q'| |v| + |q'| |v - v'| (Cauchy-Schwarz). A percent is allowed for rows
    # that are not quite of length one, and four times the rounding of float32 sums.
    error = 1.01 * (moved + (1 + moved) * vectors_moved) + (queries.shape[1] + 4) * 2.0**-22
    ids.masked_fill_(rough == -torch.inf, NO_ID)
    return _looked_at_again(queries, vectors, ids, unseen=last + error + own_rounding)


def _quantized(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Round rows to steps from -127 to 127, float32; return also the length of a step, (m, 1)."""
    scale = rows.abs().amax(dim=1, keepdim=True).clamp_(min=_TINY) / _STEPS
    return (rows / scale).round_(), scale


def _quantized_queries(queries: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Round queries; return uint8 steps, their lengths (q, 1), and how far rows moved (q, 1)."""
    steps, scale = _quantized(queries)
    return (steps + _ZERO_POINT).to(torch.uint8), scale, _moved(queries, steps, scale)


def _moved(rows: Tensor, steps: Tensor, scale: Tensor) -> Tensor:
    """Return how far rounding moved each row, (m, 1) Euclidean lengths."""
    moved: Tensor = torch.linalg.vector_norm(rows - steps * scale, dim=1, keepdim=True)
    return moved


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
