"""Two sides, metric by metric: baseline and decoder, an earlier evaluation and this one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from rich.table import Table
from rich.text import Text

from lightweight_decoder.errors import ConfigError, InputDataError
from lightweight_decoder.evaluation.bootstrap import Bootstrap
from lightweight_decoder.evaluation.label_baselines import LABEL_BASELINES
from lightweight_decoder.evaluation.metrics_file import (
    METRICS,
    MetricInfo,
    metric_info,
    metric_key,
)
from lightweight_decoder.evaluation.predictions import check_predictions
from lightweight_decoder.evaluation.summary import query_values

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pyarrow as pa

    from lightweight_decoder.evaluation.bootstrap import PairedDifference

_COUNTS = ("num_queries", "num_out_of_bank")
_OPTIONAL = ("auroc_right", "precision")  # undefined where all are right, all wrong, none answered
_OTHER = "the two evaluations are of other queries"
_SAME = "Evaluate both runs on the same split."
_SIGNIFICANT = 0.05
_COLUMNS = {
    "baseline": "plain search",
    **LABEL_BASELINES,
    "decoder": "decoder",
    "decoder_interval": "95%",
    "change": "change",
    "p_value": "p",
}
_COLORS = {"better": "green", "worse": "red", "unclear": "dim"}


def metric_table(metrics: Mapping[str, float]) -> Table:
    """Return the rows of ``metric_rows`` for a terminal; changes that are no luck are colored.

    A column without a figure is left out: a run that was not evaluated yet has no intervals.
    """
    split = next(iter(metrics)).partition("/")[0]  # val, where a run has no test
    num_queries = metrics[f"{split}/decoder/num_queries"]
    table = Table(title=f"{split}: {num_queries:,.0f} queries with a right phrase in the bank")
    rows = metric_rows(metrics, split=split)
    shown = [key for key in _COLUMNS if any(row[key] for row in rows)]
    table.add_column("metric")
    for key in shown:
        table.add_column(_COLUMNS[key], justify="right")
    for row in rows:
        styles = {"decoder": "bold", "change": _COLORS[row["verdict"]]}
        cells = [Text(row[key], style=styles.get(key, "")) for key in shown]
        table.add_row(f"{row['label']} {row['arrow']}", *cells)
    return table


def metric_rows(metrics: Mapping[str, float], *, split: str = "test") -> list[dict[str, str]]:
    """Return what people read of each metric of either system, in the order of ``METRICS``.

    Args:
        metrics: As ``summarize_predictions`` gives them.
        split: First part of the names.

    Returns:
        A row for each metric: ``key``, ``label``, ``meaning``, ``arrow`` (which direction is
        better), each of ``LABEL_BASELINES``, ``baseline``, ``decoder`` and ``change`` with
        ``…_interval``, ``p_value``, and the ``verdict``: better, worse or unclear. What there is no
        figure for is empty.
    """
    keys = {
        name.removeprefix(f"{split}/{system}/")
        for system in ("baseline", "decoder")
        for name in metrics
        if name.startswith(f"{split}/{system}/")
    }
    known = [
        (key, info)
        for key in keys
        if (info := metric_info(key)) and "/" not in key and info.higher_is_better is not None
    ]
    order = list(METRICS)

    def place(entry: tuple[str, MetricInfo]) -> tuple[int, int]:
        kind, _, k = entry[0].partition("@")
        return order.index(kind), int(k or 0)

    return [_metric_row(metrics, split, key, info) for key, info in sorted(known, key=place)]


def _metric_row(
    metrics: Mapping[str, float], split: str, key: str, info: MetricInfo
) -> dict[str, str]:
    """Return what the page says of one metric."""
    baseline, decoder = (_Cell.read(metrics, f"{split}/{s}/{key}") for s in ("baseline", "decoder"))
    difference = _Cell.read(metrics, f"{split}/difference/{key}")
    p_value = metrics.get(f"{split}/difference/{key}/p_value")
    row = {
        "key": key,
        "label": info.label,
        "meaning": info.meaning,
        "arrow": "\u2191" if info.higher_is_better else "\u2193",
        "baseline": _number(baseline.value, info),
        "baseline_interval": _interval(baseline, info),
        "decoder": _number(decoder.value, info),
        "decoder_interval": _interval(decoder, info),
        "change": "",
        "change_interval": _interval(difference, info, sign="+"),
        "verdict": "unclear",
        "p_value": "" if p_value is None else f"{p_value:.3f}",
        **{
            system: _number(metrics.get(f"{split}/{system}/{key}"), info)
            for system in LABEL_BASELINES
        },
    }
    if baseline.value is None or decoder.value is None:
        return row
    change = decoder.value - baseline.value
    is_clear = p_value < _SIGNIFICANT if p_value is not None else baseline.is_apart(decoder)
    if is_clear:
        row["verdict"] = "better" if (change > 0) == info.higher_is_better else "worse"
    return row | {"change": _number(change, info, sign="+")}


class _Cell(NamedTuple):
    """A figure with its interval, as far as it has one."""

    value: float | None
    low: float | None
    high: float | None

    @classmethod
    def read(cls, metrics: Mapping[str, float], name: str) -> _Cell:
        return cls(metrics.get(name), metrics.get(f"{name}/low"), metrics.get(f"{name}/high"))

    def is_apart(self, other: _Cell) -> bool:
        """Whether both have intervals, and these do not touch."""
        if None in {self.low, self.high, other.low, other.high}:
            return False
        return self.high < other.low or other.high < self.low  # type: ignore[operator]  # not None


def _number(value: float | None, info: MetricInfo, *, sign: str = "") -> str:
    """Return a figure as people read it; nothing where there is none."""
    if value is None:
        return ""
    if info.percent:
        return f"{100 * value:{sign}.1f}{' pp' if sign else '%'}"
    return (
        f"{value:{sign},.0f}"
        if info.relative or info.higher_is_better is None
        else f"{value:{sign}.3f}"
    )


def _interval(cell: _Cell, info: MetricInfo, *, sign: str = "") -> str:
    """Return the interval of a figure as people read it; nothing where there is none."""
    if cell.low is None or cell.high is None:
        return ""
    low, high = (_number(end, info, sign=sign) for end in (cell.low, cell.high))
    return f"{low.removesuffix(' pp')} to {high.removesuffix(' pp')}"


@dataclass(frozen=True, slots=True)
class MetricChange:
    """One metric of two evaluations, then and now.

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
        raise ConfigError.unexpected("tolerance", "0 or more", tolerance)
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
    raise InputDataError.unexpected(
        where,
        ", ".join(sorted(others & set(names))) or "no more than this evaluation",
        ", ".join(sorted(others & set(earlier))) or "none of these",
        summary="the two evaluations have other metrics",
        advice="Evaluate both runs with the same version and the same splits.",
    )


def _check_counts(now: Mapping[str, float], before: Mapping[str, float], where: object) -> None:
    """Refuse evaluations of other numbers of queries."""
    for name in {*now, *before}:
        if metric_key(name) in _COUNTS and now.get(name) != before.get(name):
            raise InputDataError.unexpected(
                where, now.get(name), before.get(name), at=name, summary=_OTHER, advice=_SAME
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
            expected = "the same queries in the same order"
            raise InputDataError(
                _OTHER, where=where, at=f"column {name}", expected=expected, advice=_SAME
            )
    after, earlier = (
        query_values(table.filter(table["in_bank"]), "decoder") for table in (now, before)
    )
    return Bootstrap(seed=seed).compare(earlier, after)
