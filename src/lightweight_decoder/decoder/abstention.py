"""From which confidence on to answer, for a wanted precision or a wanted coverage.

Shapes: q queries, t thresholds.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lightweight_decoder.errors import CheckpointError, ConfigError, InputDataError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lightweight_decoder.datatypes import FloatArray

_MAX_POINTS = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatingPoints:
    """What answering from each of t thresholds on came to, on the queries of a calibration.

    Attributes:
        thresholds: Rising; queries with ``confidence >= threshold`` are answered.
        precisions: Share of right answers among them.
        coverages: Share of queries that were answered, never rising.
    """

    thresholds: tuple[float, ...]
    precisions: tuple[float, ...]
    coverages: tuple[float, ...]

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
        """Plain lists: loads with ``weights_only=True`` and as JSON."""
        return {name: list(numbers) for name, numbers in asdict(self).items()}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> OperatingPoints:
        """Return the record that ``to_dict`` gave.

        Raises:
            CheckpointError: It is not such a record.
        """
        try:
            points = cls(**{name: tuple(map(float, numbers)) for name, numbers in fields.items()})
        except (TypeError, ValueError, AttributeError) as error:
            raise _damaged(error) from error
        columns = (points.thresholds, points.precisions, points.coverages)
        lengths = {len(column) for column in columns}
        if len(lengths) != 1 or 0 in lengths or not np.isfinite(columns).all():
            raise _damaged(f"{[len(column) for column in columns]} numbers")
        return points


def measure_operating_points(
    confidence: FloatArray, right: npt.NDArray[np.bool_], *, max_points: int = _MAX_POINTS
) -> OperatingPoints:
    """Every threshold that can make a difference, evenly thinned out where they are many.

    Args:
        confidence: (q,) float32 in [0, 1].
        right: (q,) bool, whether the first phrase is right.
        max_points: The most thresholds to keep, at least 2.

    Raises:
        InputDataError: Lengths differ, or there are no queries.
    """
    if confidence.shape != right.shape or confidence.size == 0:
        raise InputDataError(
            "confidence and right do not go together",
            expected="(q,) and (q,), at least one",
            found=f"{confidence.shape} and {right.shape}",
        )
    order = np.argsort(-confidence, kind="stable")
    ordered = confidence[order]
    counts = np.arange(1, len(order) + 1)
    precisions = np.cumsum(right[order]) / counts
    is_last_of_ties = np.append(ordered[1:] != ordered[:-1], True)
    places = np.flatnonzero(is_last_of_ties)[::-1]
    if len(places) > max_points:
        places = places[np.linspace(0, len(places) - 1, max_points).astype(np.int64)]
    return OperatingPoints(
        thresholds=tuple(ordered[places].tolist()),
        precisions=tuple(precisions[places].tolist()),
        coverages=tuple((counts[places] / len(order)).tolist()),
    )


def _check_share(where: str, share: float) -> None:
    """Refuse a target that is not a share."""
    if not 0 < share <= 1:
        raise ConfigError("is not a share", where=where, expected="above 0, at most 1", found=share)


def _damaged(found: object) -> CheckpointError:
    """Return the error for saved operating points that cannot be read."""
    return CheckpointError(
        "the operating points cannot be read",
        where="calibration",
        expected="as many thresholds as precisions and coverages",
        found=found,
        advice="Calibrate again with scripts/calibrate.py.",
    )
