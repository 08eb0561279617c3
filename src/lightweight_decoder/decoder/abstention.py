"""From which confidence on to answer, for a wanted precision or a wanted coverage.

Shapes: q queries, t thresholds.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict, Field

from lightweight_decoder.errors import ConfigError, InputDataError

if TYPE_CHECKING:
    from lightweight_decoder.datatypes import FloatArray

STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
"""How the records of a checkpoint are read: nothing is converted, nothing is left out."""

Share = Annotated[float, Field(ge=0, le=1)]

_MAX_POINTS = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatingPoints:
    """What answering from each of t thresholds on came to, on the queries of a calibration.

    Attributes:
        thresholds: Rising; queries with ``confidence >= threshold`` are answered.
        precisions: Share of right answers among them.
        coverages: Share of queries that were answered, never rising.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    thresholds: Annotated[tuple[Share, ...], Field(min_length=1)]
    precisions: tuple[Share, ...]
    coverages: tuple[Share, ...]

    def for_precision(self, target: float) -> float:
        """Return the lowest threshold from which on at least ``target`` of the answers were right.

        Raises:
            ConfigError: ``target`` is outside (0, 1], or no threshold reached it.
        """
        _check_share("target_precision", target)
        reached = np.flatnonzero(np.array(self.precisions) >= target)
        if len(reached) == 0:
            raise ConfigError(
                "no threshold reaches this precision",
                where="target_precision",
                expected=f"at most {max(self.precisions):.4f}",
                found=target,
                advice="Aim lower, or set the threshold for a coverage",
            )
        return self.thresholds[int(reached[0])]

    def for_coverage(self, target: float) -> float:
        """Return the highest threshold that answered at least ``target`` of the queries.

        Raises:
            ConfigError: ``target`` is outside (0, 1].
        """
        _check_share("target_coverage", target)
        reached = np.flatnonzero(np.array(self.coverages) >= target - 1e-9)
        return self.thresholds[int(reached[-1])]

    def to_dict(self) -> dict[str, list[float]]:
        """Return plain lists: for ``weights_only=True`` and for JSON."""
        return {name: list(numbers) for name, numbers in asdict(self).items()}


def measure_operating_points(
    confidence: FloatArray, right: npt.NDArray[np.bool_]
) -> OperatingPoints:
    """Return each threshold that makes a difference, evenly thinned out where they are many.

    Confidence is (q,) float32 in [0, 1], ``right`` (q,) bool, whether the first phrase is right.
    """
    if confidence.shape != right.shape or confidence.size == 0:
        problem = "confidence and right do not go together"
        found = f"{confidence.shape} and {right.shape}"
        raise InputDataError.unexpected(None, "(q,) and (q,), at least one", found, summary=problem)
    order = np.argsort(-confidence, kind="stable")
    ordered = confidence[order]
    counts = np.arange(1, len(order) + 1)
    precisions = np.cumsum(right[order]) / counts
    is_last_of_ties = np.append(ordered[1:] != ordered[:-1], True)
    places = np.flatnonzero(is_last_of_ties)[::-1]
    if len(places) > _MAX_POINTS:
        places = places[np.linspace(0, len(places) - 1, _MAX_POINTS).astype(np.int64)]
    return OperatingPoints(
        thresholds=tuple(ordered[places].tolist()),
        precisions=tuple(precisions[places].tolist()),
        coverages=tuple((counts[places] / len(order)).tolist()),
    )


def _check_share(where: str, share: float) -> None:
    """Refuse a target that is not a share."""
    if not 0 < share <= 1:
        raise ConfigError("is not a share", where=where, expected="above 0, at most 1", found=share)
