"""Search in two steps: an index lists vectors, and these are compared exactly.

So values, order and ties are exact, and only what the index did not list can be missed. How hard
it must look to miss no more than is allowed is measured on the bank itself (:func:`tune`).
"""

from __future__ import annotations

import bisect
import logging
import math
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from lightweight_decoder.datatypes import NO_ID, Candidates
from lightweight_decoder.search.order import unit_queries
from lightweight_decoder.vectors.directions import unit_rows

if TYPE_CHECKING:
    from torch import Tensor

    from lightweight_decoder.search.exact import ExactSearch
    from lightweight_decoder.search.faiss_index import FaissIndex


logger = logging.getLogger(__name__)

LEAST_VECTORS = 1_000
"""Fewer are searched exactly: there is nothing to gain, and too little to train an index on."""

NUM_SAMPLES = 1_000
KS = (10, 100)
_MULTIPLES = (1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32)
_SAME_VALUE = 1e-6


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
    """

    def __init__(self, exact: ExactSearch, index: FaissIndex, setting: Setting) -> None:
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


class _Sample(NamedTuple):
    """Queries (q, d) for k phrases, and the lowest value that is among them, (q, 1)."""

    queries: Tensor
    k: int
    cut: Tensor


class _Choice(NamedTuple):
    """A length of list and the recall that it gave."""

    length: int
    recall: float


def sample_queries(vectors: Tensor, *, num: int = NUM_SAMPLES) -> Tensor:
    """Make queries (num, d) float32 that are like a bank's unit vectors without being any of them.

    Half are vectors with noise of their own length, half lie midway between two vectors. On
    WordNet, definitions are easier than both for every index tried: 8 candidates compared for each
    answer of PQ96x4fs found 0.9925 of the ten best for definitions, 0.982 and 0.989 for these.
    """
    generator = torch.Generator().manual_seed(0)
    picked = vectors[torch.randint(len(vectors), (num,), generator=generator)].float()
    noise = torch.empty_like(picked).normal_(generator=generator) / picked.shape[1] ** 0.5
    partners = vectors[torch.randint(len(vectors), (num,), generator=generator)].float()
    added = torch.where(torch.arange(num)[:, None] % 2 == 0, noise, partners)
    return unit_rows(picked + added + 1e-6 * noise)  # opposite vectors must not leave nothing


def tune(exact: ExactSearch, index: FaissIndex, queries: Tensor, target_recall: float) -> Setting:
    """Choose the least effort, and with it the shortest lists, that reach a recall.

    Recall is the share of the exact answer that the index finds for the sample (q, d), measured
    for 10 and for 100 phrases. Where nothing reaches the target, the longest lists at the greatest
    effort are chosen, with a warning.
    """
    ks = tuple(k for k in KS if k <= exact.num_phrases / 16) or (1,)
    chosen: list[_Choice] = []
    cuts = [exact.search(queries, k).values[:, -1:] - _SAME_VALUE for k in ks]
    for effort in index.efforts:
        chosen = []
        for k, cut in zip(ks, cuts, strict=True):
            sample = _Sample(queries, k, cut)
            chosen.append(_shortest_list(exact, index, effort, sample, target_recall))
            if chosen[-1].recall < target_recall:
                break
        else:
            break
    else:
        logger.warning(
            "%s: the index finds a share of %.4f, not %.4f, of the exact answer; "
            "search=exact finds all of it",
            type(index).__name__,
            chosen[-1].recall,
            target_recall,
        )
        last = chosen[-1]  # what follows it was not tried
        chosen += [
            _Choice(math.ceil(last.length * k / ks[len(chosen) - 1]), last.recall)
            for k in ks[len(chosen) :]
        ]
    lengths, recalls = zip(*chosen, strict=True)
    return Setting(effort=effort, ks=ks, list_lengths=lengths, recalls=recalls)


def _shortest_list(
    exact: ExactSearch, index: FaissIndex, effort: int, sample: _Sample, target_recall: float
) -> _Choice:
    """Find the shortest of some lengths that reaches the target; the longest where none does."""
    queries, k, cut = sample
    needed = k * max(1.0, exact.num_vectors / exact.num_phrases)
    lengths = [min(math.ceil(needed * multiple), exact.num_vectors) for multiple in _MULTIPLES]

    @cache
    def recall(length: int) -> float:
        setting = Setting(effort=effort, ks=(k,), list_lengths=(length,))
        found = ApproximateSearch(exact, index, setting).search(queries, k)
        return (found.values >= cut).double().mean().item()

    if recall(lengths[-1]) < target_recall:
        return _Choice(lengths[-1], recall(lengths[-1]))
    place = bisect.bisect_left(lengths, target_recall, hi=len(lengths) - 1, key=recall)
    return _Choice(lengths[place], recall(lengths[place]))
