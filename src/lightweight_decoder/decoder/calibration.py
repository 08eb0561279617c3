"""Ranking values to confidence: the probability that the first phrase is right.

Ranking values order the phrases of one query; they do not say how far to trust the first of them.
A calibration is fitted on a split of its own, as a logistic regression on features that
rise with how sure the first phrase is:

- the log-odds that a softmax over the values, at a fitted temperature, gives the first phrase
  (alone, with weight 1, this is temperature scaling: Guo et al., "On Calibration of Modern Neural
  Networks", 2017, arXiv 1706.04599);
- the margin of the first value over the second;
- similarities of the query to the bank, which are low for queries that no phrase answers.

No weight is negative, so confidence never falls while the best value alone rises. The method
``"isotonic"`` then bends the result to the data with an isotonic regression, which needs more
examples (some thousand) and gives equal confidence to many queries.

Shapes: q queries, k candidates, s similarities.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, get_args

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict, Field, NonNegativeFloat, TypeAdapter, ValidationError
from scipy.special import expit, log_expit, logsumexp, softmax

from lightweight_decoder.decoder.abstention import (
    STRICT,
    OperatingPoints,
    Share,
    measure_operating_points,
)
from lightweight_decoder.errors import CheckpointError, ConfigError, InputDataError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lightweight_decoder.datatypes import FloatArray

CalibrationMethod = Literal["temperature", "isotonic"]
BoolArray = npt.NDArray[np.bool_]
Float64Array = npt.NDArray[np.float64]

_PENALTY = 1e-4  # on squared weights of unit-variance features: keeps separable data finite
_LEARNED_SHARE = 0.5  # of queries out of the bank, where weights learn from them alone
_LOG_TEMPERATURE_RANGE = 5.0  # natural log, to both sides of the first guess


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """A fitted map from the values of a ranking to confidence; plain numbers only.

    Attributes:
        method: How it was fitted.
        num_candidates: k, how many values of each query it reads.
        num_similarities: s, how many similarities it reads beside them; 0 where the first value is
            the only one.
        temperature: Divides the values before the softmax, in the unit of the values.
        weights: Of the softmax's log-odds, the margin, and each similarity; none negative.
        bias: Added to the weighted features.
        log_odds_knots: Where the isotonic map bends, rising; empty for ``"temperature"``.
        confidence_knots: Its confidence at each of ``log_odds_knots``, never falling.
        operating_points: What thresholds come to; see ``abstention``.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    method: CalibrationMethod
    num_candidates: Annotated[int, Field(gt=0)]
    num_similarities: Annotated[int, Field(ge=0)]
    temperature: Annotated[float, Field(gt=0)]
    weights: tuple[NonNegativeFloat, ...]
    bias: float
    log_odds_knots: tuple[float, ...] = ()
    confidence_knots: tuple[Share, ...] = ()
    operating_points: OperatingPoints | None = None

    @classmethod
    def fit(
        cls,
        values: FloatArray,
        right: BoolArray,
        *,
        similarity: FloatArray | None = None,
        in_bank: BoolArray | None = None,
        out_of_bank_share: float | None = None,
        method: CalibrationMethod = "temperature",
    ) -> Calibration:
        """Return the calibration of ranked queries of which it is known whether the first is right.

        Queries whose right phrase is not in the bank are welcome, with ``right`` and ``in_bank``
        False: the fit then learns to mistrust such queries. With a share of 0 of them in use, the
        weights learn from them all the same, as from half of all queries; slope and bias of the
        log-odds are then fitted again to the others (Platt scaling), so that confidence is theirs.
        The operating points are over the others. ``fit_calibration`` does all of it for a decoder.

        Args:
            values: (q, k) float32 ranking values, best first. 32 candidates or more serve large
                banks better than few.
            right: (q,) bool, whether the first phrase is right; both cases must be there.
            similarity: (q, s) float32 similarities of the query to the bank, each higher for
                queries that some phrase answers. Give them where the values are logits: these say
                which phrase is best, a cosine says whether any phrase is near. None takes the first
                value.
            in_bank: (q,) bool; None: all are.
            out_of_bank_share: Share of queries in use that no phrase answers, in [0, 1); those
                given here are weighted to be that share. None counts each query as one.
            method: ``"temperature"``, or ``"isotonic"`` on top of it.

        Raises:
            ConfigError: Unknown method, or a share out of range.
            InputDataError: Values of the wrong shape, not best first or not finite, or only right
                or only wrong examples.
        """
        if method not in get_args(CalibrationMethod):
            expected = " or ".join(get_args(CalibrationMethod))
            problem = "unknown calibration method"
            raise ConfigError.unexpected("method", expected, method, summary=problem)
        _check_values(values, similarity)
        _check_right(right, len(values))
        inside = np.ones(len(values), dtype=bool) if in_bank is None else in_bank
        exact = values.astype(np.float64)
        near = exact[:, :1] if similarity is None else similarity.astype(np.float64)
        importance = _importance(inside, out_of_bank_share)
        seen = _importance(inside, _LEARNED_SHARE) if out_of_bank_share == 0 else importance
        temperature, weights, bias = _fit_log_odds(exact, near, right, seen)
        log_odds = _features(exact, near, temperature) @ np.array(weights) + bias
        if seen is not importance and not inside.all():
            slope, offset = _fit_line(log_odds, right, importance)
            weights, bias = _floats(slope * np.array(weights)), slope * bias + offset
            log_odds = slope * log_odds + offset
        isotonic = method == "isotonic"
        knots = _isotonic_knots(log_odds, right, importance) if isotonic else ((), ())
        calibration = cls(
            method=method,
            num_candidates=values.shape[1],
            num_similarities=0 if similarity is None else similarity.shape[1],
            temperature=temperature,
            weights=weights,
            bias=bias,
            log_odds_knots=knots[0],
            confidence_knots=knots[1],
        )
        confidence = calibration.confidence(values, similarity)
        points = measure_operating_points(confidence[inside], right[inside])
        return replace(calibration, operating_points=points)

    def confidence(self, values: FloatArray, similarity: FloatArray | None = None) -> FloatArray:
        """Return the probability that each query's first phrase is right, (q,) float32 in [0, 1].

        Args:
            values: (q, k) float32 ranking values, best first, of the kind this was fitted on. Of
                more than ``num_candidates`` columns the first are read.
            similarity: (q, s) float32 of the kind this was fitted with, where it was.

        Raises:
            ConfigError: Too few columns, or other similarities than the fit had.
            InputDataError: Values of the wrong shape, not best first, or not finite.
        """
        found = 0 if similarity is None else similarity.shape[-1]
        if self.num_similarities not in {0, found}:
            raise ConfigError(
                "the calibration was fitted with similarities of the query to the bank",
                expected=f"similarity (q, {self.num_similarities})",
                found=None if similarity is None else similarity.shape,
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
        near = read[:, :1]
        if self.num_similarities > 0 and similarity is not None:
            near = similarity.astype(np.float64)
        log_odds = _features(read, near, self.temperature) @ np.array(self.weights) + self.bias
        if self.method == "temperature":
            confidence = expit(log_odds)
        else:
            confidence = np.interp(log_odds, self.log_odds_knots, self.confidence_knots)
        return np.asarray(confidence, dtype=np.float32)

    def __repr__(self) -> str:
        return (
            f"Calibration({self.method}, reads {self.num_candidates} values and "
            f"{self.num_similarities} similarities of a query)"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain strings, numbers and lists: for ``weights_only=True`` and for JSON."""
        points = None if self.operating_points is None else self.operating_points.to_dict()
        fields = asdict(self) | {"operating_points": points}
        return {key: list(v) if isinstance(v, tuple) else v for key, v in fields.items()}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Calibration:
        """Return the record that ``to_dict`` gave.

        Raises:
            CheckpointError: A field is missing, unknown, of the wrong kind, out of its range, or
                does not go with the others: no fit could have made such a record.
        """
        try:
            calibration = TypeAdapter(cls).validate_json(json.dumps(fields))
        except ValidationError as error:
            wrong = error.errors(include_url=False)[0]
            found = "nothing" if wrong["type"] == "missing" else repr(wrong["input"])[:80]
            raise _damaged(".".join(map(str, wrong["loc"])), wrong["msg"], found) from error
        except (TypeError, ValueError, RecursionError) as error:
            raise _damaged("", "plain values", error) from error
        _check_together(calibration)
        return calibration


def _importance(in_bank: BoolArray, share: float | None) -> Float64Array:
    """(q,) how much each query counts, 1 on average."""
    num_inside, num_outside = np.count_nonzero(in_bank), np.count_nonzero(~in_bank)
    if share is None or num_outside == 0:
        return np.ones(len(in_bank))
    if not 0 <= share < 1:
        raise ConfigError(
            "is not a share", where="out_of_bank_share", expected="from 0 to below 1", found=share
        )
    each = share / (1 - share) * num_inside / num_outside
    importance = np.where(in_bank, 1.0, each)
    return np.asarray(importance / importance.mean())


def _features(
    values: Float64Array, similarity: FloatArray | Float64Array, temperature: float
) -> Float64Array:
    """(q, 2 + s) log-odds of the first phrase, margin, similarities; a lone phrase has no rival."""
    if values.shape[1] == 1:
        nothing = np.zeros((len(values), 2))
        return np.concatenate([nothing, similarity], axis=1)
    behind = values[:, 1:] - values[:, :1]
    log_odds = -logsumexp(behind / temperature, axis=1)
    return np.concatenate([log_odds[:, None], -behind[:, :1], similarity], axis=1)


def _fit_log_odds(
    values: Float64Array, similarity: Float64Array, right: BoolArray, importance: Float64Array
) -> tuple[float, tuple[float, ...], float]:
    """Temperature, weights (none negative) and bias of least log loss."""
    spread = max(float((values[:, :1] - values).mean()), 1e-6)  # the unit to start from
    guess = float(np.log(spread))
    centers = similarity.mean(axis=0)
    scales = np.array([1.0, spread, *np.maximum(similarity.std(axis=0), 1e-6)])
    share = importance / importance.sum()

    def loss_and_gradient(parameters: Float64Array) -> tuple[float, Float64Array]:
        temperature, weights = float(np.exp(parameters[0])), parameters[1:-1]
        features = _features(values, similarity - centers, temperature) / scales
        log_odds = features @ weights + parameters[-1]
        loss = -(share @ log_expit(np.where(right, log_odds, -log_odds)))
        error = (expit(log_odds) - right) * share
        slope = weights[0] * (error @ _log_temperature_slope(values, temperature))
        weight_slopes = error @ features + 2 * _PENALTY * weights
        gradient = np.concatenate([[slope], weight_slopes, [error.sum()]])
        return float(loss + _PENALTY * np.square(weights).sum()), gradient

    start = np.array([guess, 0.5, *np.zeros(len(scales))])
    near = (guess - _LOG_TEMPERATURE_RANGE, guess + _LOG_TEMPERATURE_RANGE)
    bounds = [near, *[(0, None)] * len(scales), (None, None)]
    from scipy.optimize import minimize  # noqa: PLC0415 - only fitting pays for it

    best = minimize(loss_and_gradient, start, jac=True, method="L-BFGS-B", bounds=bounds).x
    weights = best[1:-1] / scales
    bias = best[-1] - weights[2:] @ centers
    return float(np.exp(best[0])), _floats(weights), float(bias)


def _fit_line(
    log_odds: Float64Array, right: BoolArray, importance: Float64Array
) -> tuple[float, float]:
    """Slope (not negative) and offset of the log-odds of least log loss."""
    from scipy.optimize import minimize  # noqa: PLC0415 - only fitting pays for it

    columns = np.stack([log_odds, np.ones_like(log_odds)], axis=1)
    share = importance / importance.sum()

    def loss_and_gradient(line: Float64Array) -> tuple[float, Float64Array]:
        fitted = columns @ line
        loss = -(share @ log_expit(np.where(right, fitted, -fitted)))
        slopes = ((expit(fitted) - right) * share) @ columns
        penalty = _PENALTY * np.array([2 * (line[0] - 1), 0])
        return float(loss + _PENALTY * (line[0] - 1) ** 2), slopes + penalty

    bounds = [(0, None), (None, None)]
    best = minimize(
        loss_and_gradient, np.array([1.0, 0.0]), jac=True, method="L-BFGS-B", bounds=bounds
    ).x
    return float(best[0]), float(best[1])


def _log_temperature_slope(values: Float64Array, temperature: float) -> Float64Array:
    """(q,) derivative of the first feature in the log of the temperature."""
    if values.shape[1] == 1:
        return np.zeros(len(values))
    scaled = (values[:, 1:] - values[:, :1]) / temperature
    slope: Float64Array = (softmax(scaled, axis=1) * scaled).sum(axis=1)
    return slope


def _isotonic_knots(
    log_odds: Float64Array, right: BoolArray, importance: Float64Array
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the bends of the isotonic regression of ``right`` on ``log_odds``."""
    from sklearn.isotonic import IsotonicRegression  # noqa: PLC0415 - only fitting pays for it

    regression = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip")
    fitted = regression.fit(log_odds, right, sample_weight=importance)
    return _floats(fitted.X_thresholds_), _floats(fitted.y_thresholds_)


def _floats(numbers: Any) -> tuple[float, ...]:  # noqa: ANN401  # a list from a file, or an array
    """Return a tuple of plain floats."""
    return tuple(float(number) for number in numbers)


def _check_values(values: FloatArray, similarity: FloatArray | None) -> None:
    """Refuse values that are not a finite ranking, and a similarity that does not go with them."""
    if values.ndim != 2 or values.shape[1] == 0:  # noqa: PLR2004
        raise InputDataError("values have the wrong shape", expected="(q, k)", found=values.shape)
    _check_finite("a ranking value", values)
    falls = np.flatnonzero((np.diff(values, axis=1) > 0).any(axis=1))
    if len(falls) > 0:
        raise InputDataError("ranking values are not best first", at=f"row {falls[0]}")
    if similarity is None:
        return
    if similarity.ndim != 2 or len(similarity) != len(values):  # noqa: PLR2004
        expected = f"({len(values)}, s)"
        raise InputDataError(
            "similarity has the wrong shape", expected=expected, found=similarity.shape
        )
    _check_finite("a similarity", similarity)


def _check_finite(what: str, numbers: FloatArray) -> None:
    """Refuse NaN and infinity, naming the first row with one."""
    bad = np.argwhere(~np.isfinite(numbers))
    if len(bad) > 0:
        raise InputDataError(
            f"{what} is not finite", at=f"row {bad[0][0]}", found=numbers[tuple(bad[0])]
        )


def _check_right(right: BoolArray, num_queries: int) -> None:
    """Refuse answers that do not go with the queries, and splits that teach nothing."""
    if right.shape != (num_queries,) or right.dtype != np.bool_:
        expected, found = f"({num_queries},) bool", f"{right.shape} {right.dtype}"
        raise InputDataError.unexpected(None, expected, found, summary="right has the wrong form")
    if len(np.unique(right)) < 2:  # noqa: PLR2004 - right and wrong
        raise InputDataError(
            "the calibration split has one class",
            expected="first phrases that are right and first phrases that are wrong",
            found=f"{num_queries} {'right' if right.any() else 'wrong'} ones",
            advice="Calibrate on more queries, none of which the decoder was trained on.",
        )


def _check_together(saved: Calibration) -> None:
    """Refuse fields that are right by themselves and do not go together."""
    num_weights, num_knots = 2 + max(saved.num_similarities, 1), len(saved.log_odds_knots)
    if len(saved.weights) != num_weights:
        raise _damaged("weights", f"{num_weights} numbers", len(saved.weights))
    if (num_knots > 0) != (saved.method == "isotonic"):
        raise _damaged("log_odds_knots", f"those of method {saved.method}", num_knots)
    if len(saved.confidence_knots) != num_knots:
        raise _damaged("confidence_knots", num_knots, len(saved.confidence_knots))
    for name in ("log_odds_knots", "confidence_knots"):
        if (np.diff(getattr(saved, name)) < 0).any():
            raise _damaged(name, "rising numbers", getattr(saved, name)[:10])
    if saved.operating_points is not None:
        columns = saved.operating_points.to_dict()
        lengths = {name: len(column) for name, column in columns.items()}
        if len(set(lengths.values())) > 1:
            raise _damaged("operating_points", "columns of equal length", lengths)


def _damaged(field: str, expected: object, found: object) -> CheckpointError:
    """Build the error for a saved calibration that cannot be used."""
    advice = "Calibrate again: lightweight-decoder calibrate."
    return CheckpointError.unexpected(
        f"calibration.{field}".rstrip("."), expected, found, advice=advice
    )
