"""How sure a figure is: bootstrap intervals, and a paired test between two systems.

Queries are drawn with replacement, all figures of one query together. Shapes: q queries, r
resamples.

Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993 (percentile intervals;
paired test by resampling differences).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lightweight_decoder.errors import ConfigError, InputDataError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Bootstrap:
    """Percentile intervals from the same draws for every figure.

    Args:
        num_resamples: r, how often to draw.
        level: Share of the resampled figures inside an interval, in (0, 1).
        seed: Of the draws; the same seed gives the same intervals.

    Raises:
        ConfigError: ``level`` outside (0, 1), or no resamples.

    Example:
        >>> Bootstrap(num_resamples=99).median_interval(np.array([1.0, 2.0, 2.0, np.inf]))
        Interval(low=1.0, high=inf)
    """

    num_resamples: int = 1000
    level: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        if self.num_resamples < 1:
            raise ConfigError.unexpected("num_resamples", "at least 1", self.num_resamples)
        if not 0 < self.level < 1:
            raise ConfigError.unexpected("level", "a share between 0 and 1", self.level)

    def mean_intervals(self, values: Mapping[str, Float64Array]) -> dict[str, Interval]:
        """Return the interval of each metric's mean, given its (q,) values of the same q queries.

        Raises:
            InputDataError: No metrics, no queries, lengths that differ, or values not finite.
        """
        means = self._means(_table(values))
        return {name: self._interval(each) for name, each in zip(values, means, strict=True)}

    def median_interval(self, values: Float64Array) -> Interval:
        """Return the interval of the median of (q,) numbers, infinite for queries without a target.

        Raises:
            InputDataError: No queries.
        """
        if values.ndim != 1 or len(values) == 0:
            raise InputDataError.unexpected("values", "shape (q,)", values.shape)
        return self._interval(
            self._resampled(len(values), lambda rows, axis: np.median(values[rows], axis=axis))
        )

    def compare(
        self, first: Mapping[str, Float64Array], second: Mapping[str, Float64Array]
    ) -> dict[str, PairedDifference]:
        """Return how much better the second system is, in each metric that both have.

        Both are metric names to (q,) values of the same queries, in the same order.

        Raises:
            InputDataError: No metric is in both, they have another number of queries, there are
                none, or values are not finite.
        """
        shared = [name for name in first if name in second]
        before, after = (_table({name: each[name] for name in shared}) for each in (first, second))
        if len(before) != len(after):
            raise InputDataError.unexpected(
                "the second system", f"{len(before)} queries", len(after)
            )
        differences = after - before
        rows = zip(shared, differences.mean(axis=0), self._means(differences), strict=True)
        return {name: self._difference(float(mean), means) for name, mean, means in rows}

    def _difference(self, mean: float, resampled: Float64Array) -> PairedDifference:
        """One metric's difference; resamples are centered on 0 to stand for "no difference"."""
        is_as_far = np.abs(resampled - mean) >= abs(mean) - 1e-12
        p_value = (1 + np.count_nonzero(is_as_far)) / (1 + len(resampled))
        return PairedDifference(mean, *self._interval(resampled), p_value)

    def _means(self, table: Float64Array) -> Float64Array:
        """(metrics, r) mean of each column over each resample, as counts times values."""

        def means(drawn: npt.NDArray[np.int64], axis: int) -> Float64Array:
            counts = np.stack([np.bincount(rows, minlength=len(table)) for rows in drawn])
            found: Float64Array = counts.astype(np.float64) @ table / drawn.shape[axis]
            return found.T

        return self._resampled(len(table), means)

    def _resampled(self, num_queries: int, statistic: Callable[..., Any]) -> Float64Array:
        """Return a statistic of drawn rows, (…, r)."""
        from scipy.stats import bootstrap  # noqa: PLC0415 - a second that only its users should pay

        rows = np.arange(max(num_queries, 2)) % num_queries  # scipy asks for two at least
        # What scipy makes of the distribution cannot be infinite.
        with warnings.catch_warnings(), np.errstate(invalid="ignore"):
            warnings.simplefilter("ignore")
            found = bootstrap(
                (rows,),
                statistic,
                n_resamples=self.num_resamples,
                batch=max(1, _NUMBERS_AT_ONCE // num_queries),
                vectorized=True,
                method="percentile",
                rng=self.seed,
            )
        distribution: Float64Array = found.bootstrap_distribution
        return distribution

    def _interval(self, resampled: Float64Array) -> Interval:
        """Return the percentiles; no interpolation, so that infinite medians stay whole."""
        tails = [(1 - self.level) / 2, (1 + self.level) / 2]
        low, high = np.quantile(resampled, tails, method="inverted_cdf")
        return Interval(float(low), float(high))


def _table(values: Mapping[str, Float64Array]) -> Float64Array:
    """(q, metrics) float64, refusing what cannot be resampled together."""
    shapes = {name: column.shape for name, column in values.items()}
    if len(set(shapes.values())) != 1 or len(next(iter(shapes.values()))) != 1:
        raise InputDataError.unexpected("metrics", "shape (q,) each, of the same q", shapes)
    table = np.stack(list(values.values()), axis=1).astype(np.float64)
    if len(table) == 0:
        raise InputDataError("there are no queries to draw from")
    bad = np.argwhere(~np.isfinite(table))
    if len(bad) > 0:
        name, place = list(values)[bad[0][1]], f"row {bad[0][0]}"
        raise InputDataError("a value is not finite", where=name, at=place)
    return table
