"""Starts the Triton kernels: allocates what they write and chooses how the work is cut."""
# mypy: disable-error-code="import-not-found, import-untyped"

from __future__ import annotations

import math
from functools import cache
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from lightweight_decoder.search.kernels import triton_kernels as kernels

GROUP = 16
"""Vectors of a group. Smaller groups mean less to look at again, and more maxima to write."""
TILE = 256
"""Vectors of a tile of groups."""
GROUPS_PER_TILE = TILE // GROUP

_ROWS_AT_ONCE = 64
_SORTED_AT_ONCE = 32
_TRITON_TYPES = {"float32": tl.float32, "float16": tl.float16, "bfloat16": tl.bfloat16}
_SPARE_BYTES = 2**13  # of shared memory, for what is exchanged between threads


class _Cut(NamedTuple):
    """How the matrix product is cut: queries of a tile, bytes of a row, warps, stages, programs."""

    queries: int
    row_bytes: int
    warps: int
    stages: int
    per_processor: int


_CUTS = (_Cut(16, 256, 4, 3, 2), _Cut(64, 256, 4, 2, 1), _Cut(128, 128, 8, 3, 1))
_CUTS_IN_FULL = (_Cut(16, 128, 4, 3, 2), _Cut(64, 256, 4, 2, 1), _Cut(128, 128, 8, 2, 1))


def maxima_of_groups(queries: Tensor, vectors: Tensor, *, in_full: bool) -> tuple[Tensor, Tensor]:
    """Multiply queries (q, d) and vectors (n, d) of one type, in rows of a multiple of 16 bytes.

    Keeps each group's and each tile's largest product: (q, t * GROUPS_PER_TILE) and (q, t) float32
    for t tiles. ``in_full`` multiplies float32 as three products of tf32 and not as one.
    """
    cut = _best_cut(queries.shape[0], queries.device, in_full=in_full)
    num_tiles = math.ceil(vectors.shape[0] / TILE)
    tile_maxima = queries.new_empty((queries.shape[0], num_tiles), dtype=torch.float32)
    group_maxima = tile_maxima.new_empty((queries.shape[0], num_tiles * GROUPS_PER_TILE))
    step = cut.row_bytes // queries.itemsize
    programs = cut.per_processor * _num_processors(queries.device)
    kernels.maxima_kernel[(programs,)](
        TensorDescriptor.from_tensor(queries, [cut.queries, step]),
        TensorDescriptor.from_tensor(vectors, [TILE, step]),
        group_maxima,
        tile_maxima,
        queries.shape[0],
        vectors.shape[0],
        num_tiles,
        queries.shape[1],
        QUERIES=cut.queries,
        TILE=TILE,
        GROUP=GROUP,
        STEP=step,
        PRECISION="tf32x3" if in_full else "tf32",
        PROGRAMS=programs,
        num_warps=cut.warps,
        num_stages=cut.stages,
    )
    return group_maxima, tile_maxima


def choose_groups(
    group_maxima: Tensor, tile_maxima: Tensor, num_groups: int
) -> tuple[Tensor, Tensor]:
    """Choose the groups with the largest maxima, all if there are fewer; ties to the first.

    Maxima are float32, (q, t * GROUPS_PER_TILE) of groups and (q, t) of at most 2**14 tiles.
    Returns (q, num_groups) int32 groups in rising order, 1,024 at most, and (q,) the smallest of
    their maxima.
    """
    num_queries, num_tiles = tile_maxima.shape
    chosen_tiles = min(num_groups, num_tiles)
    num_groups = min(num_groups, chosen_tiles * GROUPS_PER_TILE)
    tiles = tile_maxima.new_empty((num_queries, chosen_tiles), dtype=torch.int32)
    groups = tiles.new_empty((num_queries, num_groups))
    smallest = tile_maxima.new_empty(num_queries)
    tiles_block = triton.next_power_of_2(num_tiles)
    groups_block = triton.next_power_of_2(chosen_tiles * GROUPS_PER_TILE)
    kernels.choose_kernel[(num_queries,)](
        group_maxima,
        tile_maxima,
        tiles,
        groups,
        smallest,
        num_tiles,
        chosen_tiles,
        num_groups,
        GROUPS_PER_TILE=GROUPS_PER_TILE,
        TILES_BLOCK=tiles_block,
        GROUPS_BLOCK=groups_block,
        num_warps=4 if max(tiles_block, groups_block) <= 2**12 else 8,
    )
    return groups, smallest


def products_of_members(
    queries: Tensor, vectors: Tensor, groups: Tensor, excluded: Tensor | None
) -> Tensor:
    """Multiply queries (q, d) with the vectors (n, d) of their groups (q, j) int32, in float32.

    Returns (q, j * GROUP), -inf where a group goes on beyond the last vector, and for excluded
    vectors (q, w) int64.
    """
    num_products = groups.shape[1] * GROUP
    products = queries.new_empty((queries.shape[0], num_products), dtype=torch.float32)
    kernels.members_kernel[(queries.shape[0], math.ceil(num_products / _ROWS_AT_ONCE))](
        queries,
        vectors,
        groups,
        groups if excluded is None else excluded,
        products,
        groups.shape[1],
        vectors.shape[0],
        0 if excluded is None else excluded.shape[1],
        vectors.shape[1],
        GROUP=GROUP,
        ROWS=_ROWS_AT_ONCE,
        STEP=128,
    )
    return products


def largest_products(
    products: Tensor, groups: Tensor, k: int, first_id: int
) -> tuple[Tensor, Tensor]:
    """Sort the k largest products of each query, all if there are fewer; ties to the lower id.

    Products are (q, j * GROUP) float32, of the members of rising groups (q, j) int32, whose ids
    count from ``first_id``. Returns (q, k) float32 values and int64 ids, ``NO_ID`` for -inf.
    """
    num_queries, num_products = products.shape
    k = min(k, num_products)
    unsorted_values = products.new_empty((num_queries, k))
    unsorted_ids = groups.new_empty((num_queries, k))
    values = torch.empty_like(unsorted_values)
    ids = torch.empty_like(unsorted_ids, dtype=torch.int64)
    block = triton.next_power_of_2(num_products)
    kernels.rank_kernel[(num_queries,)](
        products,
        groups,
        unsorted_values,
        unsorted_ids,
        values,
        ids,
        groups.shape[1],
        first_id,
        k,
        GROUP=GROUP,
        BLOCK=block,
        K_BLOCK=triton.next_power_of_2(k),
        STEP=_SORTED_AT_ONCE,
        num_warps=min(8, max(1, block // 512)),
    )
    return values, ids


def scaled(queries: Tensor, rough: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Scale queries (q, d) to length one as ``unit_rows`` does, without looking for unusable ones.

    Returns (q, d) in float64 and in float32, (q,) float32 the length of what rounding to ``rough``
    (a type, or tf32) takes off, and (q,) bool: whether a query is finite and not zero.
    """
    queries = queries.contiguous()
    unit = torch.empty_like(queries, dtype=torch.float64)
    unit32 = torch.empty_like(queries, dtype=torch.float32)
    left_out = unit32.new_empty(len(queries))
    usable = torch.empty_like(left_out, dtype=torch.bool)
    kernels.scale_kernel[(len(queries),)](
        queries,
        unit,
        unit32,
        left_out,
        usable,
        queries.shape[1],
        ROUGH=rough if rough == "tf32" else _TRITON_TYPES[rough],
        BLOCK=triton.next_power_of_2(queries.shape[1]),
        num_warps=8,
    )
    return unit, unit32, left_out, usable


def settled(
    listed: tuple[Tensor, Tensor, Tensor],
    scaled_queries: tuple[Tensor, Tensor, Tensor],
    vectors: Tensor,
    owners: Tensor | None,
    *,
    k: int,
    margin: float,
    error: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute again in float64 what is too close, and keep the k best phrases of each query.

    Args:
        listed: Falling values (q, m) float32, their vectors (q, m) int64 and the ceiling (q,), as
            :class:`.group_maxima.TopProducts`; m is at most 128.
        scaled_queries: What :func:`scaled` returns, without the float32 queries.
        vectors: (n, d) unit rows.
        owners: (n,) int64, the phrase of each vector; None: each is a phrase of its own.
        k: How many phrases, at most m.
        margin: Values that differ by more are in their true order.
        error: How far a product may exceed the ceiling, without what queries lose by rounding.

    Returns:
        Values float32, vectors and phrases int64 (q, k), and (q,) bool: whether they are certain.
    """
    values, ids, ceiling = listed
    unit, left_out, usable = scaled_queries
    num_queries, list_length = values.shape
    best = values.new_empty((num_queries, k))
    best_ids, best_phrases = ids.new_empty((2, num_queries, k))
    certain = torch.empty_like(usable)
    block = triton.next_power_of_2(list_length)
    kernels.settle_kernel[(num_queries,)](
        values,
        ids,
        ceiling,
        left_out,
        usable,
        unit,
        vectors,
        ids if owners is None else owners,
        best,
        best_ids,
        best_phrases,
        certain,
        list_length,
        k,
        margin,
        error,
        vectors.shape[1],
        HAS_OWNERS=owners is not None,
        BLOCK=block,
        K_BLOCK=triton.next_power_of_2(k),
        STEP=64,
        num_warps=8,
    )
    return best, best_ids, best_phrases, certain


@cache
def _best_cut(num_queries: int, device: torch.device, *, in_full: bool) -> _Cut:
    """Choose how a product is cut: what was fastest on an H100, and fits into this GPU."""
    cuts = _CUTS_IN_FULL if in_full else _CUTS
    cut = next((cut for cut in cuts if num_queries <= cut.queries), cuts[-1])
    if device.type != "cuda":
        return cut
    properties = torch.cuda.get_device_properties(device)
    size = getattr(properties, "shared_memory_per_block_optin", properties.shared_memory_per_block)
    stages = (size - _SPARE_BYTES) // ((cut.queries + TILE) * cut.row_bytes)
    return cut._replace(stages=max(1, min(cut.stages, stages)))


@cache
def _num_processors(device: torch.device) -> int:
    """Return the number of programs that a device runs at a time, at least."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).multi_processor_count
    return 1
