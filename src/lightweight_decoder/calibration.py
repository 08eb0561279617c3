"""Ranking values to confidence: the probability that the first phrase is right.

Ranking values order the phrases of one query; they do not say how far to trust the first of them.
A calibration is fitted on a split of its own, as a logistic regression on three features of the
best k values, each of which rises with the best value:

- the log-odds that a softmax over the values, at a fitted temperature, gives the first phrase
  (alone, with weight 1, this is temperature scaling: Guo et al., "On Calibration of Modern Neural
  Networks", 2017, arXiv 1706.04599);
- the similarity of the query to its nearest phrase, which is low for queries that no phrase of the
  bank answers;
- the margin of the first value over the second.

No weight is negative, so confidence never falls while the best value alone rises. The method
``"isotonic"`` then bends the result to the data with an isotonic regression, which needs more
examples (some thousand) and gives equal confidence to many queries.

Shapes: q queries, k candidates.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import expit, log_expit, logsumexp, softmax
from sklearn.isotonic import IsotonicRegression

from lightweight_decoder.errors import CheckpointError, ConfigError, InputDataError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lightweight_decoder.datatypes import FloatArray

CalibrationMethod = Literal["temperature", "isotonic"]
BoolArray = npt.NDArray[np.bool_]
Float64Array = npt.NDArray[np.float64]

_PENALTY = 1e-4  # on squared weights of unit-variance features: keeps separable data finite
_LOG_TEMPERATURE_RANGE = 5.0  # natural log, to both sides of the first guess


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """A fitted map from the values of a ranking to confidence; plain numbers only.

    Attributes:
        method: How it was fitted.
        num_candidates: k, how many values of each query it reads.
        needs_similarity: Whether it was fitted with a similarity beside the values.
        temperature: Divides the values before the softmax, in the unit of the values.
        weights: Of the softmax's log-odds, the similarity and the margin; none negative.
        bias: Added to the weighted features.
        log_odds_knots: Where the isotonic map bends, rising; empty for ``"temperature"``.
        confidence_knots: Its confidence at each of ``log_odds_knots``, never falling.
    """

    method: CalibrationMethod
    num_candidates: int
    needs_similarity: bool
    temperature: float
    weights: tuple[float, float, float]
    bias: float
    log_odds_knots: tuple[float, ...] = ()
    confidence_knots: tuple[float, ...] = ()

    def confidence(self, values: FloatArray, similarity: FloatArray | None = None) -> FloatArray:
        """The probability that each query's first phrase is right.

        Args:
            values: (q, k) float32 ranking values, best first, of the kind this was fitted on. Of
                more than ``num_candidates`` columns the first are read.
            similarity: (q,) float32 best cosine of the search, where this was fitted with one.

        Returns:
            (q,) float32 in [0, 1].

        Raises:
            ConfigError: Too few columns, or no similarity where the fit had one.
            InputDataError: Values of the wrong shape, not best first, or not finite.
        """
        if self.needs_similarity and similarity is None:
            raise ConfigError(
                "the calibration was fitted with the similarity of the nearest phrase",
                expected="similarity (q,)",
                found="none",
            )
        _check_values(values, similarity)
        if values.shape[1] < self.num_candidates:
            raise ConfigError(
                "too few candidates for this calibration",
                expected=f"at least {self.num_candidates} values a query",
                found=values.shape[1],
                advice="Search for more candidates, or calibrate again with fewer.",
            )
        read = values[:, : self.num_candidates].astype(np.float64)
        nearest = read[:, 0] if similarity is None else similarity.astype(np.float64)
        log_odds = _features(read, nearest, self.temperature) @ np.array(self.weights) + self.bias
        if self.method == "temperature":
            confidence = expit(log_odds)
        else:
            confidence = np.interp(log_odds, self.log_odds_knots, self.confidence_knots)
        return np.asarray(confidence, dtype=np.float32)

    def to_dict(self) -> dict[str, Any]:
        """Plain strings, numbers and lists: loads with ``weights_only=True`` and as JSON."""
        fields = asdict(self)
        return {key: list(v) if isinstance(v, tuple) else v for key, v in fields.items()}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Calibration:
        """The record that ``to_dict`` gave.

        Raises:
            CheckpointError: A field is missing, unknown, of the wrong kind, or not finite.
        """
        expected, found = sorted(cls.__dataclass_fields__), sorted(fields)
        if expected != found:
            raise _damaged("the fields are not those of a calibration", expected, found)
        try:
            softmax, similarity, margin = fields["weights"]
            calibration = cls(
                method=fields["method"],
                num_candidates=int(fields["num_candidates"]),
                needs_similarity=bool(fields["needs_similarity"]),
                temperature=float(fields["temperature"]),
                weights=(float(softmax), float(similarity), float(margin)),
                bias=float(fields["bias"]),
                log_odds_knots=_floats(fields["log_odds_knots"]),
                confidence_knots=_floats(fields["confidence_knots"]),
            )
        except (TypeError, ValueError) as error:
            raise _damaged("a field is of the wrong kind", "numbers", error) from error
        calibration._check()
        return calibration

    def _check(self) -> None:
        """Refuse a record that no fit could have made."""
        numbers = (self.temperature, self.bias, *self.weights)
        knots = (*self.log_odds_knots, *self.confidence_knots)
        if not np.isfinite([*numbers, *knots]).all():
            raise _damaged("a number is not finite", "finite numbers", [*numbers, *knots])
        if self.method not in get_args(CalibrationMethod):
            raise _damaged("unknown method", get_args(CalibrationMethod), self.method)
        if min(self.weights) < 0 or self.temperature <= 0 or self.num_candidates < 1:
            raise _damaged(
                "a number is out of range",
                "weights from 0, temperature and num_candidates above 0",
                (*self.weights, self.temperature, self.num_candidates),
            )
        lengths = (len(self.log_odds_knots), len(self.confidence_knots))
        if lengths[0] != lengths[1] or (lengths[0] > 0) != (self.method == "isotonic"):
            raise _damaged("the knots do not fit the method", self.method, f"{lengths} knots")


def fit_calibration(
    values: FloatArray,
    right: BoolArray,
    *,
    similarity: FloatArray | None = None,
    method: CalibrationMethod = "temperature",
) -> Calibration:
    """Learns from ranked queries, and whether the first phrase was right, how far to trust values.

    Queries whose right phrase is not in the bank are welcome, with ``right`` False: with some of
    them, as many as are to be expected in use, the fit learns to mistrust such queries.

    Args:
        values: (q, k) float32 ranking values, best first. 32 candidates or more serve large banks
            better than few.
        right: (q,) bool, whether the first phrase is right; both cases must be there.
        similarity: (q,) float32 best cosine of the search. Give it where the values are logits:
            they say which phrase is best, the cosine says whether any phrase is near. None takes
            the first value of each row.
        method: ``"temperature"``, or ``"isotonic"`` on top of it.

    Raises:
        ConfigError: Unknown method.
        InputDataError: Values of the wrong shape, not best first or not finite, or only right or
            only wrong examples.
    """
    if method not in get_args(CalibrationMethod):
        raise ConfigError(
            "unknown calibration method",
            where="method",
            expected=" or ".join(get_args(CalibrationMethod)),
            found=method,
        )
    _check_values(values, similarity)
    _check_right(right, len(values))
    exact = values.astype(np.float64)
    nearest = exact[:, 0] if similarity is None else similarity.astype(np.float64)
    temperature, weights, bias = _fit_log_odds(exact, nearest, right)
    log_odds = _features(exact, nearest, temperature) @ weights + bias
    knots = _isotonic_knots(log_odds, right) if method == "isotonic" else ((), ())
    return Calibration(
        method=method,
        num_candidates=values.shape[1],
        needs_similarity=similarity is not None,
        temperature=temperature,
        weights=weights,
        bias=bias,
        log_odds_knots=knots[0],
        confidence_knots=knots[1],
    )


def threshold_for_precision(confidence: FloatArray, right: BoolArray, target: float) -> float:
    """The lowest confidence to answer from so that at least ``target`` of the answers are right.

    Args:
        confidence: (q,) float32 in [0, 1].
        right: (q,) bool, whether the first phrase is right.
        target: Wanted precision, in (0, 1].

    Returns:
        A threshold: queries with ``confidence >= threshold`` are answered, the rest abstained from.

    Raises:
        ConfigError: ``target`` is outside (0, 1], or no threshold reaches it.
        InputDataError: Lengths differ, or there are no queries.
    """
    _check_share("target precision", target)
    _check_right(right, len(confidence), both=False)
    order = np.argsort(-confidence, kind="stable")
    ordered = confidence[order]
    precision = np.cumsum(right[order]) / np.arange(1, len(order) + 1)
    is_last_of_ties = np.append(ordered[1:] != ordered[:-1], True)
    reached = np.flatnonzero(is_last_of_ties & (precision >= target))
    if len(reached) == 0:
        raise ConfigError(
            "no threshold reaches the target precision",
            expected=target,
            found=f"at most {precision[is_last_of_ties].max():.4f}",
            advice="Aim lower, or set the threshold for a coverage.",
        )
    return float(ordered[reached[-1]])


def threshold_for_coverage(confidence: FloatArray, target: float) -> float:
    """The highest confidence to answer from so that a share of ``target`` is answered, at least.

    Args:
        confidence: (q,) float32 in [0, 1].
        target: Wanted share of answered queries, in (0, 1].

    Raises:
        ConfigError: ``target`` is outside (0, 1].
        InputDataError: There are no queries.
    """
    _check_share("target coverage", target)
    if len(confidence) == 0:
        raise InputDataError("there is no confidence to set a threshold from")
    num_answered = int(np.ceil(target * len(confidence) - 1e-9))
    return float(np.sort(confidence)[len(confidence) - num_answered])


def _features(values: Float64Array, similarity: Float64Array, temperature: float) -> Float64Array:
    """(q, 3) log-odds of the first phrase, similarity, margin; a lone phrase has neither rival."""
    if values.shape[1] == 1:
        nothing = np.zeros(len(values))
        return np.stack([nothing, similarity, nothing], axis=1)
    behind = values[:, 1:] - values[:, :1]
    log_odds = -logsumexp(behind / temperature, axis=1)
    return np.stack([log_odds, similarity, -behind[:, 0]], axis=1)


def _fit_log_odds(
    values: Float64Array, similarity: Float64Array, right: BoolArray
) -> tuple[float, tuple[float, float, float], float]:
    """Temperature, weights (none negative) and bias of least log loss."""
    guess = float(np.log(max(_spread(values), 1e-6)))
    scales = np.array([1.0, max(similarity.std(), 1e-6), max(_spread(values), 1e-6)])
    center = similarity.mean()

    def loss_and_gradient(parameters: Float64Array) -> tuple[float, Float64Array]:
        temperature, weights = float(np.exp(parameters[0])), parameters[1:4]
        features = _features(values, similarity - center, temperature) / scales
        log_odds = features @ weights + parameters[4]
        loss = -np.mean(log_expit(np.where(right, log_odds, -log_odds)))
        error = (expit(log_odds) - right) / len(right)
        slope = weights[0] * (error @ _log_temperature_slope(values, temperature))
        weight_slopes = error @ features + 2 * _PENALTY * weights
        gradient = np.concatenate([[slope], weight_slopes, [error.sum()]])
        return float(loss + _PENALTY * np.square(weights).sum()), gradient

    start = np.array([guess, 0.5, 0.0, 0.0, 0.0])
    near = (guess - _LOG_TEMPERATURE_RANGE, guess + _LOG_TEMPERATURE_RANGE)
    bounds = [near, (0, None), (0, None), (0, None), (None, None)]
    best = minimize(loss_and_gradient, start, jac=True, method="L-BFGS-B", bounds=bounds).x
    weights = best[1:4] / scales
    bias = best[4] - weights[1] * center
    return (
        float(np.exp(best[0])),
        (float(weights[0]), float(weights[1]), float(weights[2])),
        float(bias),
    )


def _log_temperature_slope(values: Float64Array, temperature: float) -> Float64Array:
    """(q,) derivative of the first feature in the log of the temperature."""
    if values.shape[1] == 1:
        return np.zeros(len(values))
    scaled = (values[:, 1:] - values[:, :1]) / temperature
    slope: Float64Array = (softmax(scaled, axis=1) * scaled).sum(axis=1)
    return slope


def _spread(values: Float64Array) -> float:
    """Mean distance of the first value from the others: the unit to start from."""
    return float((values[:, :1] - values).mean())


def _isotonic_knots(
    log_odds: Float64Array, right: BoolArray
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The bends of the isotonic regression of ``right`` on ``log_odds``."""
    fitted = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(log_odds, right)
    return _floats(fitted.X_thresholds_), _floats(fitted.y_thresholds_)


def _floats(numbers: Any) -> tuple[float, ...]:  # noqa: ANN401  # a list from a file, or an array
    """A tuple of plain floats."""
    return tuple(float(number) for number in numbers)


def _check_values(values: FloatArray, similarity: FloatArray | None) -> None:
    """Refuse values that are not a finite ranking, and a similarity that does not go with them."""
    if values.ndim != 2 or values.size == 0:  # noqa: PLR2004
        raise InputDataError("values have the wrong shape", expected="(q, k)", found=values.shape)
    _check_finite("a ranking value", values)
    falls = np.flatnonzero((np.diff(values, axis=1) > 0).any(axis=1))
    if len(falls) > 0:
        raise InputDataError("ranking values are not best first", at=f"row {falls[0]}")
    if similarity is None:
        return
    if similarity.shape != (len(values),):
        raise InputDataError(
            "similarity has the wrong shape", expected=(len(values),), found=similarity.shape
        )
    _check_finite("a similarity", similarity)


def _check_finite(what: str, numbers: FloatArray) -> None:
    """Refuse NaN and infinity, naming the first row with one."""
    bad = np.argwhere(~np.isfinite(numbers))
    if len(bad) > 0:
        raise InputDataError(
            f"{what} is not finite", at=f"row {bad[0][0]}", found=numbers[tuple(bad[0])]
        )


def _check_right(right: BoolArray, num_queries: int, *, both: bool = True) -> None:
    """Refuse answers that do not go with the queries, and splits that teach nothing."""
    if right.shape != (num_queries,) or right.dtype != np.bool_ or num_queries == 0:
        raise InputDataError(
            "right has the wrong form",
            expected=f"({max(num_queries, 1)},) bool",
            found=f"{right.shape} {right.dtype}",
        )
    if both and right.all() == right.any():
        raise InputDataError(
            "the calibration split has one class",
            expected="first phrases that are right and first phrases that are wrong",
            found=f"{num_queries} {'right' if right.all() else 'wrong'} ones",
            advice="Calibrate on more queries, none of which the decoder was trained on.",
        )


def _check_share(name: str, share: float) -> None:
    """Refuse a target that is not a share."""
    if not 0 < share <= 1:
        raise ConfigError(f"{name} is not a share", expected="above 0, at most 1", found=share)


def _damaged(summary: str, expected: object, found: object) -> CheckpointError:
    """The error for a saved calibration that cannot be read."""
    return CheckpointError(
        summary,
        where="calibration",
        expected=expected,
        found=found,
        advice="Calibrate again with scripts/calibrate.py.",
    )
