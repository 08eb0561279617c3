"""Starts the Triton kernels: allocates what they write and chooses how the work is cut."""

from __future__ import annotations

import math
from functools import cache
from typing import NamedTuple

import torch
import triton
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from lightweight_decoder.search import triton_kernels as kernels

GROUP = 16
"""Vectors of a group. Smaller groups mean less to look at again, and more maxima to write."""
TILE = 256
"""Vectors of a tile of groups."""
GROUPS_PER_TILE = TILE // GROUP

_ROWS_AT_ONCE = 64
_SORTED_AT_ONCE = 32


class Selected(NamedTuple):
    """Chosen candidates of each row, in the order of the candidates."""

    ids: Tensor
    """(q, k) int32."""
    values: Tensor
    """(q, k) float32."""
    smallest: Tensor
    """(q,) float32, the smallest chosen value."""


class _Cut(NamedTuple):
    """How the matrix product is cut: queries of a tile, bytes of a row, warps, stages, programs."""

    queries: int
    row_bytes: int
    warps: int
    stages: int
    per_processor: int


_CUTS = (_Cut(16, 256, 4, 3, 2), _Cut(64, 128, 4, 4, 1), _Cut(128, 128, 8, 3, 1))


def maxima_of_groups(
    queries: Tensor, vectors: Tensor, *, ieee: bool, cut: _Cut | None = None
) -> tuple[Tensor, Tensor]:
    """Multiply, and keep each group's and each tile's largest product.

    Args:
        queries: (q, d), rows of a multiple of 16 bytes.
        vectors: (n, d) of the same type.
        ieee: Whether float32 is multiplied in full; else in tf32.
        cut: How the product is cut, by default what was fastest on an H100.

    Returns:
        (q, t * GROUPS_PER_TILE) and (q, t) float32 for t tiles.
    """
    cut = cut or _best_cut(len(queries), ieee=ieee)
    num_tiles = math.ceil(len(vectors) / TILE)
    tile_maxima = queries.new_empty((len(queries), num_tiles), dtype=torch.float32)
    group_maxima = tile_maxima.new_empty((len(queries), num_tiles * GROUPS_PER_TILE))
    step = cut.row_bytes // queries.itemsize
    programs = min(
        math.ceil(len(queries) / cut.queries) * num_tiles,
        cut.per_processor * _num_processors(queries.device),
    )
    kernels.maxima_kernel[(programs,)](
        TensorDescriptor.from_tensor(queries, [cut.queries, step]),
        TensorDescriptor.from_tensor(vectors, [TILE, step]),
        group_maxima,
        tile_maxima,
        len(queries),
        len(vectors),
        num_tiles,
        queries.shape[1],
        QUERIES=cut.queries,
        TILE=TILE,
        GROUP=GROUP,
        STEP=step,
        PRECISION="ieee" if ieee else "tf32",
        PROGRAMS=programs,
        num_warps=cut.warps,
        num_stages=cut.stages,
    )
    return group_maxima, tile_maxima


def select_largest(
    values: Tensor,
    k: int,
    *,
    parents: Tensor | None = None,
    children: int = 1,
    by_id: bool = False,
) -> Selected:
    """Choose the k largest candidates of each row, all if there are fewer; ties to the first.

    Args:
        values: (q, m) float32.
        k: How many to choose.
        parents: (q, j) int32; the candidates are then their children, with ids
            ``parent * children`` and following. By default they are the columns of ``values``.
        children: Children of a parent.
        by_id: Whether a child's value stands in the column of its id; else children follow each
            other in ``values`` as their parents do.
    """
    num_candidates = values.shape[1] if parents is None else parents.shape[1] * children
    k = min(k, num_candidates)
    chosen = values.new_empty((len(values), k), dtype=torch.int32)
    found = values.new_empty((len(values), k))
    smallest = values.new_empty(len(values))
    block = triton.next_power_of_2(num_candidates)
    kernels.select_kernel[(len(values),)](
        values,
        values if parents is None else parents,
        chosen,
        found,
        smallest,
        num_candidates,
        values.shape[1],
        children,
        k,
        BLOCK=block,
        HAS_PARENTS=parents is not None,
        BY_ID=by_id,
        num_warps=min(8, max(1, block // 512)),
    )
    return Selected(chosen, found, smallest)


def products_of_members(
    queries: Tensor, vectors: Tensor, groups: Tensor, excluded: Tensor | None
) -> Tensor:
    """Multiply queries with the vectors of their groups, in float32.

    Args:
        queries: (q, d).
        vectors: (n, d).
        groups: (q, j) int32.
        excluded: (q, w) int64 vectors that get -inf.

    Returns:
        (q, j * GROUP) float32, -inf where a group goes on beyond the last vector.
    """
    num_products = groups.shape[1] * GROUP
    products = queries.new_empty((len(queries), num_products), dtype=torch.float32)
    kernels.members_kernel[(len(queries), math.ceil(num_products / _ROWS_AT_ONCE))](
        queries,
        vectors,
        groups,
        groups if excluded is None else excluded,
        products,
        groups.shape[1],
        len(vectors),
        0 if excluded is None else excluded.shape[1],
        vectors.shape[1],
        GROUP=GROUP,
        ROWS=_ROWS_AT_ONCE,
        STEP=128,
    )
    return products


def sort_by_value(selected: Selected, first_id: int) -> tuple[Tensor, Tensor]:
    """Sort rows by falling value, ties in the order found.

    Returns:
        (q, k) float32 values and int64 ids that count from ``first_id``, ``NO_ID`` for -inf.
    """
    values = torch.empty_like(selected.values)
    ids = torch.empty_like(selected.ids, dtype=torch.int64)
    k = values.shape[1]
    kernels.sort_kernel[(len(values),)](
        selected.values,
        selected.ids,
        values,
        ids,
        k,
        first_id,
        BLOCK=triton.next_power_of_2(k),
        STEP=_SORTED_AT_ONCE,
    )
    return values, ids


def _best_cut(num_queries: int, *, ieee: bool) -> _Cut:
    """Choose how a product is cut; measured on an H100."""
    if ieee:
        return _Cut(min(64, max(16, triton.next_power_of_2(num_queries))), 128, 8, 2, 1)
    for cut in _CUTS:
        if num_queries <= cut.queries:
            return cut
    return _CUTS[-1]


@cache
def _num_processors(device: torch.device) -> int:
    """Return the number of programs that a device runs at a time, at least."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).multi_processor_count
    return 1
