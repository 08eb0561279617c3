"""Figures of an evaluation and of a sweep, drawn with matplotlib and no display.

Each function gives a ``Figure`` of its own; nothing is registered with pyplot, so there is nothing
to close. Import this module where something is drawn: matplotlib takes a second. Shapes: q queries.
"""

from __future__ import annotations

import re
from io import StringIO
from typing import TYPE_CHECKING, Literal, NamedTuple

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from lightweight_decoder.display import plot_label
from lightweight_decoder.evaluation.confidence import (
    NUM_BINS,
    reliability_bins,
    risk_coverage_curve,
)
from lightweight_decoder.evaluation.predictions import first_values, has_baseline, is_calibrated
from lightweight_decoder.evaluation.rank_metrics import best_ranks
from lightweight_decoder.evaluation.speed import latency_metrics
from lightweight_decoder.evaluation.summary import best_rank, systems
from lightweight_decoder.evaluation.sweep_summary import swept_parameters

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    import pyarrow as pa
    from matplotlib.axes import Axes

    from lightweight_decoder.datatypes import IntArray
    from lightweight_decoder.evaluation.confidence import AnyFloatArray, BoolArray
    from lightweight_decoder.evaluation.sweep_summary import SweepJob

INK, GRID, MUTED, STRONG, SOFT = "#1b2430", "#dfe4ea", "#8b96a5", "#0b7285", "#99d0d9"
"""The only colors in any figure; the report puts its own in their place."""

_SIZE, _PANEL = (5.2, 3.4), (5.2, 3.0)  # inches, of a figure and of each part of a sweep's
_LOG_SPAN = 30  # a parameter of a sweep that spans more is drawn on a logarithmic axis
_NAMES = {"baseline": "plain search", "decoder": "decoder"}
_SVG_METADATA = ("Creator", "Date", "Format", "Type")
_RANK_EDGES = (1, 2, 4, 11, 31, 101, 1001)
_RANK_LABELS = ("1", "2-3", "4-10", "11-30", "31-100", "101-1000", "> 1000")
_MAX_POINTS = 500  # of a curve: more cannot be seen


class Drawing(NamedTuple):
    """A figure and what to say of it."""

    title: str
    note: str
    figure: Figure


def draw_figures(
    predictions: pa.Table, latencies_ms: npt.NDArray[np.floating] | None = None
) -> list[Drawing]:
    """Return the figures that there is something to draw for, over the queries in the bank."""
    inside = predictions.filter(predictions["in_bank"])
    ranks = {_NAMES[system]: best_rank(inside, system) for system in systems(inside)}
    right = ranks["decoder"] == 1
    sureness, note = first_values(inside), "A confidence of 80% should be right 8 times of 10."
    drawings = [
        Drawing("Recall at k", "How far down the right phrase is found.", plot_recall(ranks)),
        Drawing("Ranks", "Where the right phrase stands.", plot_rank_histogram(ranks)),
    ]
    if is_calibrated(inside):
        sureness = inside["confidence"].to_numpy()
        drawings.append(Drawing("Reliability", note, plot_reliability(sureness, right)))
    risks = {"decoder": (sureness, right)}
    if has_baseline(inside) and inside["baseline_value"].null_count == 0:
        own = (inside["baseline_value"].to_numpy(), ranks["plain search"] == 1)
        risks = {"plain search": own, **risks}
    note = "How many answers are wrong when only the surest are given."
    drawings.append(Drawing("Risk and coverage", note, plot_risk_coverage(risks)))
    if latencies_ms is not None:
        drawings.append(Drawing("Latency", "Time of single queries.", plot_latency(latencies_ms)))
    return drawings


def plot_recall(ranks: Mapping[str, IntArray], *, max_k: int = 100) -> Figure:
    """Return recall@k over k: a line for each system's ranks (q,), the last one strongest."""
    figure, axes = _figure("First k phrases", "Queries with a right phrase")
    steps = np.arange(1, max_k + 1)
    for (name, each), color in zip(ranks.items(), _colors(len(ranks)), strict=True):
        best = best_ranks(each)
        counts = np.bincount(np.clip(best, 0, max_k + 1), minlength=max_k + 2)[1:-1]
        axes.plot(steps, np.cumsum(counts) / len(best), color=color, linewidth=2, label=name)
    axes.set_xscale("log")
    ticks = [k for k in (1, 3, 10, 30, 100, 300, 1000) if k <= max_k]
    axes.set_xticks(ticks, [str(k) for k in ticks])
    axes.minorticks_off()
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    _legend(axes)
    return figure


def plot_rank_histogram(ranks: Mapping[str, IntArray]) -> Figure:
    """Return the share of queries by rank, for each system's ranks (q,); rank 0 is left out."""
    figure, axes = _figure("Rank of the best right phrase", "Queries")
    width = 0.8 / len(ranks)
    places = np.arange(len(_RANK_EDGES))
    for shift, ((name, each), color) in enumerate(
        zip(ranks.items(), _colors(len(ranks)), strict=True)
    ):
        found = best_ranks(each)
        found = found[found > 0]
        bins = np.searchsorted(_RANK_EDGES, found, side="right") - 1
        shares = np.bincount(bins, minlength=len(places)) / max(len(found), 1)
        left = places + (shift - (len(ranks) - 1) / 2) * width
        axes.bar(left, shares, width * 0.92, color=color, label=name)
    axes.set_xticks(places, _RANK_LABELS, fontsize=8)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.grid(visible=False, axis="x")
    _legend(axes)
    return figure


def plot_reliability(
    confidence: AnyFloatArray, right: BoolArray, *, num_bins: int = NUM_BINS
) -> Figure:
    """Return a reliability diagram: accuracy over confidence (q,), and the queries in each bin."""
    bins = reliability_bins(confidence, right, num_bins=num_bins)
    figure = Figure(figsize=_SIZE, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    _quiet_axes(above, "", "Right first phrases")
    _quiet_axes(below, "Confidence", "Queries")
    centers, width = (bins.edges[:-1] + bins.edges[1:]) / 2, 0.92 / num_bins
    above.plot([0, 1], [0, 1], color=MUTED, linewidth=1.5, linestyle=(0, (4, 3)), label="ideal")
    above.bar(centers, np.nan_to_num(bins.accuracy), width, color=SOFT)
    above.plot(bins.confidence, bins.accuracy, "o-", color=STRONG, markersize=4, label="measured")
    below.bar(centers, bins.counts, width, color=MUTED)
    above.set_xlim(0, 1)
    above.set_ylim(0, 1)
    for axis in (above.yaxis, below.xaxis):
        axis.set_major_formatter(PercentFormatter(1))
    _legend(above)
    return figure


def plot_risk_coverage(systems: Mapping[str, tuple[AnyFloatArray, BoolArray]]) -> Figure:
    """Return selective risk over coverage, a line for each system's (q,) values and hits."""
    figure, axes = _figure("Queries answered, surest first", "Wrong answers among them")
    for (name, (values, right)), color in zip(systems.items(), _colors(len(systems)), strict=True):
        coverage, risk = risk_coverage_curve(values, right)
        shown = np.unique(np.linspace(0, len(risk) - 1, _MAX_POINTS).astype(int))
        axes.plot(coverage[shown], risk[shown], color=color, linewidth=2, label=name)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1))
    _legend(axes, "lower right")
    return figure


def plot_latency(latencies_ms: npt.NDArray[np.floating]) -> Figure:
    """Return a histogram of (calls,) times of single queries, with p50, p95 and p99.

    The slowest 0.5% are cut off.
    """
    percentiles = latency_metrics(latencies_ms)
    figure, axes = _figure("Time of one query (ms)", "Queries")
    shown = latencies_ms[latencies_ms <= np.quantile(latencies_ms, 0.995)]
    axes.hist(shown, bins=40, color=SOFT)
    for share, height in ((50, 0.97), (95, 0.85), (99, 0.73)):
        value = percentiles[f"latency_p{share}_ms"]
        axes.axvline(value, color=STRONG, linewidth=1.5)
        axes.annotate(
            f"p{share} {value:.3g} ms",
            (value, height),
            xycoords=("data", "axes fraction"),
            xytext=(4, 0),
            textcoords="offset points",
            color=INK,
            fontsize=9,
            va="top",
        )
    axes.set_xlim(left=0)
    return figure


def plot_sweep(jobs: Collection[SweepJob]) -> Figure:
    """Return the objective over the jobs, best so far, and below it over each swept parameter.

    Jobs without an objective are left out. A parameter is drawn on a logarithmic axis where its
    values are positive and far apart, and as categories where they are no numbers.
    """
    rated = [job for job in jobs if job.objective is not None]
    parameters = swept_parameters(rated)
    num_panels = 1 + len(parameters)
    figure = Figure(figsize=(_PANEL[0], _PANEL[1] * num_panels), layout="constrained")
    panels = figure.subplots(num_panels, 1, squeeze=False)[:, 0]
    objectives = [job.objective for job in rated if job.objective is not None]
    _quiet_axes(panels[0], "Job", "Objective")
    numbers = [job.number for job in rated]
    so_far = [max(objectives[: i + 1]) for i in range(len(objectives))]
    panels[0].plot(numbers, so_far, color=MUTED, drawstyle="steps-post")
    panels[0].scatter(numbers, objectives, color=STRONG, zorder=2)
    panels[0].xaxis.get_major_locator().set_params(integer=True)
    for axes, parameter in zip(panels[1:], parameters, strict=True):
        values = [job.settings.get(parameter, "") for job in rated]
        _plot_parameter(axes, parameter, values, objectives)
    figure.patch.set(alpha=1, facecolor="white")
    return figure


def _plot_parameter(
    axes: Axes, parameter: str, values: Sequence[str], objectives: Sequence[float]
) -> None:
    """Objective over one parameter."""
    _quiet_axes(axes, plot_label(parameter), "Objective")
    try:
        numbers = [float(value) for value in values]
    except ValueError:
        axes.scatter([plot_label(value) for value in values], objectives, color=STRONG)
        return
    axes.scatter(numbers, objectives, color=STRONG, edgecolor=SOFT)
    if min(numbers) > 0 and max(numbers) / min(numbers) > _LOG_SPAN:
        axes.set_xscale("log")


def svg_text(figure: Figure, title: str, colors: Mapping[str, str]) -> str:
    """Return a figure of this module as an SVG element, each of its colors replaced by another.

    ``title`` tells it from the others of a page.
    """
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": title}):
        file = StringIO()
        figure.savefig(file, format="svg", metadata=dict.fromkeys(_SVG_METADATA))
    svg = file.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    for color, replacement in colors.items():
        svg = svg.replace(color, replacement)
    return svg


def _figure(x_label: str, y_label: str) -> tuple[Figure, Axes]:
    """One empty plot."""
    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = figure.subplots()
    _quiet_axes(axes, x_label, y_label)
    return figure, axes


def _quiet_axes(axes: Axes, x_label: str, y_label: str) -> None:
    """Quiet axes on a clear ground."""
    axes.figure.patch.set_alpha(0)
    axes.patch.set_alpha(0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["bottom", "left"]].set_color(GRID)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(color=GRID, labelcolor=INK, labelsize=9)
    axes.set_xlabel(x_label, color=INK, fontsize=10)
    axes.set_ylabel(y_label, color=INK, fontsize=10)


def _legend(axes: Axes, place: Literal["best", "lower right"] = "best") -> None:
    """Names of the lines, without a box."""
    axes.legend(frameon=False, labelcolor=INK, fontsize=9, loc=place)


def _colors(count: int) -> list[str]:
    """Return the last system strong, those before it muted."""
    return [*([MUTED] * (count - 1)), STRONG]
