"""Triton kernels of :mod:`group_maxima`; imported only where Triton is installed.

With ``TRITON_INTERPRET=1`` in the environment they run on CPU tensors, slowly. Sizes in capitals
are compiled in. Rows start at int64 places: matrices may have more than 2**31 entries.
"""
# ruff: noqa: ANN001, ANN201, ANN202, N803  (Triton infers the types of kernel arguments)
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl

_LOWEST = tl.constexpr(-(2**31))


@triton.jit
def maxima_kernel(
    queries,
    vectors,
    group_maxima,
    tile_maxima,
    num_queries,
    num_vectors,
    num_tiles,
    dim,
    QUERIES: tl.constexpr,
    TILE: tl.constexpr,
    GROUP: tl.constexpr,
    STEP: tl.constexpr,
    PRECISION: tl.constexpr,
    PROGRAMS: tl.constexpr,
):
    """Multiply and keep the largest product of each group, and of each tile of groups.

    ``queries`` and ``vectors`` are tensor descriptors of (q, d) and (n, d), ``group_maxima`` is
    (q, num_tiles * TILE / GROUP), ``tile_maxima`` (q, num_tiles). A group that the last vectors
    leave incomplete counts as infinite: missing rows are read as zeros, which may exceed its
    products. Tiles of queries follow each other fastest, so that all programs read the same vectors
    at about the same time.
    """
    groups_per_tile: tl.constexpr = TILE // GROUP
    query_tiles = tl.cdiv(num_queries, QUERIES)
    for place in tl.range(tl.program_id(0), query_tiles * num_tiles, PROGRAMS, flatten=True):
        first_query = (place % query_tiles) * QUERIES
        tile = place // query_tiles
        products = tl.zeros((QUERIES, TILE), tl.float32)
        for column in range(0, dim, STEP):
            left = queries.load([first_query, column])
            right = vectors.load([tile * TILE, column])
            products = tl.dot(left, right.T, products, input_precision=PRECISION)
        groups = tl.max(products.reshape(QUERIES, groups_per_tile, GROUP), axis=2)
        starts = tile * TILE + tl.arange(0, groups_per_tile) * GROUP
        groups = tl.where((starts + GROUP > num_vectors)[None, :], float("inf"), groups)
        groups = tl.where((starts >= num_vectors)[None, :], -float("inf"), groups)
        rows = first_query + tl.arange(0, QUERIES)
        present = rows < num_queries
        places = rows.to(tl.int64) * num_tiles + tile
        tl.store(tile_maxima + places, tl.max(groups, axis=1), mask=present)
        columns = tl.arange(0, groups_per_tile)
        places = places[:, None] * groups_per_tile + columns[None, :]
        tl.store(group_maxima + places, groups, mask=present[:, None])


@triton.jit
def _kth_largest(keys, present, k):
    """Return a number that k of the present int32 keys reach, and no more unless they are equal."""
    low = tl.min(tl.where(present, keys, 2**31 - 1)).to(tl.int64)
    high = tl.max(keys).to(tl.int64)
    while low < high:
        middle = (low + high + 1) >> 1
        reached = tl.sum((keys >= middle.to(tl.int32)).to(tl.int32))
        low = tl.where(reached >= k, middle, low)
        high = tl.where(reached == k, middle, tl.where(reached > k, high, middle - 1))
    return low.to(tl.int32)


@triton.jit
def select_kernel(
    values,
    parents,
    chosen,
    chosen_values,
    smallest,
    num_candidates,
    values_per_row,
    children,
    k,
    BLOCK: tl.constexpr,
    HAS_PARENTS: tl.constexpr,
    BY_ID: tl.constexpr,
):
    """Choose the k largest of a row's candidates, ties to the first; ``chosen`` keeps their order.

    Candidate c is child ``c % children`` of the parent in column ``c // children``, its id is
    ``parent * children + c % children``; without parents its id is c. Its value stands in the row
    at its id or, if not ``BY_ID``, at c. ``smallest`` receives the k-th largest value.
    """
    row = tl.program_id(0).to(tl.int64)
    candidates = tl.arange(0, BLOCK)
    present = candidates < num_candidates
    ids = candidates
    if HAS_PARENTS:
        column = row * (num_candidates // children) + candidates // children
        ids = tl.load(parents + column, mask=present, other=0) * children + candidates % children
    places = row * values_per_row + (ids if BY_ID else candidates)
    found = tl.load(values + places, mask=present, other=-float("inf"))
    found = tl.where(found == 0, 0.0, found)  # -0.0 ties with 0.0
    bits = found.to(tl.int32, bitcast=True)
    keys = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)  # integers in the order of the values
    keys = tl.where(present, keys, _LOWEST)
    cut = _kth_largest(keys, present, k)
    above = keys > cut
    ties = keys == cut
    wanted_ties = k - tl.sum(above.to(tl.int32))
    kept = above | (ties & (tl.cumsum(ties.to(tl.int32)) <= wanted_ties))
    columns = row * k + tl.cumsum(kept.to(tl.int32)) - 1
    tl.store(chosen + columns, ids, mask=kept)
    tl.store(chosen_values + columns, found, mask=kept)
    tl.store(smallest + row, tl.min(tl.where(kept, found, float("inf"))))


@triton.jit
def members_kernel(
    queries,
    vectors,
    groups,
    excluded,
    products,
    num_groups,
    num_vectors,
    num_excluded,
    dim,
    GROUP: tl.constexpr,
    ROWS: tl.constexpr,
    STEP: tl.constexpr,
):
    """Multiply each query with all vectors of its chosen groups, in float32.

    ``groups`` is (q, num_groups), ``products`` (q, num_groups * GROUP): -inf for excluded vectors
    and past the end.
    """
    row = tl.program_id(0).to(tl.int64)
    members = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    present = members < num_groups * GROUP
    chosen = tl.load(groups + row * num_groups + members // GROUP, mask=present, other=0)
    ids = chosen * GROUP + members % GROUP
    inside = present & (ids < num_vectors)
    sums = tl.zeros((ROWS, STEP), tl.float32)
    for start in range(0, dim, STEP):
        columns = start + tl.arange(0, STEP)
        wide = columns < dim
        query = tl.load(queries + row * dim + columns, mask=wide, other=0).to(tl.float32)
        places = ids.to(tl.int64)[:, None] * dim + columns[None, :]
        vector = tl.load(vectors + places, mask=inside[:, None] & wide[None, :], other=0)
        sums += query[None, :] * vector.to(tl.float32)
    found = tl.where(inside, tl.sum(sums, axis=1), -float("inf"))
    for column in range(num_excluded):
        hidden = tl.load(excluded + row * num_excluded + column)
        found = tl.where(ids == hidden, -float("inf"), found)
    tl.store(products + row * num_groups * GROUP + members, found, mask=present)


@triton.jit
def sort_kernel(
    values,
    ids,
    sorted_values,
    sorted_ids,
    k,
    first_id,
    BLOCK: tl.constexpr,
    STEP: tl.constexpr,
):
    """Put (q, k) values into falling order, ties in the order found, and shift their ids.

    Each value's place is the number of values that come before it. The id of -inf becomes -1.
    """
    row = tl.program_id(0).to(tl.int64)
    places = tl.arange(0, BLOCK)
    present = places < k
    own = tl.load(values + row * k + places, mask=present, other=-float("inf"))
    rank = tl.zeros((BLOCK,), tl.int32)
    for start in range(0, k, STEP):
        columns = start + tl.arange(0, STEP)
        other = tl.load(values + row * k + columns, mask=columns < k, other=-float("inf"))
        larger = other[None, :] > own[:, None]
        earlier = (other[None, :] == own[:, None]) & (columns[None, :] < places[:, None])
        rank += tl.sum((larger | earlier).to(tl.int32), axis=1)
    shifted = tl.load(ids + row * k + places, mask=present, other=0).to(tl.int64) + first_id
    shifted = tl.where(own == -float("inf"), -1, shifted)
    tl.store(sorted_values + row * k + rank, own, mask=present)
    tl.store(sorted_ids + row * k + rank, shifted, mask=present)
