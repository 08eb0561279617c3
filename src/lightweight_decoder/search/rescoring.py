"""Puts the vectors that a first pass listed into the order that float64 gives them.

Float32 products of unit vectors are off by no more than a bound, so vectors whose values are
further apart than twice the bound are in their true order already; only the others are computed
again. A short list is computed in float64 altogether, which takes less time than asking which of
its entries need it.
"""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from lightweight_decoder.datatypes import NO_ID
from lightweight_decoder.search.order import (
    first_k_phrases,
    float32_error,
    has_close_neighbor,
    sorted_by_value,
    value_of_kth_phrase,
    values_of_lists,
    values_of_pairs,
)
from lightweight_decoder.search.products import listed_products

_FEW_PAIRS = 1_024
"""Up to so many pairs float64 at once is faster: by 0.17 of 0.80 ms for a query's 38 among 9,916
vectors of 384, by nothing for 32 times as many (2 cores of an AMD EPYC, Zen 4)."""


class Found(NamedTuple):
    """Rows of vectors, best first."""

    values: Tensor
    """(q, m) float32 cosines, -inf where a vector is missing or does not count."""
    vectors: Tensor
    """(q, m) int64."""
    phrases: Tensor
    """(q, m) int64, the owner of each vector."""

    def replace_rows(self, rows: Tensor | list[int], others: Found) -> None:
        """Put other rows in the place of some, in place."""
        for column, entries in zip(self, others, strict=True):
            column[rows] = entries


class Rescorer:
    """Computes values of listed vectors, as exactly as their order needs.

    Args:
        vectors: (n, d) float32 or float16, unit rows.
        owners: (n,) int64, the phrase of each vector; None: each is the phrase of its own number.

    Attributes:
        error_bound: How far a float32 product of a query and a vector can be off.
    """

    def __init__(self, vectors: Tensor, owners: Tensor | None) -> None:
        self._vectors = vectors
        self._owners = owners
        self.error_bound = float32_error(vectors.shape[1])

    def in_order(
        self, queries: Tensor, vectors: Tensor, k: int, *, values: Tensor | None = None
    ) -> Found:
        """Sort listed vectors as float64 does, down to where k phrases have been seen.

        Ties go to the lower phrase, then to the lower vector. Queries are (q, d) float64 of length
        one, vectors (q, m) int64 listed rows, filled up with ``NO_ID``; values are their falling
        float32 products, where they have been computed, and change in place.
        """
        if vectors.numel() <= _FEW_PAIRS:
            hidden = vectors == NO_ID if values is None else values == -torch.inf
            return self._in_float64(queries, vectors.masked_fill(hidden, NO_ID))
        if values is None:
            values = listed_products(queries.float(), self._vectors, vectors)
            values, order = values.sort(dim=1, descending=True)
            vectors = vectors.gather(1, order)
        found = Found(values, vectors, self._phrases_of(vectors).clone())
        margin = 2 * self.error_bound
        cut = self.value_of_kth_phrase(found, k) - margin
        too_close = has_close_neighbor(values, margin) & (values >= cut)
        pairs = too_close.nonzero()[:, 0], self._vectors, found.vectors[too_close]
        found.values[too_close] = values_of_pairs(queries, *pairs)
        rows = too_close.any(dim=1).nonzero().squeeze(1)
        found.replace_rows(rows, Found(*sorted_by_value(*(column[rows] for column in found))))
        return found

    def first_of_all(self, values: Tensor, k: int) -> Found:
        """Return the first k phrases, given the values (q, n) of all vectors, as rounded."""
        order = self._by_phrase  # ties then fall to the lower phrase, there to the lower vector
        values, places = values[:, order].sort(dim=1, descending=True, stable=True)
        vectors = order[places]
        return self.first_phrases(Found(values, vectors, self._phrases_of(vectors)), k)

    def value_of_kth_phrase(self, found: Found, k: int) -> Tensor:
        """Return the value at which each row has seen k phrases, (q, 1)."""
        if self._owners is None:
            return found.values[:, k - 1 : k]
        return value_of_kth_phrase(found.values, found.phrases, k)

    def first_phrases(self, found: Found, k: int) -> Found:
        """Reduce sorted rows to their first k phrases; hidden vectors become ``NO_ID``."""
        if self._owners is None:
            found = Found(*(column[:, :k] for column in found))
        else:
            found = Found(*first_k_phrases(*found, k))
        hidden = found.values == -torch.inf
        return Found(
            found.values,
            found.vectors.masked_fill(hidden, NO_ID),
            found.phrases.masked_fill(hidden, NO_ID),
        )

    def _in_float64(self, queries: Tensor, vectors: Tensor) -> Found:
        """Compute and sort a short list in float64."""
        vectors = vectors.sort(dim=1).values
        values = values_of_lists(queries, self._vectors, vectors)
        if self._owners is not None:
            return Found(*sorted_by_value(values, vectors, self._phrases_of(vectors)))
        values, order = values.sort(dim=1, descending=True, stable=True)
        vectors = vectors.gather(1, order)
        return Found(values, vectors, vectors)

    @cached_property
    def _by_phrase(self) -> Tensor:
        """All vectors, (n,), in the order of their phrases."""
        if self._owners is None:
            return torch.arange(len(self._vectors), device=self._vectors.device)
        return self._owners.argsort(stable=True)

    def _phrases_of(self, vectors: Tensor) -> Tensor:
        """Return each vector's phrase, ``NO_ID`` for ``NO_ID``."""
        if self._owners is None:
            return vectors
        return self._owners[vectors.clamp(min=0)].masked_fill_(vectors == NO_ID, NO_ID)
