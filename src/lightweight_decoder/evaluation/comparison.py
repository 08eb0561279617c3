"""Baseline against decoder, metric by metric, as texts for report and terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from rich.table import Table
from rich.text import Text

from lightweight_decoder.evaluation.metric_names import METRICS, MetricInfo, metric_info

if TYPE_CHECKING:
    from collections.abc import Mapping

_SIGNIFICANT = 0.05
_COLUMNS = {
    "baseline": "plain search",
    "decoder": "decoder",
    "decoder_interval": "95%",
    "change": "change",
    "p_value": "p",
}
_COLORS = {"better": "green", "worse": "red", "unclear": "dim"}


def metric_table(metrics: Mapping[str, float], *, split: str = "test") -> Table:
    """Return the rows of ``metric_rows`` for a terminal; changes that are no luck are colored.

    A column without a figure is left out: a run that was not evaluated yet has no intervals.
    """
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
        better), ``baseline``, ``decoder`` and ``change`` with ``…_interval``, ``p_value``, and the
        ``verdict``: better, worse or unclear. What there is no figure for is empty.
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
