"""What simple methods reach on the same vectors, where labels have examples.

Plain search looks at every vector of the bank, the labels' names among them. These see the labelled
examples alone: the label of the nearest one, the label with the nearest mean, and a logistic
regression (scikit-learn).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lightweight_decoder.evaluation.rank_metrics import NO_RANK, ranking_metrics

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from lightweight_decoder.datatypes import FloatArray, IntArray

LABEL_BASELINES = {
    "nearest_example": "nearest example",
    "centroid": "class centroid",
    "logistic_regression": "logistic regression",
}
"""What people call each system of ``metrics.json``."""

_MOST_LABELS = 1_000
_LEAST_EXAMPLES = 2  # a label, on average
_QUERIES_AT_ONCE = 1_024
_PENALTY_INVERSE = 30.0  # scikit-learn's C, for vectors of length one
_MOST_STEPS = 300


def label_baselines(
    examples: FloatArray, labels: IntArray, queries: FloatArray, targets: IntArray
) -> dict[str, float]:
    """Return the ranking metrics of each of ``LABEL_BASELINES``, as ``{system}/{metric}``.

    Ties go to the lower label. A right label without an example is never found.

    Args:
        examples: (m, d), of any length but zero.
        labels: (m,) the label of each.
        queries: (q, d) likewise, at least one.
        targets: (q,) the right label of each.

    Returns:
        Nothing where there are too few examples to speak of labels (fewer than 2 each), one label,
        or more than 1,000.
    """
    known = np.unique(labels)
    if not 1 < len(known) <= min(_MOST_LABELS, len(labels) / _LEAST_EXAMPLES):
        return {}
    classes = np.searchsorted(known, labels)
    unit, asked = _unit(examples), _unit(queries)
    systems = (_nearest_example, _centroid, _logistic_regression)
    return {
        f"{system}/{name}": value
        for system, fit in zip(LABEL_BASELINES, systems, strict=True)
        for name, value in ranking_metrics(
            _ranks(fit(unit, classes), asked, known, targets)
        ).items()
    }


def _nearest_example(unit: FloatArray, classes: IntArray) -> Callable[[FloatArray], FloatArray]:
    """Return each label's best cosine."""
    order = np.argsort(classes, kind="stable")
    starts = np.flatnonzero(np.diff(classes[order], prepend=-1))
    return lambda queries: np.maximum.reduceat(queries @ unit[order].T, starts, axis=1)


def _centroid(unit: FloatArray, classes: IntArray) -> Callable[[FloatArray], FloatArray]:
    """Return the cosine with each label's mean."""
    means = np.zeros((classes.max() + 1, unit.shape[1]), dtype=unit.dtype)
    np.add.at(means, classes, unit)
    return lambda queries: queries @ _unit(means).T


def _logistic_regression(unit: FloatArray, classes: IntArray) -> Callable[[FloatArray], FloatArray]:
    """Return the log-odds of each label."""
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415 - only this pays for it

    fitted = LogisticRegression(C=_PENALTY_INVERSE, max_iter=_MOST_STEPS).fit(unit, classes)
    weight, bias = fitted.coef_, fitted.intercept_
    if len(weight) == 1:  # of two labels it keeps one
        weight, bias = np.stack([-weight[0], weight[0]]), np.array([-bias[0], bias[0]])
    return lambda queries: np.asarray(queries @ weight.T + bias)


def _ranks(
    value: Callable[[FloatArray], FloatArray],
    queries: FloatArray,
    known: IntArray,
    targets: IntArray,
) -> IntArray:
    """Return the rank (q,) of each query's right label."""
    place = np.searchsorted(known, targets).clip(max=len(known) - 1)
    ranks = np.full(len(queries), NO_RANK, dtype=np.int64)
    for start in range(0, len(queries), _QUERIES_AT_ONCE):
        rows = slice(start, start + _QUERIES_AT_ONCE)
        values, right = value(queries[rows]), place[rows, None]
        own = np.take_along_axis(values, right, axis=1)
        is_lower = np.arange(len(known)) < right
        ranks[rows] = 1 + ((values > own) | ((values == own) & is_lower)).sum(axis=1)
    return np.where(known[place] == targets, ranks, NO_RANK)


def _unit(rows: npt.NDArray[np.floating]) -> FloatArray:
    """Scale rows to length one; those of length zero stay."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(lengths, np.finfo(np.float32).tiny), dtype=np.float32)
