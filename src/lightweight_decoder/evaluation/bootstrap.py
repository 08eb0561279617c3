"""How sure a figure is: bootstrap intervals, and a paired test between two systems.

Queries are drawn with replacement, all figures of one query together. Shapes: q queries, r
resamples.

Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993 (percentile intervals;
paired test by resampling differences).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from lightweight_decoder.errors import ConfigError, InputDataError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Float64Array = npt.NDArray[np.float64]

_NUMBERS_AT_ONCE = 2_000_000  # drawn queries held in memory together, 8 bytes each


class Interval(NamedTuple):
    """A bootstrap interval."""

    low: float
    high: float


class PairedDifference(NamedTuple):
    """How much better the second of two systems is on the same queries.

    Attributes:
        difference: Mean of second minus first.
        low: Lower end of its interval.
        high: Upper end of its interval.
        p_value: Two-sided: how often a difference this far from 0 comes about by the choice of
            queries alone; at least 1 / (r + 1).
    """

    difference: float
    low: float
    high: float
    p_value: float


def mean_intervals(
    values: Mapping[str, Float64Array],
    *,
    num_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Interval]:
    """Percentile intervals of the mean of each metric, from the same resamples for all.

    Args:
        values: Metric name to its (q,) value for each query, all of the same q queries.
        num_resamples: r, how often to draw.
        level: Share of resampled means inside the interval, in (0, 1).
        seed: Of the draws; the same seed gives the same intervals.

    Raises:
        ConfigError: ``level`` outside (0, 1), or no resamples.
        InputDataError: No metrics, no queries, lengths that differ, or values that are not finite.
    """
    _check_options(num_resamples, level)
    table = _table(values)
    means = _resampled_means(table, num_resamples, seed)
    return {name: _interval(column, level) for name, column in zip(values, means.T, strict=True)}


def median_interval(
    values: Float64Array, *, num_resamples: int = 1000, level: float = 0.95, seed: int = 0
) -> Interval:
    """Percentile interval of the median, for ``median_rank``.

    Args:
        values: (q,) numbers; infinite ones stand for ranks of queries without target.
        num_resamples: r, how often to draw.
        level: Share of resampled medians inside the interval, in (0, 1).
        seed: Of the draws.

    Raises:
        ConfigError: ``level`` outside (0, 1), or no resamples.
        InputDataError: No queries.
    """
    _check_options(num_resamples, level)
    if values.ndim != 1 or len(values) == 0:
        raise InputDataError("values have the wrong shape", expected="(q,)", found=values.shape)
    medians = [np.median(values[rows], axis=1) for rows in _draws(len(values), num_resamples, seed)]
    return _interval(np.concatenate(medians), level)


def paired_bootstrap(
    first: Mapping[str, Float64Array],
    second: Mapping[str, Float64Array],
    *,
    num_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, PairedDifference]:
    """Is the second system better than the first, or were the queries kind to it?

    Args:
        first: Metric name to its (q,) value for each query, such as the baseline's.
        second: The same metrics of the other system on the same queries, in the same order.
        num_resamples: r, how often to draw.
        level: Share of resampled differences inside the interval, in (0, 1).
        seed: Of the draws.

    Raises:
        ConfigError: ``level`` outside (0, 1), or no resamples.
        InputDataError: The two have other metrics or another number of queries, there are none, or
            values are not finite.
    """
    _check_options(num_resamples, level)
    if list(first) != list(second):
        raise InputDataError(
            "the two systems have other metrics", expected=list(first), found=list(second)
        )
    before, after = _table(first), _table(second)
    if len(before) != len(after):
        raise InputDataError(
            "the two systems answered another number of queries",
            expected=len(before),
            found=len(after),
        )
    differences = after - before
    resampled = _resampled_means(differences, num_resamples, seed)
    return {
        name: _paired_difference(float(mean), column, level)
        for name, mean, column in zip(first, differences.mean(axis=0), resampled.T, strict=True)
    }


def _paired_difference(mean: float, resampled: Float64Array, level: float) -> PairedDifference:
    """One metric's difference; resamples are centered on 0 to stand for "no difference"."""
    is_as_far = np.abs(resampled - mean) >= abs(mean) - 1e-12
    p_value = (1 + np.count_nonzero(is_as_far)) / (1 + len(resampled))
    return PairedDifference(mean, *_interval(resampled, level), p_value)


def _resampled_means(table: Float64Array, num_resamples: int, seed: int) -> Float64Array:
    """(r, metrics) mean of each column over each resample, as counts times values."""
    blocks = []
    for rows in _draws(len(table), num_resamples, seed):
        counts = np.stack([np.bincount(row, minlength=len(table)) for row in rows])
        blocks.append(counts.astype(np.float64) @ table / len(table))
    return np.concatenate(blocks)


def _draws(num_queries: int, num_resamples: int, seed: int) -> Iterator[npt.NDArray[np.int64]]:
    """Blocks of drawn queries, (rows, q) each, ``num_resamples`` rows in all."""
    rng = np.random.default_rng(seed)
    rows_at_once = max(1, _NUMBERS_AT_ONCE // num_queries)
    for start in range(0, num_resamples, rows_at_once):
        rows = min(rows_at_once, num_resamples - start)
        yield rng.integers(num_queries, size=(rows, num_queries))


def _interval(resampled: Float64Array, level: float) -> Interval:
    """Return the percentile interval; no interpolation, so that infinite medians stay whole."""
    tails = [(1 - level) / 2, (1 + level) / 2]
    low, high = np.quantile(resampled, tails, method="inverted_cdf")
    return Interval(float(low), float(high))


def _table(values: Mapping[str, Float64Array]) -> Float64Array:
    """(q, metrics) float64, refusing what cannot be resampled together."""
    shapes = {name: column.shape for name, column in values.items()}
    if len(set(shapes.values())) != 1 or len(next(iter(shapes.values()))) != 1:
        raise InputDataError(
            "metrics have the wrong shapes", expected="(q,) each, the same q", found=shapes
        )
    table = np.stack(list(values.values()), axis=1).astype(np.float64)
    if len(table) == 0:
        raise InputDataError("there are no queries to draw from")
    bad = np.argwhere(~np.isfinite(table))
    if len(bad) > 0:
        raise InputDataError(
            "a value is not finite", where=list(values)[bad[0][1]], at=f"row {bad[0][0]}"
        )
    return table


def _check_options(num_resamples: int, level: float) -> None:
    """Refuse a bootstrap that draws nothing, or an interval of everything."""
    if num_resamples < 1:
        raise ConfigError(
            "too few resamples", where="num_resamples", expected="at least 1", found=num_resamples
        )
    if not 0 < level < 1:
        raise ConfigError(
            "level is not a share", where="level", expected="between 0 and 1", found=level
        )
