"""How far confidence can be trusted: calibration, telling right from wrong, and abstention.

Shapes: q queries, b bins. ``right`` says of each query whether its first phrase is right; a query
without a right phrase in the bank is never right. No queries, lengths that differ, values that are
not finite and confidence outside [0, 1] raise ``InputDataError``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lightweight_decoder.datatypes import FloatArray
from lightweight_decoder.errors import ConfigError, InputDataError

BoolArray = npt.NDArray[np.bool_]
Float64Array = npt.NDArray[np.float64]
AnyFloatArray = FloatArray | Float64Array

NUM_BINS = 15


@dataclass(frozen=True, slots=True)
class ReliabilityBins:
    """What a reliability diagram shows, one entry for each of b bins of equal width over [0, 1].

    The ``edges`` are (b + 1,) float64: a bin holds its lower one, the last holds 1 too. Each has
    ``counts`` int64 queries; mean ``confidence`` and ``accuracy`` are NaN in an empty one.
    """

    edges: Float64Array
    counts: npt.NDArray[np.int64]
    confidence: Float64Array
    accuracy: Float64Array


def reliability_bins(
    confidence: AnyFloatArray, right: BoolArray, *, num_bins: int = NUM_BINS
) -> ReliabilityBins:
    """Return mean confidence and accuracy in bins of equal width.

    Raises:
        ConfigError: ``num_bins`` is below 1.
    """
    if num_bins < 1:
        raise ConfigError.unexpected("num_bins", "at least 1", num_bins)
    _check_confidence(confidence, right)
    edges = np.linspace(0, 1, num_bins + 1)
    places = np.clip(np.searchsorted(edges, confidence, side="right") - 1, 0, num_bins - 1)
    counts = np.bincount(places, minlength=num_bins)

    def means(values: npt.NDArray[np.generic]) -> Float64Array:
        sums = np.bincount(places, weights=values.astype(np.float64), minlength=num_bins)
        result = np.full(num_bins, np.nan)
        np.divide(sums, counts, out=result, where=counts > 0)
        return result

    return ReliabilityBins(edges, counts, means(confidence), means(right))


def expected_calibration_error(
    confidence: AnyFloatArray, right: BoolArray, *, num_bins: int = NUM_BINS
) -> float:
    """Return ECE, L1 norm: mean over queries of their bin's distance of confidence from accuracy.

    In [0, 1], lower is better; bins as in :func:`reliability_bins`. Source: Guo et al., "On
    Calibration of Modern Neural Networks", 2017.
    """
    bins = reliability_bins(confidence, right, num_bins=num_bins)
    filled = bins.counts > 0
    gaps = np.abs(bins.confidence[filled] - bins.accuracy[filled])
    return float(gaps @ bins.counts[filled] / len(right))


def brier_values(confidence: AnyFloatArray, right: BoolArray) -> Float64Array:
    """Return the squared distance of confidence from 1 (right) or 0 (wrong), (q,) float64.

    The mean is the Brier score: in [0, 1], lower is better.
    """
    _check_confidence(confidence, right)
    values: Float64Array = np.square(confidence.astype(np.float64) - right)
    return values


def auroc(values: AnyFloatArray, positive: BoolArray) -> float:
    """Return how likely a positive query has a higher value than a negative one, ties half.

    Args:
        values: (q,) floats, higher for positive; confidence or any ranking value.
        positive: (q,) bool, both cases: right against wrong, or in-bank against out-of-bank.
    """
    from sklearn.metrics import roc_auc_score  # noqa: PLC0415 - a second, for those who calibrate

    _check_classes(values, positive)
    return float(roc_auc_score(positive, values))


def fpr_at_tpr(values: AnyFloatArray, positive: BoolArray, *, tpr: float = 0.95) -> float:
    """Return the least share of negatives, in [0, 1], that a threshold lets through.

    Values are (q,) floats, higher for positive; ``tpr`` in (0, 1] is the share of the positives,
    (q,) bool, that the threshold keeps at least.

    Raises:
        ConfigError: ``tpr`` is outside (0, 1].
    """
    from sklearn.metrics import roc_curve  # noqa: PLC0415 - as above

    if not 0 < tpr <= 1:
        raise ConfigError.unexpected("tpr", "above 0, at most 1", tpr)
    _check_classes(values, positive)
    false_rates, true_rates, _ = roc_curve(positive, values, drop_intermediate=False)
    return float(false_rates[true_rates >= tpr].min())


def risk_coverage_curve(
    values: AnyFloatArray, right: BoolArray
) -> tuple[Float64Array, Float64Array]:
    """Return selective risk where only the most confident queries are answered.

    Queries of equal value count with their mean error, so their order carries nothing.

    Args:
        values: (q,) floats, higher is surer; confidence or any ranking value.
        right: (q,) bool.

    Returns:
        Coverage (q,) float64, the share of answered queries (1/q, 2/q ... 1), and risk (q,)
        float64, the share of wrong answers among them.
    """
    _check_values(values, right)
    _, groups = np.unique(-values, return_inverse=True)
    group_errors = np.bincount(groups, weights=~right) / np.bincount(groups)
    errors = group_errors[np.sort(groups)]
    num_answered = np.arange(1, len(values) + 1)
    return num_answered / len(values), np.cumsum(errors) / num_answered


def aurc(values: AnyFloatArray, right: BoolArray) -> float:
    """Return the area under the risk-coverage curve, in [0, 1], lower is better.

    Mean selective risk over all coverages. Source: Geifman, Uziel and El-Yaniv, "Bias-Reduced
    Uncertainty Estimation for Deep Neural Classifiers", 2019, arXiv 1805.08206.
    """
    return float(risk_coverage_curve(values, right)[1].mean())


def confidence_metrics(confidence: AnyFloatArray, right: BoolArray) -> dict[str, float]:
    """Return every figure about confidence (q,) in [0, 1], by the name it is logged under.

    ``ece``, ``brier``, ``aurc``; and ``auroc_right`` where some first phrases are right and some
    wrong.
    """
    metrics = {
        "ece": expected_calibration_error(confidence, right),
        "brier": float(brier_values(confidence, right).mean()),
        "aurc": aurc(confidence, right),
    }
    if right.any() and not right.all():
        metrics["auroc_right"] = auroc(confidence, right)
    return metrics


def _check_values(values: AnyFloatArray, flags: BoolArray) -> None:
    """Refuse values that are not finite, and flags that do not go with them."""
    if flags.shape != values.shape or flags.dtype != np.bool_ or values.ndim != 1:
        found = f"{values.shape} {values.dtype} and {flags.shape} {flags.dtype}"
        raise InputDataError.unexpected("values and flags", "(q,) floats and (q,) bool", found)
    if len(values) == 0:
        raise InputDataError("there are no queries to evaluate")
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad) > 0:
        raise InputDataError("a value is not finite", at=f"row {bad[0]}", found=values[bad[0]])


def _check_confidence(confidence: AnyFloatArray, right: BoolArray) -> None:
    """Refuse what is not a probability."""
    _check_values(confidence, right)
    bad = np.flatnonzero((confidence < 0) | (confidence > 1))
    if len(bad) > 0:
        place, found = f"row {bad[0]}", confidence[bad[0]]
        raise InputDataError.unexpected("confidence", "0 to 1", found, at=place)


def _check_classes(values: AnyFloatArray, positive: BoolArray) -> None:
    """Refuse a comparison with nothing on one side."""
    _check_values(values, positive)
    if positive.all() == positive.any():
        found = f"{len(positive)} {'positive' if positive.all() else 'negative'} ones"
        raise InputDataError("there is one class only", expected="both classes", found=found)
