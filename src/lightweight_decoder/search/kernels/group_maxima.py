"""The k largest products of queries and vectors on a GPU, without keeping all products.

Vectors are cut into groups. A matrix product that keeps only each group's largest value is followed
by a search for the k largest of those, and by a second look at the vectors of these k groups: every
one of the k best vectors is in one of them, because each group that comes before its own holds a
vector at least as good. Of equal values the lower group and then the lower vector wins, which gives
ties to the lower id.

The largest values of whole tiles of groups are kept too, so the search never reads more than a few
thousand values for a query.
"""

from __future__ import annotations

import contextlib
import importlib.util
import math
import os
import shutil
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from lightweight_decoder.search.kernels.first_pass import FirstPass, Listed
from lightweight_decoder.search.vector_blocks import device_blocks

Precision = Literal["float32", "tf32", "float16", "bfloat16"]
"""What products are computed in: float32 is three products of tf32. Sums are float32 in all."""

_BLOCK_ROWS = 2**20
_MOST_GROUPS = 1024
_MAXIMA_BYTES = 2**31
_QUERY_STEP = 128
_ROUND_FROM = 256
_FEW = 16
_BYTES_PER_COPY = 16  # rows of the GPU's copy engine are multiples of it

_DTYPES: dict[Precision, torch.dtype] = {
    "float32": torch.float32,
    "tf32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
_SLACK = 1.01
_TF32_BITS = -(2**13)  # the bits of float32 that tf32 keeps


class TopProducts(NamedTuple):
    """The largest products of each query, falling."""

    values: Tensor
    """(q, k) float32, -inf where fewer than k vectors are left."""
    vectors: Tensor
    """(q, k) int64, ``NO_ID`` where the value is -inf."""
    ceiling: Tensor
    """(q,) float32: vectors whose group was not chosen have no larger product in the precision that
    groups are chosen in."""


class Roundings:
    """How far each precision moves some vectors of length one at most; found out when asked for."""

    def __init__(self, vectors: Tensor, device: torch.device) -> None:
        self._vectors = vectors
        self._device = device
        self._longest: dict[Precision, float] = {}

    def longest(self, precision: Precision) -> float:
        """Return the length of the longest part that rounding takes off a vector."""
        if precision == "float32" or self._vectors.dtype == _DTYPES[precision] != torch.float32:
            return 0.0
        if precision not in self._longest:
            blocks = device_blocks(self._vectors, self._device, _BLOCK_ROWS // 64)
            lengths = [_rounding_lengths(block, precision).amax() for _, block in blocks]
            self._longest[precision] = float(torch.stack(lengths).amax())
        return self._longest[precision]


class GroupedPass(FirstPass):
    """Lists products of vectors that rougher products choose, or float32's own if ``in_full``."""

    def __init__(self, vectors: Tensor, roundings: Roundings, *, in_full: bool = False) -> None:
        self._vectors = vectors
        self._roundings = roundings
        self._in_full = in_full

    def suits(self, num_queries: int, list_length: int, excluded: Tensor | None) -> bool:  # noqa: ARG002
        """Say whether there is room for lists so long; see :class:`.FirstPass`."""
        return has_room_for(list_length, excluded)

    def list_vectors(self, queries: Tensor, list_length: int, excluded: Tensor | None) -> Listed:
        """List m vectors for each query, with their values; see :class:`.FirstPass`."""
        fastest = fastest_precision(self._vectors.dtype, len(queries))
        precision = "float32" if self._in_full else fastest
        values, ids, ceiling = top_k_products(
            queries, self._vectors, list_length, excluded=excluded, precision=precision
        )
        error = choice_error(queries, self._roundings.longest(precision), precision)
        return Listed(values, ids, torch.maximum(values[:, -1], ceiling + error)[:, None])


def is_available(device: torch.device) -> bool:
    """Say whether the kernels run on a device.

    That takes Triton, the C compiler that it calls, and an NVIDIA GPU from Ampere on. With
    ``TRITON_INTERPRET=1`` in the environment, Triton's interpreter runs them on the CPU.
    """
    if importlib.util.find_spec("triton") is None:
        return False
    if device.type == "cuda" and torch.version.hip is None:
        compilers = (os.environ.get("CC", "gcc"), "clang")
        can_compile = any(shutil.which(compiler) for compiler in compilers)
        return can_compile and torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1"


def has_room_for(k: int, excluded: Tensor | None) -> bool:
    """Say whether :func:`top_k_products` takes that many: one program handles a query's groups."""
    return _num_groups(k, excluded) <= _MOST_GROUPS


def fastest_precision(stored: torch.dtype, num_queries: int) -> Precision:
    """Choose the precision that groups are chosen in: the least time, then the least error.

    float16 is twice as fast as tf32 and more accurate, but rounding float32 vectors to it takes
    longer than reading them. Very few queries wait for the reading alone, whatever the precision.
    """
    if stored == torch.float32 and num_queries < _ROUND_FROM:
        return "float32" if num_queries <= _FEW else "tf32"
    return "bfloat16" if stored == torch.bfloat16 else "float16"


def choice_error(queries: Tensor, vectors_error: float, precision: Precision) -> Tensor:
    """Bound how far products that groups are chosen by can be off, for rows of about unit length.

    Rounding changes a product by at most the lengths of what is rounded off on both sides
    (Cauchy-Schwarz). What three products of tf32 leave out of a float32 product is less than 2**-20
    for each side, and as much for both. Sums lose d + 4 roundings of float32; tensor cores cut off
    instead of rounding (Fasi et al., Numerical behavior of NVIDIA tensor cores, PeerJ 2021), for
    which four times as much is allowed. One percent is for rows that are not quite of length one.

    Args:
        queries: (q, d) float32.
        vectors_error: The longest part that is rounded off a vector (:class:`Roundings`).
        precision: What the groups are chosen in.

    Returns:
        (q,) float32.
    """
    rounding = _rounding_lengths(queries, precision)
    return _SLACK * rounding + error_beyond_queries(queries.shape[1], vectors_error, precision)


def error_beyond_queries(dim: int, vectors_error: float, precision: Precision) -> float:
    """Return the part of :func:`choice_error` that is not due to rounding the queries."""
    sums = (dim + 4) * 2.0**-22
    left_out = 3 * 2.0**-20 if precision == "float32" else 0.0
    return _SLACK * (vectors_error + left_out + sums)


def _rounding_lengths(rows: Tensor, precision: Precision) -> Tensor:
    """Return the length of what is rounded off each row, (n,) float32; tf32 may cut off."""
    wide = rows.float()
    if precision == "tf32":
        rounded = (wide.view(torch.int32) & _TF32_BITS).view(torch.float32)
    else:
        rounded = wide.to(_DTYPES[precision]).float()
    lengths: Tensor = torch.linalg.vector_norm(wide - rounded, dim=1)
    return lengths


def top_k_products(
    queries: Tensor,
    vectors: Tensor,
    k: int,
    *,
    excluded: Tensor | None = None,
    precision: Precision,
) -> TopProducts:
    """Find the k largest products of each query with the vectors, ties to the lower id.

    Products are computed twice: in ``precision`` to choose groups of vectors, and for these in
    float32 from queries and vectors as they are, which gives the values. So the answer is exact up
    to the rounding of sums where both are stored in the precision. Elsewhere it is exact in those
    rows whose last value is above the ceiling by the error of the choice (:func:`choice_error`).
    Nothing waits for the device, so a call can be captured in a CUDA graph.

    Extra memory on the device: up to 2 GiB of maxima, a rounded copy of up to 2**20 vectors where
    they are not stored in the precision or in rows of a multiple of 16 bytes, and about
    100 q (k + w) bytes.

    Args:
        queries: (q, d) float32, float16 or bfloat16, on the device that computes.
        vectors: (n, d), n >= 1, on the same device, or on the CPU and then streamed to it.
        k: How many products to return, at least 1; k > n gives n columns.
        excluded: (q, w) int64 vectors that do not count for a query, filled up with ``NO_ID``;
            k + w is at most 1,023 (:func:`has_room_for`).
        precision: What groups are chosen in. For float16, entries are below 65,504 in size.

    Returns:
        The products, on the queries' device.
    """
    queries = queries.contiguous()
    if queries.shape[0] == 0:
        nothing = queries.new_empty((0, min(k, len(vectors))), dtype=torch.float32)
        return TopProducts(nothing, nothing.long(), nothing.new_empty(0))
    best: TopProducts | None = None
    with current(queries.device):
        for start, block in device_blocks(vectors, queries.device, _BLOCK_ROWS):
            found = _search_block(
                queries, block, k, first_id=start, excluded=excluded, precision=precision
            )
            best = found if best is None else _merged(best, found, k)
    if best is None:
        raise ValueError("there are no vectors to search")
    if k <= len(vectors):
        return best
    return TopProducts(
        best.values[:, : len(vectors)], best.vectors[:, : len(vectors)], best.ceiling
    )


def current(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Make a GPU the one that Triton starts kernels on."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


def _search_block(
    queries: Tensor,
    vectors: Tensor,
    k: int,
    *,
    first_id: int,
    excluded: Tensor | None,
    precision: Precision,
) -> TopProducts:
    """Search a block of vectors, for as many queries at once as their maxima leave room for."""
    from lightweight_decoder.search.kernels import triton_launch as launch  # noqa: PLC0415 - optional

    vectors = vectors.contiguous()
    rough_queries, rough_vectors = _rounded(queries, precision), _rounded(vectors, precision)
    num_groups, in_full = _num_groups(k, excluded), precision == "float32"
    most = _MAXIMA_BYTES // (4 * math.ceil(len(vectors) / launch.GROUP))
    step = max(_QUERY_STEP, most // _QUERY_STEP * _QUERY_STEP)
    parts = []
    for start in range(0, len(queries), step):
        rows = slice(start, start + step)
        groups, ceiling = launch.choose_groups(
            *launch.maxima_of_groups(rough_queries[rows], rough_vectors, in_full=in_full),
            num_groups,
        )
        hidden = None if excluded is None else (excluded[rows] - first_id).contiguous()
        products = launch.products_of_members(queries[rows], vectors, groups, hidden)
        values, ids = launch.largest_products(products, groups, k, first_id)
        parts.append(TopProducts(values, ids, ceiling))
    if len(parts) == 1:
        return parts[0]
    return TopProducts(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _num_groups(k: int, excluded: Tensor | None) -> int:
    """Count the groups to look at again.

    One more for each excluded vector, which may be its group's best, and one for the group that the
    last vectors leave incomplete, which is always chosen.
    """
    return k + 1 + (0 if excluded is None else excluded.shape[1])


def _rounded(rows: Tensor, precision: Precision) -> Tensor:
    """Round to a precision, in rows as the GPU's copy engine wants them."""
    rows = rows.to(_DTYPES[precision])
    surplus = -rows.shape[1] % (_BYTES_PER_COPY // rows.itemsize)
    return pad(rows, (0, surplus)) if surplus else rows.contiguous()


def _merged(first: TopProducts, second: TopProducts, k: int) -> TopProducts:
    """Keep the best of two blocks; ties stay with the first, whose ids are lower."""
    values = torch.cat([first.values, second.values], dim=1)
    values, order = values.sort(dim=1, descending=True, stable=True)
    ids = torch.cat([first.vectors, second.vectors], dim=1).gather(1, order)
    return TopProducts(values[:, :k], ids[:, :k], torch.maximum(first.ceiling, second.ceiling))
