"""Chooses how hard an index must look to reach a recall, by measuring on the bank itself."""

from __future__ import annotations

import bisect
import logging
import math
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import torch

from lightweight_decoder.search.approximate import ApproximateSearch, Index, Setting
from lightweight_decoder.vectors.directions import unit_rows

if TYPE_CHECKING:
    from torch import Tensor

    from lightweight_decoder.search.exact import ExactSearch

logger = logging.getLogger(__name__)

NUM_SAMPLES = 1_000
KS = (10, 100)
_MULTIPLES = (1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32)
_SAME_VALUE = 1e-6


class _Choice(NamedTuple):
    """A length of list and the recall that it gave."""

    length: int
    recall: float


def sample_queries(vectors: Tensor, *, num: int = NUM_SAMPLES, seed: int = 0) -> Tensor:
    """Make queries (num, d) float32 that are like a bank's vectors without being any of them.

    Half are vectors with noise of their own length, half lie midway between two vectors. On
    WordNet, definitions are easier than both for every index tried: 8 candidates compared for each
    answer of PQ96x4fs found 0.9925 of the ten best for definitions, 0.982 and 0.989 for these.

    Args:
        vectors: (n, d) unit rows.
        num: How many to make.
        seed: Chooses vectors and noise.
    """
    generator = torch.Generator().manual_seed(seed)
    picked = vectors[torch.randint(len(vectors), (num,), generator=generator)].float()
    noise = torch.empty_like(picked).normal_(generator=generator) / picked.shape[1] ** 0.5
    partners = vectors[torch.randint(len(vectors), (num,), generator=generator)].float()
    added = torch.where(torch.arange(num)[:, None] % 2 == 0, noise, partners)
    return unit_rows(picked + added + 1e-6 * noise)  # opposite vectors must not leave nothing


def tune(exact: ExactSearch, index: Index, queries: Tensor, target_recall: float) -> Setting:
    """Choose the least effort, and with it the shortest lists, that reach a recall.

    Args:
        exact: The reference.
        index: What to tune.
        queries: (q, d) sample.
        target_recall: Share of the exact answer to be found, for 10 and for 100 phrases.

    Returns:
        The setting and its measured recalls. Where nothing reaches the target, the longest lists
        at the greatest effort, and a warning.
    """
    ks = tuple(k for k in KS if k <= exact.num_phrases / 16) or (1,)
    chosen: list[_Choice] = []
    cuts = [exact.search(queries, k).values[:, -1:] - _SAME_VALUE for k in ks]
    for effort in index.efforts:
        chosen = []
        for k, cut in zip(ks, cuts, strict=True):
            chosen.append(
                _shortest_list(
                    exact,
                    index,
                    effort=effort,
                    k=k,
                    queries=queries,
                    cut=cut,
                    target_recall=target_recall,
                )
            )
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
    exact: ExactSearch,
    index: Index,
    *,
    effort: int,
    k: int,
    queries: Tensor,
    cut: Tensor,
    target_recall: float,
) -> _Choice:
    """Find the shortest of some lengths that reaches the target; the longest where none does."""
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
