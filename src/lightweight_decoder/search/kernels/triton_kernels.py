"""Triton kernels of :mod:`group_maxima`; imported only where Triton is installed.

With ``TRITON_INTERPRET=1`` in the environment they run on CPU tensors, slowly. Sizes in capitals
are compiled in; others are not, so that new ones need no compiling. Rows start at int64 places:
matrices may have more than 2**31 entries.
"""
# ruff: noqa: ANN001, ANN201, ANN202, N803, PLR0917  (Triton infers the types of kernel arguments)
# mypy: disable-error-code="import-not-found, import-untyped, no-untyped-def, untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl

_LOWEST = tl.constexpr(-(2**31))
_ROUND_TO_GRID = tl.constexpr(1.5 * 2.0**22)  # float64 has no bits below 2**-30 beside it


@triton.jit(do_not_specialize=["num_queries", "num_vectors", "num_tiles"])
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
def _are_largest(values, present, k):
    """Mark the k largest of the present values; of equal ones the first."""
    values = tl.where(values == 0, 0.0, values)  # -0.0 is as large as 0.0
    bits = values.to(tl.int32, bitcast=True)
    keys = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)  # integers in the order of the values
    keys = tl.where(present, keys, _LOWEST)
    cut = _kth_largest(keys, present, k)
    above = keys > cut
    ties = keys == cut
    wanted_ties = k - tl.sum(above.to(tl.int32))
    return above | (ties & (tl.cumsum(ties.to(tl.int32)) <= wanted_ties))


@triton.jit(do_not_specialize=["num_tiles", "chosen_tiles", "chosen_groups"])
def choose_kernel(
    group_maxima,
    tile_maxima,
    tiles,
    groups,
    smallest,
    num_tiles,
    chosen_tiles,
    chosen_groups,
    GROUPS_PER_TILE: tl.constexpr,
    TILES_BLOCK: tl.constexpr,
    GROUPS_BLOCK: tl.constexpr,
):
    """Choose each query's groups with the largest maxima, from the tiles with the largest maxima.

    ``tiles`` (q, chosen_tiles) and ``groups`` (q, chosen_groups) come out in rising order,
    ``smallest`` (q,) is the smallest maximum of a chosen group.
    """
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, TILES_BLOCK)
    present = columns < num_tiles
    maxima = tl.load(tile_maxima + row * num_tiles + columns, mask=present, other=-float("inf"))
    kept = _are_largest(maxima, present, chosen_tiles)
    places = row * chosen_tiles + tl.cumsum(kept.to(tl.int32)) - 1
    tl.store(tiles + places, columns, mask=kept)
    tl.debug_barrier()  # other threads of this program read what these have written

    columns = tl.arange(0, GROUPS_BLOCK)
    present = columns < chosen_tiles * GROUPS_PER_TILE
    places = row * chosen_tiles + columns // GROUPS_PER_TILE
    ids = tl.load(tiles + places, mask=present, other=0) * GROUPS_PER_TILE
    ids += columns % GROUPS_PER_TILE
    places = row * num_tiles * GROUPS_PER_TILE + ids
    maxima = tl.load(group_maxima + places, mask=present, other=-float("inf"))
    kept = _are_largest(maxima, present, chosen_groups)
    places = row * chosen_groups + tl.cumsum(kept.to(tl.int32)) - 1
    tl.store(groups + places, ids, mask=kept)
    tl.store(smallest + row, tl.min(tl.where(kept, maxima, float("inf"))))


@triton.jit(do_not_specialize=["num_groups", "num_vectors", "num_excluded"])
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


@triton.jit(do_not_specialize=["num_groups", "first_id", "k"])
def rank_kernel(
    products,
    groups,
    unsorted_values,
    unsorted_ids,
    values,
    ids,
    num_groups,
    first_id,
    k,
    GROUP: tl.constexpr,
    BLOCK: tl.constexpr,
    K_BLOCK: tl.constexpr,
    STEP: tl.constexpr,
):
    """Sort each query's k largest products, ties to the lower id.

    ``products`` (q, num_groups * GROUP) belong to the members of ``groups`` (q, num_groups), which
    rise. ``values`` and ``ids`` are (q, k); ids count from ``first_id`` and are -1 for -inf. Each
    value's place is the number of values that come before it.
    """
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    present = columns < num_groups * GROUP
    found = tl.load(
        products + row * num_groups * GROUP + columns, mask=present, other=-float("inf")
    )
    members = tl.load(groups + row * num_groups + columns // GROUP, mask=present, other=0) * GROUP
    kept = _are_largest(found, present, k)
    places = row * k + tl.cumsum(kept.to(tl.int32)) - 1
    tl.store(unsorted_values + places, found, mask=kept)
    tl.store(unsorted_ids + places, members + columns % GROUP, mask=kept)
    tl.debug_barrier()  # other threads of this program read what these have written

    columns = tl.arange(0, K_BLOCK)
    present = columns < k
    own = tl.load(unsorted_values + row * k + columns, mask=present, other=-float("inf"))
    before = tl.zeros((K_BLOCK,), tl.int32)
    for start in range(0, k, STEP):
        others = start + tl.arange(0, STEP)
        other = tl.load(unsorted_values + row * k + others, mask=others < k, other=-float("inf"))
        larger = other[None, :] > own[:, None]
        earlier = (other[None, :] == own[:, None]) & (others[None, :] < columns[:, None])
        before += tl.sum((larger | earlier).to(tl.int32), axis=1)
    found = tl.load(unsorted_ids + row * k + columns, mask=present, other=0).to(tl.int64)
    tl.store(values + row * k + before, own, mask=present)
    tl.store(
        ids + row * k + before, tl.where(own == -float("inf"), -1, found + first_id), mask=present
    )


@triton.jit
def scale_kernel(
    queries, unit, unit32, left_out, usable, dim, ROUGH: tl.constexpr, BLOCK: tl.constexpr
):
    """Scale each query to length one in float64.

    ``unit`` (q, d) is float64, ``unit32`` the same in float32; ``left_out`` (q,) float32 is the
    length of what rounding to ``ROUGH`` ("tf32" or a type) takes off that; ``usable`` (q,) says
    whether a query is finite and not zero. One that is not counts as all ones.
    """
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    present = columns < dim
    query = tl.load(queries + row * dim + columns, mask=present, other=0).to(tl.float64)
    finite = tl.sum((tl.abs(query) < float("inf")).to(tl.int32)) == BLOCK
    query = tl.where(finite, query, 0.0)
    largest = tl.max(tl.abs(query))
    good = largest > 0
    scaled = tl.where(good, query / tl.where(good, largest, 1.0), 1.0)
    scaled = tl.where(present, scaled, 0.0)
    scaled = scaled / tl.sqrt(tl.sum(scaled * scaled))
    wide = scaled.to(tl.float32)
    if ROUGH == "tf32":
        rounded = (wide.to(tl.int32, bitcast=True) & -8192).to(tl.float32, bitcast=True)
    else:
        rounded = wide.to(ROUGH).to(tl.float32)
    tl.store(unit + row * dim + columns, scaled, mask=present)
    tl.store(unit32 + row * dim + columns, wide, mask=present)
    tl.store(left_out + row, tl.sqrt(tl.sum((wide - rounded) * (wide - rounded))))
    tl.store(usable + row, good)


@triton.jit
def _phrase_places(ahead, phrases, present):
    """Mark the first entry of each phrase, and count the first entries ahead of each entry.

    ``ahead[i, j]`` says whether entry j comes before entry i.
    """
    same = phrases[None, :] == phrases[:, None]
    is_first = present & (tl.sum((ahead & same).to(tl.int32), axis=1) == 0)
    return is_first, tl.sum((ahead & is_first[None, :]).to(tl.int32), axis=1)


@triton.jit(do_not_specialize=["list_length", "k"])
def settle_kernel(
    listed_values,
    listed_ids,
    ceiling,
    left_out,
    usable,
    unit,
    vectors,
    owners,
    values,
    ids,
    phrases,
    certain,
    list_length,
    k,
    margin,
    error,
    dim,
    HAS_OWNERS: tl.constexpr,
    BLOCK: tl.constexpr,
    K_BLOCK: tl.constexpr,
    STEP: tl.constexpr,
):
    """Compute again in float64 what is too close, and keep the k best phrases of each query.

    ``listed_values`` and ``listed_ids`` (q, list_length) fall, ``values``, ``ids`` and ``phrases``
    are (q, k). ``certain`` (q,) is whether no vector that is not listed could belong there, given
    that its product is below ``ceiling`` or off by 1.01 ``left_out`` + ``error``.
    """
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    present = columns < list_length
    places = row * list_length + columns
    lowest = -float("inf")
    own = tl.load(listed_values + places, mask=present, other=lowest)
    own_ids = tl.load(listed_ids + places, mask=present, other=-1)
    own_phrases = own_ids
    if HAS_OWNERS:
        own_phrases = tl.load(owners + own_ids, mask=own_ids >= 0, other=-1)

    earlier = columns[None, :] < columns[:, None]
    is_first, place = _phrase_places(earlier, own_phrases, present)
    kth = tl.max(tl.where(is_first & (place == k - 1), own, lowest))
    cut = kth - margin
    last = tl.load(listed_values + row * list_length + list_length - 1)
    unseen = tl.load(ceiling + row) + 1.01 * tl.load(left_out + row) + error
    settled = (tl.maximum(unseen, last) < cut) | (last == lowest)
    tl.store(certain + row, settled & tl.load(usable + row))

    better = tl.load(listed_values + places - 1, mask=present & (columns > 0), other=-lowest)
    worse = tl.load(listed_values + places + 1, mask=columns < list_length - 1, other=lowest)
    found = own_ids >= 0
    finite = tl.where(found, own, 0.0)
    close = ((better - finite <= margin) | (finite - worse <= margin)) & (own >= cut) & found
    sums = tl.zeros((BLOCK, STEP), tl.float64)
    for start in range(0, dim, STEP):
        wide = start + tl.arange(0, STEP)
        query = tl.load(unit + row * dim + wide, mask=wide < dim, other=0)
        members = own_ids[:, None] * dim + wide[None, :]
        vector = tl.load(vectors + members, mask=close[:, None] & (wide < dim)[None, :], other=0)
        sums += query[None, :] * vector.to(tl.float64)
    cosines = tl.sum(sums, axis=1)
    cosines = (cosines + _ROUND_TO_GRID) - _ROUND_TO_GRID
    own = tl.where(close, cosines.to(tl.float32), own)

    earlier = (own_ids[None, :] < own_ids[:, None]) | (
        (own_ids[None, :] == own_ids[:, None]) & earlier
    )
    same = own_phrases[None, :] == own_phrases[:, None]
    earlier = (own_phrases[None, :] < own_phrases[:, None]) | (same & earlier)
    ahead = (own[None, :] > own[:, None]) | ((own[None, :] == own[:, None]) & earlier)
    is_first, place = _phrase_places(ahead, own_phrases, present & (own > lowest))
    kept = is_first & (place < k)
    tl.store(values + row * k + place, own, mask=kept)
    tl.store(ids + row * k + place, own_ids, mask=kept)
    tl.store(phrases + row * k + place, own_phrases, mask=kept)
    columns = tl.arange(0, K_BLOCK)
    empty = (columns < k) & (columns >= tl.sum(is_first.to(tl.int32)))
    tl.store(values + row * k + columns, lowest, mask=empty)
    tl.store(ids + row * k + columns, -1, mask=empty)
    tl.store(phrases + row * k + columns, -1, mask=empty)
