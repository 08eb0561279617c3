"""Search in two steps: an index lists vectors, and these are compared exactly.

So values, order and ties are exact, and only what the index did not list can be missed. How much
that is, is measured on the bank itself (:mod:`.tuning`).
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from lightweight_decoder.datatypes import NO_ID, Candidates
from lightweight_decoder.search.order import unit_queries

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from lightweight_decoder.datatypes import FloatArray, IntArray
    from lightweight_decoder.search.contract import SearchBackend
    from lightweight_decoder.search.exact import ExactSearch

logger = logging.getLogger(__name__)

LEAST_VECTORS = 1_000
"""Fewer are searched exactly: there is nothing to gain, and too little to train an index on."""


class Index(Protocol):
    """What a library made of a bank's vectors."""

    @property
    def efforts(self) -> Sequence[int]:
        """How hard it can look (lists to visit, nodes to keep), least first; at least one."""

    def set_effort(self, effort: int) -> None:
        """Choose how hard to look from now on."""

    def list_vectors(self, queries: FloatArray, length: int) -> IntArray:
        """List (q, length) int64 rows of the bank near unit queries (q, d), or ``NO_ID``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What was chosen to reach a recall.

    Attributes:
        effort: How hard the index looks.
        list_lengths: For each of ``ks``, how many vectors are listed and compared exactly.
        ks: Numbers of phrases for which recall was measured, ascending.
        recalls: The index recall at each of ``ks``: share of the exact answer that is found.
    """

    effort: int
    ks: tuple[int, ...]
    list_lengths: tuple[int, ...]
    recalls: tuple[float, ...] = ()

    def list_length(self, k: int) -> int:
        """How many vectors to list for k phrases: between ``ks`` on a line, beyond in proportion.

        >>> setting = Setting(effort=1, ks=(10, 100), list_lengths=(80, 260))
        >>> [setting.list_length(k) for k in (1, 10, 55, 100, 200)]
        [80, 80, 170, 260, 520]
        """
        between = float(np.interp(k, self.ks, self.list_lengths))
        return math.ceil(between * max(1.0, k / self.ks[-1]))


class ApproximateSearch:
    """Compares exactly what an index lists; a :class:`~lightweight_decoder.search.SearchBackend`.

    Where the list holds fewer than k phrases that count, the query is searched for exactly. So is
    every query when k is so large that this is no slower.

    Args:
        exact: Exact search in the same bank.
        index: Lists vectors.
        setting: How hard it looks and how long its lists are.
    """

    def __init__(self, exact: ExactSearch, index: Index, setting: Setting) -> None:
        self.setting = setting
        self._exact = exact
        self._index = index
        index.set_effort(setting.effort)

    @torch.no_grad()
    def search(
        self, queries: Tensor, k: int, *, exclude_vectors: Tensor | None = None
    ) -> Candidates:
        """Find the k best phrases for each query; see :class:`SearchBackend` for the contract."""
        length = self._list_length(k, 0 if exclude_vectors is None else exclude_vectors.shape[1])
        if len(queries) == 0 or length is None:
            return self._exact.search(queries, k, exclude_vectors=exclude_vectors)
        self._exact.check(queries, k, exclude_vectors)
        unit = unit_queries(queries.detach().cpu()).float().numpy()
        listed = torch.from_numpy(self._index.list_vectors(unit, length))
        found = self._exact.search_among(queries, listed, k, exclude_vectors=exclude_vectors)
        short = (found.phrase_ids[:, -1] == NO_ID).nonzero().squeeze(1)
        if len(short):
            excluded = None if exclude_vectors is None else exclude_vectors[short]
            again = self._exact.search(queries[short], k, exclude_vectors=excluded)
            for name in ("phrase_ids", "vector_ids", "values"):
                getattr(found, name)[short] = getattr(again, name)
        return found

    def _list_length(self, k: int, num_excluded: int) -> int | None:
        """How many vectors to list; None where comparing all is no slower."""
        num_vectors, num_phrases = self._exact.num_vectors, self._exact.num_phrases
        vectors_needed = math.ceil(min(k, num_phrases) * max(1.0, num_vectors / num_phrases))
        if k < 1 or vectors_needed > num_vectors / 8:
            return None
        return min(self.setting.list_length(k) + num_excluded, num_vectors)


def lowest_recall(search: SearchBackend) -> float | None:
    """Return the lowest index recall that was measured; None where everything is compared."""
    if not isinstance(search, ApproximateSearch):
        return None
    return min(search.setting.recalls)
