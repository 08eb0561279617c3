"""How high the right phrases stand in the ranking of the whole bank.

Everything here works on ranks, never on ranking values, so negative values need no care. Shapes:
q queries, m right phrases of the query that has the most.

A rank counts from 1 (best). Rank 0 (``NO_RANK``) means that there is nothing to find: in ``(q,)``
ranks the query has no right phrase in the bank; in ``(q, m)`` ranks it fills the rows of queries
with fewer than m right phrases. A query without a right phrase scores 0 in every mean, is counted
in ``num_queries``, and is worse than any rank for the median.

Ranks that are empty, negative or no whole numbers raise ``InputDataError``, a k below 1
``ConfigError``. No argument is changed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lightweight_decoder.errors import ConfigError, InputDataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lightweight_decoder.datatypes import IntArray

Float64Array = npt.NDArray[np.float64]

NO_RANK = 0
"""The rank of a right phrase that is not in the bank, and the filling of short rows of ranks."""


def median_rank(ranks: IntArray) -> float:
    """Return the median over queries of the rank of the best right phrase.

    Infinite where half of the queries or more have no right phrase.
    """
    best = best_ranks(ranks).astype(np.float64)
    best[best == NO_RANK] = np.inf
    return float(np.median(best))


def ranking_metrics(
    ranks: IntArray, *, recall_at: Sequence[int] = (1, 10, 100), mrr_at: Sequence[int] = ()
) -> dict[str, float]:
    """Return every ranking figure of a run, by the name it is logged under.

    ``recall@k`` for each k of ``recall_at``, ``mrr``, ``mrr@k`` for each of ``mrr_at``,
    ``median_rank`` and ``num_queries``.

    Example:
        >>> ranking_metrics(np.array([1, 4, 0]), recall_at=(1, 10))["recall@10"]
        0.6666666666666666
    """
    values = ranking_values(ranks, recall_at=recall_at, mrr_at=mrr_at)
    metrics = {name: float(value.mean()) for name, value in values.items()}
    metrics["median_rank"] = median_rank(ranks)
    metrics["num_queries"] = float(len(ranks))
    return metrics


def ranking_values(
    ranks: IntArray, *, recall_at: Sequence[int] = (1, 10, 100), mrr_at: Sequence[int] = ()
) -> dict[str, Float64Array]:
    """Return values (q,) float64 in [0, 1] whose means ``ranking_metrics`` gives, by name."""
    values = {f"recall@{k}": hits_at_k(ranks, k) for k in recall_at}
    values["mrr"] = reciprocal_ranks(ranks)
    return values | {f"mrr@{k}": reciprocal_ranks(ranks, k) for k in mrr_at}


def best_ranks(ranks: IntArray) -> IntArray:
    """Return the rank of each query's best right phrase, (q,) int64, 0 where it has none."""
    _check_ranks(ranks)
    if ranks.ndim == 1:
        return ranks
    far = np.iinfo(np.int64).max
    best = np.where(ranks == NO_RANK, far, ranks).min(axis=1)
    return np.where(best == far, NO_RANK, best)


def hits_at_k(ranks: IntArray, k: int) -> Float64Array:
    """(q,) float64, 1 where the best right phrase is among the first k, else 0."""
    _check_k(k)
    best = best_ranks(ranks)
    return np.where((best != NO_RANK) & (best <= k), 1.0, 0.0)


def reciprocal_ranks(ranks: IntArray, k: int | None = None) -> Float64Array:
    """(q,) float64, 1 / rank of the best right phrase; 0 past k and without a target."""
    best = best_ranks(ranks)
    hits = best != NO_RANK if k is None else hits_at_k(best, k) > 0
    values = np.zeros(len(best))
    np.divide(1.0, best, out=values, where=hits)
    return values


def average_precision_at_k(ranks: IntArray, k: int) -> Float64Array:
    """Return average precision over the first k, (q,) float64: trec_eval's ``map_cut``.

    The precision at the rank of each right phrase within the first k, summed and divided by the
    number of all right phrases (those past k included), whose ranks are distinct.
    """
    _check_k(k)
    ordered, counts = _ordered_ranks(ranks)
    found = np.arange(1, ordered.shape[1] + 1)
    precisions = np.where(ordered <= k, found / ordered, 0.0)
    return _shares(precisions.sum(axis=1), counts)


def ndcg_values_at_k(ranks: IntArray, k: int) -> Float64Array:
    """Return nDCG over the first k, (q,) float64; a right phrase gains 1 over log2(1 + rank).

    The ideal puts all right phrases first; their ranks are distinct. Source: Järvelin and
    Kekäläinen, "Cumulated gain-based evaluation of IR techniques", 2002, with the discount that
    scikit-learn and trec_eval use.
    """
    _check_k(k)
    ordered, counts = _ordered_ranks(ranks)
    gains = np.where(ordered <= k, 1 / np.log2(1 + ordered), 0.0).sum(axis=1)
    ideal_gains = np.cumsum(1 / np.log2(1 + np.arange(1, k + 1)))
    ideals = np.where(counts > 0, ideal_gains[np.clip(counts, 1, k) - 1], 0.0)
    return _shares(gains, ideals)


def _ordered_ranks(ranks: IntArray) -> tuple[Float64Array, IntArray]:
    """(q, m) float64 ranks in rising order, infinite where there is none; (q,) their counts."""
    _check_ranks(ranks)
    rows = ranks[:, None] if ranks.ndim == 1 else ranks
    ordered = np.where(rows == NO_RANK, np.inf, rows)
    ordered.sort(axis=1)
    return ordered, np.count_nonzero(rows, axis=1)


def _shares(parts: Float64Array, wholes: Float64Array | IntArray) -> Float64Array:
    """``parts / wholes``, 0 where the whole is 0."""
    shares = np.zeros(len(parts))
    np.divide(parts, wholes, out=shares, where=wholes > 0)
    return shares


def _check_ranks(ranks: IntArray) -> None:
    """Refuse ranks of the wrong shape or kind, and negative ones."""
    if ranks.ndim not in {1, 2} or not np.issubdtype(ranks.dtype, np.integer):
        found = f"{ranks.shape} {ranks.dtype}"
        raise InputDataError.unexpected("ranks", "(q,) or (q, m) whole numbers", found)
    if ranks.size == 0:
        raise InputDataError("there are no ranks", advice="Evaluate one query at least.")
    if ranks.min() < 0:
        place, expected = f"row {np.argwhere(ranks < 0)[0][0]}", "from 1, 0 for no target"
        raise InputDataError.unexpected("ranks", expected, int(ranks.min()), at=place)


def _check_k(k: int) -> None:
    """Refuse a k that looks at nothing."""
    if k < 1:
        raise ConfigError.unexpected("k", "at least 1", k)
