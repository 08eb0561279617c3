"""The regression gate: did any metric fall against an earlier evaluation?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lightweight_decoder.errors import ConfigError, InputDataError
from lightweight_decoder.evaluation.bootstrap import PairedDifference, paired_bootstrap
from lightweight_decoder.evaluation.metric_names import MetricInfo, metric_info, metric_key
from lightweight_decoder.evaluation.predictions import check_predictions
from lightweight_decoder.evaluation.summary import query_values

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pyarrow as pa

_COUNTS = ("num_queries", "num_out_of_bank")
_OPTIONAL = ("auroc_right", "precision")  # undefined where all are right, all wrong, none answered


@dataclass(frozen=True, slots=True)
class MetricChange:
    """One metric, then and now.

    Attributes:
        name: Full name, such as ``test/decoder/recall@10``.
        before: Of the earlier evaluation.
        now: Of this one.
        loss: By how much it got worse, negative where it got better: absolute for the metrics in
            [0, 1], as a share of ``before`` for the median rank.
        fell: Whether the loss is above the tolerance.
        paired: The paired test (now minus before) over the queries; None without predictions of
            both, or where the metric is not a mean over queries.
    """

    name: str
    before: float
    now: float
    loss: float
    fell: bool
    paired: PairedDifference | None = None

    def __str__(self) -> str:
        """One line for people."""
        verdict = "fell" if self.fell else "held"
        line = f"{self.name} {verdict}: {self.before:.4f} -> {self.now:.4f} (loss {self.loss:+.4f}"
        if _info(self.name).relative:
            line += " of the earlier value"
        return line + (f", p = {self.paired.p_value:.3f})" if self.paired else ")")


def compare_metrics(
    now: Mapping[str, float],
    before: Mapping[str, float],
    *,
    tolerance: float,
    predictions: tuple[pa.Table, pa.Table] | None = None,
    where: object = "against",
    seed: int = 0,
) -> list[MetricChange]:
    """Every decoder metric of two evaluations, and which of them fell by more than the tolerance.

    Baseline figures, differences, intervals, times and sizes are not compared. The paired test says
    how likely a change is luck; it does not excuse a fall.

    Args:
        now: Metric name to value, as in ``metrics.json``.
        before: The earlier evaluation's.
        tolerance: The loss that is let pass, 0 or more; see ``MetricChange.loss``.
        predictions: This evaluation's predictions and the earlier one's, where both are there.
        where: The file of ``before``, for errors.
        seed: Of the paired test.

    Returns:
        A change for each metric, those that fell first, the largest loss first. The gate holds
        where none fell.

    Raises:
        ConfigError: ``tolerance`` is negative.
        InputDataError: The two have other metrics, or are of other queries.
    """
    if not tolerance >= 0:
        raise ConfigError(
            "tolerance is negative", where="tolerance", expected="0 or more", found=tolerance
        )
    names = _shared_names(now, before, where)
    _check_counts(now, before, where)
    paired = _paired_differences(*predictions, where, seed) if predictions else {}
    changes = [
        _change(name, before[name], now[name], tolerance, paired.get(metric_key(name)))
        for name in names
    ]
    return sorted(changes, key=lambda change: (not change.fell, -change.loss))


def _is_compared(name: str) -> bool:
    """Whether the name is of a decoder's metric with a better direction."""
    info = metric_info(name)
    is_decoders = name.split("/")[-2:-1] == ["decoder"]
    return is_decoders and info is not None and info.higher_is_better is not None


def _info(name: str) -> MetricInfo:
    """Return what is known of a metric that is compared."""
    info = metric_info(name)
    if info is None:
        raise InputDataError("not a metric of ours", found=name)
    return info


def _shared_names(
    now: Mapping[str, float], before: Mapping[str, float], where: object
) -> list[str]:
    """Names of what is compared; both sides must have the same, but for optional ones."""
    names, earlier = ([n for n in metrics if _is_compared(n)] for metrics in (now, before))
    shared = [name for name in names if name in earlier]
    others = {name for name in {*names, *earlier} - {*shared} if metric_key(name) not in _OPTIONAL}
    if shared and not others:
        return shared
    raise InputDataError(
        "the two evaluations have other metrics",
        where=where,
        expected=", ".join(sorted(others & set(names))) or "no more than this evaluation",
        found=", ".join(sorted(others & set(earlier))) or "none of these",
        advice="Evaluate both runs with the same version and the same splits.",
    )


def _check_counts(now: Mapping[str, float], before: Mapping[str, float], where: object) -> None:
    """Refuse evaluations of other numbers of queries."""
    for name in {*now, *before}:
        if metric_key(name) in _COUNTS and now.get(name) != before.get(name):
            raise InputDataError(
                "the two evaluations are of other queries",
                where=where,
                at=name,
                expected=now.get(name),
                found=before.get(name),
                advice="Evaluate both runs on the same split.",
            )


def _change(
    name: str, before: float, now: float, tolerance: float, paired: PairedDifference | None
) -> MetricChange:
    """Return the change of one metric."""
    info = _info(name)
    loss = before - now if info.higher_is_better else now - before
    if info.relative:
        loss /= max(before, 1.0)
    return MetricChange(name, before, now, loss, loss > tolerance, paired)


def _paired_differences(
    now: pa.Table, before: pa.Table, where: object, seed: int
) -> dict[str, PairedDifference]:
    """Return the paired test of every metric that both tables have, by metric with its k."""
    check_predictions(now)
    check_predictions(before, where=where)
    for name in ("query", "targets", "in_bank"):
        if not now[name].equals(before[name]):
            raise InputDataError(
                "the two tables of predictions are of other queries",
                where=where,
                at=f"column {name}",
                expected="the same queries in the same order",
                advice="Evaluate both runs on the same split.",
            )
    after, earlier = (
        query_values(table.filter(table["in_bank"]), "decoder") for table in (now, before)
    )
    shared = [name for name in earlier if name in after]
    return paired_bootstrap(
        {name: earlier[name] for name in shared},
        {name: after[name] for name in shared},
        seed=seed,
    )
