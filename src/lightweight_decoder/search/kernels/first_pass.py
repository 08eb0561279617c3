"""What a first pass promises, and the plain one that runs everywhere."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from lightweight_decoder.datatypes import NO_ID
from lightweight_decoder.search.order import hide_excluded
from lightweight_decoder.search.products import products
from lightweight_decoder.search.vector_blocks import converted_blocks, slices

_QUERY_ROWS = 256


class Listed(NamedTuple):
    """What a first pass keeps for each query."""

    values: Tensor | None
    """(q, m) float32 products, falling, -inf where fewer than m vectors are left; None: the pass
    has only rougher ones, and lists in no order."""
    vectors: Tensor
    """(q, m) int64; without values ``NO_ID`` where fewer than m vectors are left."""
    unseen: Tensor
    """(q, 1): the value of a vector that is not listed is higher by float32's error at most."""

    def to(self, device: torch.device) -> Listed:
        """Bring all of it to a device."""
        values = None if self.values is None else self.values.to(device)
        return Listed(values, self.vectors.to(device), self.unseen.to(device))


class FirstPass(Protocol):
    """Lists, for each query, vectors that are likely to hold the best, and bounds all others."""

    def suits(self, num_queries: int, list_length: int, excluded: Tensor | None) -> bool:
        """Say whether such a search, the next one, is possible and pays."""
        ...

    def list_vectors(self, queries: Tensor, list_length: int, excluded: Tensor | None) -> Listed:
        """List m vectors or more, fewer than n, for each query.

        Queries are (q, d) float32 of length one, on the device that computes; ``excluded`` is
        (q, w) int64 vectors not to list, filled up with ``NO_ID``, or None.
        """
        ...

    def learn(self, num_searched: int, num_unsettled: int) -> None:  # noqa: ARG002 - most need not
        """Hear how many of the queries of a search the lists did not settle."""
        return


class BlockedPass(FirstPass):
    """Lists the largest of all float32 products, which are computed a block at a time.

    Suits only what the pass that it is ``instead_of`` does not.
    """

    def __init__(
        self,
        vectors: Tensor,
        device: torch.device,
        *,
        max_block_bytes: int,
        instead_of: FirstPass | None = None,
    ) -> None:
        self._vectors = vectors
        self._device = device
        share = min(1.0, vectors.shape[1] / _QUERY_ROWS)  # a narrow block has the larger products
        self._max_bytes = int(max_block_bytes * share)
        self._instead_of = instead_of

    def suits(self, num_queries: int, list_length: int, excluded: Tensor | None) -> bool:
        """Say yes, but for what another pass does better."""
        better = self._instead_of
        return better is None or not better.suits(num_queries, list_length, excluded)

    def list_vectors(self, queries: Tensor, list_length: int, excluded: Tensor | None) -> Listed:
        """List m vectors for each query, with their values; see :class:`FirstPass`."""
        values = queries.new_full((len(queries), list_length), -torch.inf)
        ids = torch.full_like(values, NO_ID, dtype=torch.int64)
        blocks = converted_blocks(
            self._vectors, torch.float32, self._device, max_bytes=self._max_bytes
        )
        for start, block in blocks:
            for rows in slices(len(queries), _QUERY_ROWS):
                scores = products(queries[rows], block)
                hide_excluded(scores, None if excluded is None else excluded[rows], start)
                top = scores.topk(min(list_length, scores.shape[1]), dim=1)
                merged = torch.cat([values[rows], top.values], dim=1).topk(list_length, dim=1)
                found = torch.cat([ids[rows], top.indices + start], dim=1)
                values[rows], ids[rows] = merged.values, found.gather(1, merged.indices)
        return Listed(values, ids, values[:, -1:].clone())
