"""A first pass on processors that multiply int8 faster than float32 (VNNI, AMX).

Products of rounded rows choose which vectors to look at again in float32. How far rounding moved
each row is known, so the caller knows which vectors cannot have been missed. Products are
kept for one block of vectors at a time; each block is cut into groups, and only members of the
groups with the largest maxima are compared (see :mod:`.group_maxima`).

A row is rounded to steps of its largest entry, so one that has most of its length in a few entries
is rounded badly. Vectors of which this is true (a PCA's, those of encoders with outlying
dimensions) are rotated at random first, which spreads their length and leaves products as they are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from lightweight_decoder.datatypes import NO_ID
from lightweight_decoder.search.kernels.first_pass import FirstPass, Listed
from lightweight_decoder.search.order import hide_excluded
from lightweight_decoder.search.products import products
from lightweight_decoder.search.vector_blocks import device_blocks, slices

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_LEAST_QUERIES = 256
_LEAST_QUERIES_WITHOUT_COPY = 768  # of so many is the time, in float32, to rotate and round
_LEAST_SURPLUS, _GREATEST_SURPLUS = 2, 8
_MOST_UNSETTLED = 1 / 8
_ROWS_TO_JUDGE_BY, _ROWS_REMEMBERED = 8, 1_024
_SMALL_SEARCHES_BEFORE_COPY = 8  # rounding 50,000 x 384 takes as long as 12 searches for a query

ERROR_COLUMNS = 8
"""Behind the entries: a vector's error, and a query's length, so that a product is the highest that
the rounding of the vector can have left it. More columns would cover queries of smaller steps."""

_STEPS = 127
_PLACES = _STEPS * torch.arange(ERROR_COLUMNS)
_ZERO_POINT = 128  # oneDNN multiplies uint8 by int8
_SAMPLE_ROWS = 512
_GOOD_ERROR = 0.016  # a vector of 384 normal numbers is moved by 0.007 to 0.013
_TINY = torch.finfo(torch.float32).tiny
_BFLOAT16_ROUNDOFF = 2.0**-8

_GROUP = 8
_LEAST_GROUPS = 2  # for each that is wanted; with fewer there is little to leave out
_FEW_SCORES = 2**14  # of all rows: sorted out at once, in 24 us, where groups take 76
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
    largest = torch.ones(64, 64, dtype=torch.float32)
    try:
        block = Int8Block.of(0, largest)
        found = block.products(_quantized_queries(largest).steps)
    except (AttributeError, RuntimeError):  # another torch's operators
        return False
    return bool((found == 64 * _STEPS).all())


@dataclass(frozen=True, slots=True)
class Int8Block:
    """Some of a bank's vectors as int8, laid out for the processor.

    Attributes:
        first_vector: The row of the bank at which they begin.
        packed: Steps of int8 and ``ERROR_COLUMNS``, in oneDNN's layout.
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
    def of(cls, first_vector: int, vectors: Tensor, *, rotation: Tensor | None = None) -> Int8Block:
        """Rotate (m, d) vectors and round each to 127 steps up to its largest entry."""
        dim = vectors.shape[1]
        steps = torch.empty(len(vectors), dim + ERROR_COLUMNS, dtype=torch.int8)
        scales = torch.empty(len(vectors), dtype=torch.float32)
        error = 0.0
        for rows in slices(len(vectors), _ROUNDED_ROWS):
            wide = _rotated(vectors[rows], rotation)
            rounded, scale = _quantized(wide)
            moved = _moved(wide, rounded, scale)
            steps[rows, :dim], steps[rows, dim:] = rounded, (moved / scale).ceil_()
            scales[rows] = scale.squeeze(1)
            error = max(error, moved.max().item())
        packed = torch.ops.onednn.qlinear_prepack(steps, [_QUERY_ROWS, steps.shape[1]])
        return cls(first_vector, packed, scales, torch.zeros(len(scales), dtype=torch.int32), error)

    def products(self, queries: Tensor) -> Tensor:
        """Multiply by rounded queries, uint8; (q, m) bfloat16, in steps of each query."""
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
        max_copy_bytes: Size of the largest copy, n d bytes, that is kept from one search to the
            next.

    Attributes:
        vectors: The same.
        surplus: How many vectors to list for each that is wanted. 2 settles nearly all queries in
            vectors of texts, where 4 would take a fifth longer; 1,000,000 random ones need 4.
    """

    def __init__(self, vectors: Tensor, *, max_block_bytes: int, max_copy_bytes: int) -> None:
        self.vectors = vectors
        self.surplus = _LEAST_SURPLUS
        self._num_searched = self._num_unsettled = 0
        self._are_too_alike = False
        self._max_block_bytes = max_block_bytes
        self._can_be_kept = vectors.numel() <= max_copy_bytes
        self._kept: list[Int8Block] | None = None
        self._num_small_searches = 0

    def pay(self, num_queries: int, *, again: bool = False) -> bool:
        """Say whether a search for so many queries, the next one, should use them.

        One that goes on with an earlier one (``again``) does not count as another.
        """
        if self._are_too_alike:
            return False
        if not self._can_be_kept:
            return num_queries >= _LEAST_QUERIES_WITHOUT_COPY
        if self._kept is not None or num_queries >= _LEAST_QUERIES:
            return True
        self._num_small_searches += not again
        return self._num_small_searches > _SMALL_SEARCHES_BEFORE_COPY

    def learn(self, num_searched: int, num_unsettled: int) -> None:
        """List more from now on if too many queries were not settled by what was listed.

        If most are not where most is listed, rounding does not pay for these vectors.
        """
        searched = self._num_searched + num_searched
        unsettled = self._num_unsettled + num_unsettled
        enough = searched >= _ROWS_TO_JUDGE_BY
        if enough and unsettled > _MOST_UNSETTLED * searched:
            hopeless = self.surplus == _GREATEST_SURPLUS and unsettled > searched / 2
            if hopeless and not self._are_too_alike:
                self._are_too_alike, self._kept = True, None
            self.surplus = min(2 * self.surplus, _GREATEST_SURPLUS)
        elif searched < _ROWS_REMEMBERED:
            self._num_searched, self._num_unsettled = searched, unsettled
            return
        self._num_searched = self._num_unsettled = 0

    def blocks(self) -> Iterable[Int8Block]:
        """Return the blocks; where they are too large to keep, each is made when it is its turn."""
        kept = self._kept  # another thread may drop it
        if kept is None and self._can_be_kept:
            kept = self._kept = list(self._made())
        return self._made() if kept is None else kept

    @cached_property
    def rotation(self) -> Tensor | None:
        """(d, d) float32, orthogonal, that vectors and queries are multiplied by; None: neither."""
        num_vectors, dim = self.vectors.shape
        sample = self.vectors[:: math.ceil(num_vectors / _SAMPLE_ROWS)].float()
        if Int8Block.of(0, sample).error < _GOOD_ERROR:
            return None
        normal = torch.randn(dim, dim, dtype=torch.float64, generator=torch.Generator())
        rotation: Tensor = torch.linalg.qr(normal).Q.float()
        return rotation

    def _made(self) -> Iterator[Int8Block]:
        num_vectors, dim = self.vectors.shape
        most_rows = max(1, min(_BLOCK_ROWS, self._max_block_bytes // dim))
        num_rows = math.ceil(num_vectors / math.ceil(num_vectors / most_rows))
        for start, block in device_blocks(self.vectors, torch.device("cpu"), num_rows):
            yield Int8Block.of(start, block, rotation=self.rotation)


class Int8Pass(FirstPass):
    """Lists what products in int8 choose; a :class:`.FirstPass` for the CPU.

    Lists are ``stretch`` times as long as asked for, more than 1 where an earlier pass did not
    settle a query. ``always``: it suits every search, and not only those that it makes faster.
    """

    def __init__(self, vectors: Int8Vectors, *, stretch: int = 1, always: bool = False) -> None:
        self._vectors = vectors
        self._stretch = stretch
        self._always = always

    def suits(self, num_queries: int, list_length: int, excluded: Tensor | None) -> bool:  # noqa: ARG002
        """Say whether rounding pays, and lists stay short; see :class:`.FirstPass`."""
        again = self._stretch > 1
        if again and self._stretch * list_length >= len(self._vectors.vectors) / 8:
            return False
        return self._always or self._vectors.pay(num_queries, again=again)

    def list_vectors(self, queries: Tensor, list_length: int, excluded: Tensor | None) -> Listed:
        """List more than m vectors, in no order and without values; see :class:`.FirstPass`."""
        length = self._vectors.surplus * self._stretch * list_length
        return int8_pass(queries, self._vectors, length, excluded)

    def learn(self, num_searched: int, num_unsettled: int) -> None:
        """List more from now on if too much was left open by lists of the usual length."""
        if self._stretch == 1:
            self._vectors.learn(num_searched, num_unsettled)


def int8_pass(
    queries: Tensor, vectors: Int8Vectors, list_length: int, excluded: Tensor | None
) -> Listed:
    """List the m vectors whose int8 products are the largest, in no order, without values.

    Queries are (q, d) float32 of length one, on the CPU; ``excluded`` as of :class:`.FirstPass`.
    """
    rounded, scale, moved, uncovered = _quantized_queries(_rotated(queries, vectors.rotation))
    rough = queries.new_empty(len(queries), 0)
    ids = torch.empty_like(rough, dtype=torch.int64)
    vectors_moved = 0.0
    for block in vectors.blocks():
        vectors_moved = max(vectors_moved, block.error)
        found = _largest_of_block(rounded, block, list_length, excluded)
        rough, ids = _merged((rough, ids), found, list_length) if block.first_vector else found
    last = rough.amin(dim=1, keepdim=True) * scale
    own_rounding = _BFLOAT16_ROUNDOFF * last.abs().nan_to_num(posinf=0)  # nothing left: none unseen
    # |q v - q' v'| <= |q - q'| |v| + |q'| |v - v'| (Cauchy-Schwarz); the second is in the products,
    # but for what is not covered. A percent is allowed for rows that are not quite of length one.
    error = 1.01 * (moved + uncovered * vectors_moved) + _float32_error(queries, vectors.rotation)
    return Listed(None, ids.masked_fill_(rough == -torch.inf, NO_ID), last + error + own_rounding)


def _largest_of_block(
    queries: Tensor, block: Int8Block, k: int, excluded: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return the k largest products with a block's vectors, unsorted, and whose they are."""
    fitting = _SCORE_BYTES // (2 * len(block.scales))
    parts = []
    for rows in slices(len(queries), max(1, min(_QUERY_ROWS, fitting))):
        scores = block.products(queries[rows])
        hide_excluded(scores, None if excluded is None else excluded[rows], block.first_vector)
        parts.append(_largest(scores, k))
    values, columns = parts[0] if len(parts) == 1 else map(torch.cat, zip(*parts, strict=True))
    return values, columns.add_(block.first_vector)


def _merged(
    first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor], k: int
) -> tuple[Tensor, Tensor]:
    """Keep the k largest of two lists, or all where there are fewer."""
    values, ids = (torch.cat(column, dim=1) for column in zip(first, second, strict=True))
    top = values.topk(min(k, values.shape[1]), dim=1, sorted=False)
    return top.values, ids.gather(1, top.indices)


def _rotated(rows: Tensor, rotation: Tensor | None) -> Tensor:
    """Rotate rows, float32."""
    return rows.float() if rotation is None else products(rows, rotation.T)


def _float32_error(queries: Tensor, rotation: Tensor | None) -> float:
    """Bound what float32 sums do to a product, with a good margin.

    A sum of d products of unit rows is off by (d + 4) / 2**24 at most. Where both rows are rotated,
    each of their d entries is, so either moves by the root of d times as much.
    """
    dim = queries.shape[1]
    sums = (dim + 4) * 2.0**-22
    return sums if rotation is None else sums * (1 + math.sqrt(dim))


def _quantized(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Round rows to steps from -127 to 127, float32; return also the length of a step, (m, 1)."""
    scale = rows.abs().amax(dim=1, keepdim=True).clamp_(min=_TINY) / _STEPS
    return (rows / scale).round_(), scale


class _Queries(NamedTuple):
    """Rounded queries."""

    steps: Tensor
    """(q, d) and ``ERROR_COLUMNS``, uint8."""
    scale: Tensor
    """(q, 1), the length of a step."""
    moved: Tensor
    """(q, 1), how far rounding moved the query."""
    uncovered: Tensor
    """(q, 1), how much of the rounded query's length the columns could not hold."""


def _quantized_queries(queries: Tensor) -> _Queries:
    """Round queries, and put their lengths in steps into columns of their own."""
    steps, scale = _quantized(queries)
    moved = _moved(queries, steps, scale)
    length = 1.01 * (1 + moved)
    columns = ((length / scale).ceil_() - _PLACES).clamp_(min=0, max=_STEPS)
    covered = columns.sum(dim=1, keepdim=True) * scale
    wide = torch.cat([steps, columns], dim=1) + _ZERO_POINT
    return _Queries(wide.to(torch.uint8), scale, moved, (length - covered).clamp_(min=0))


def _moved(rows: Tensor, steps: Tensor, scale: Tensor) -> Tensor:
    """Return how far rounding moved each row, (m, 1) Euclidean lengths."""
    moved: Tensor = torch.linalg.vector_norm(rows - steps * scale, dim=1, keepdim=True)
    return moved


def _largest(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k largest of each row, float32, unsorted, and their columns.

    They are in the k groups with the largest maxima, which are found in the same way.
    """
    width = scores.shape[1] // _GROUP  # a group is every width-th column: maxima in long strides
    if width <= _LEAST_GROUPS * k or scores.numel() <= _FEW_SCORES:
        top = scores.float().topk(min(k, scores.shape[1]), dim=1, sorted=False)
        return top.values, top.indices
    grouped = scores[:, : width * _GROUP]
    maxima = grouped.view(len(scores), _GROUP, width).amax(dim=1)
    _, groups = _largest(maxima, k)
    members = groups[:, :, None] + torch.arange(0, width * _GROUP, width)
    rest = torch.arange(width * _GROUP, scores.shape[1]).expand(len(scores), -1)
    columns = torch.cat([members.flatten(1), rest], dim=1)
    top = scores.gather(1, columns).float().topk(k, dim=1, sorted=False)
    return top.values, columns.gather(1, top.indices)
