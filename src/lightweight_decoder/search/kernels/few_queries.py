"""Exact search for a few queries in one go: nothing waits for the device until the end.

The steps are those of :class:`.ExactSearch` in six kernels, which fit into a CUDA graph. What they
cannot settle is only reported.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from lightweight_decoder.search.kernels.cuda_graphs import GraphedFunction
from lightweight_decoder.search.kernels.group_maxima import (
    Precision,
    Roundings,
    current,
    error_beyond_queries,
    fastest_precision,
    has_room_for,
    top_k_products,
)

if TYPE_CHECKING:
    from torch import Tensor

MOST_QUERIES = 64
_LONGEST_LIST = 128
"""One program compares all pairs of a query's listed vectors."""
_BYTES_PER_COPY = 16


class FewQueriesSearch:
    """Searches for few queries in vectors that a GPU holds; needs Triton.

    Extra memory on the device: about n / 4 + 600 k bytes for a query, 16 MB for 64 queries and
    1,000,000 vectors.

    Args:
        vectors: (n, d) unit rows on the GPU.
        owners: (n,) int64 there, the phrase of each vector; None: each is a phrase of its own.
        margin: Products that differ by more are in their true order.
        roundings: Those of these vectors.
    """

    def __init__(
        self, vectors: Tensor, owners: Tensor | None, *, margin: float, roundings: Roundings
    ) -> None:
        self._vectors = vectors
        self._roundings = roundings
        search = partial(_search_at_once, vectors=vectors, owners=owners, margin=margin)
        self._graphed = GraphedFunction(search)

    def suits(self, num_queries: int, list_length: int, excluded: Tensor | None) -> bool:
        """Say whether it is made for such a search.

        Vectors in rows that are no multiple of 16 bytes would be copied whole by every search,
        which the memory of a graph is not for.
        """
        return (
            0 < num_queries <= MOST_QUERIES
            and list_length <= _LONGEST_LIST
            and self._vectors.shape[1] * self._vectors.itemsize % _BYTES_PER_COPY == 0
            and has_room_for(list_length, excluded)
        )

    def search(
        self, queries: Tensor, k: int, list_length: int, excluded: Tensor | None
    ) -> tuple[Tensor, ...]:
        """Find the k best phrases for each query, and say for which they are certain.

        Args:
            queries: (q, d) floating point of any length, on the GPU.
            k: How many phrases to return, at most ``list_length``.
            list_length: How many vectors are compared, at most 128.
            excluded: (q, w) int64 vectors that do not count, filled up with ``NO_ID``, or None.

        Returns:
            Values, vectors and phrases (q, k) as ``ExactSearch`` gives them, and (q,) bool: whether
            they are right. They may not be where a cut falls among values that are too close to
            call, or where a query is zero or not finite.
        """
        precision = fastest_precision(self._vectors.dtype, len(queries))
        return self._graphed(
            *((queries,) if excluded is None else (queries, excluded)),
            k=k,
            list_length=list_length,
            precision=precision,
            vectors_error=self._roundings.longest(precision),
        )


def _search_at_once(
    queries: Tensor,
    excluded: Tensor | None = None,
    *,
    vectors: Tensor,
    owners: Tensor | None,
    margin: float,
    vectors_error: float,
    precision: Precision,
    k: int,
    list_length: int,
) -> tuple[Tensor, ...]:
    """Start all kernels."""
    from lightweight_decoder.search.kernels import triton_launch as launch  # noqa: PLC0415 - optional

    with current(queries.device):
        unit, unit32, left_out, usable = launch.scaled(queries, precision)
        listed = top_k_products(
            unit32, vectors, list_length, excluded=excluded, precision=precision
        )
        return launch.settled(
            listed,
            (unit, left_out, usable),
            vectors,
            owners,
            k=k,
            margin=margin,
            error=error_beyond_queries(vectors.shape[1], vectors_error, precision),
        )
