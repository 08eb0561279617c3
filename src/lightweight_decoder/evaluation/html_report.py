"""One self-contained page of an evaluation: opens offline, needs no server and loads nothing.

Texts of the predictions may hold anything, HTML included; they reach the page escaped or as text.
"""

from __future__ import annotations

import re
from io import StringIO
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lightweight_decoder.errors import InputDataError
from lightweight_decoder.evaluation import plots
from lightweight_decoder.evaluation.comparison import metric_rows
from lightweight_decoder.evaluation.figures import draw_figures
from lightweight_decoder.evaluation.predictions import (
    check_predictions,
    has_baseline,
    is_calibrated,
)
from lightweight_decoder.evaluation.slices import slice_metrics
from lightweight_decoder.files import whole_file

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import pyarrow as pa
    from matplotlib.figure import Figure

_CARDS = ("recall@1", "recall@10", "mrr", "median_rank")
_EXAMPLE_COLUMNS = (
    *("query", "text", "targets", "in_bank", "rank", "baseline_rank"),
    *("phrases", "values", "confidence", "abstained"),
)
_PHRASES_SHOWN = 5
_SVG_METADATA = ("Creator", "Date", "Format", "Type")
_VARIABLES = {
    plots.INK: "var(--ink)",
    plots.GRID: "var(--line)",
    plots.MUTED: "var(--quiet)",
    plots.STRONG: "var(--strong)",
    plots.SOFT: "var(--soft)",
}


def write_report(
    path: Path,
    metrics: Mapping[str, float],
    predictions: pa.Table,
    *,
    title: str,
    split: str = "test",
    facts: Mapping[str, str] | None = None,
    latencies_ms: npt.NDArray[np.floating] | None = None,
    max_examples: int = 10_000,
) -> None:
    """Write ``report.html``; a failed write leaves no file behind.

    Args:
        path: The file to write.
        metrics: As ``summarize_predictions`` gives them.
        predictions: The table they were made from.
        title: Head of the page.
        split: Whose metrics to show.
        facts: Further things to say under the title, such as bank and checkpoint: name to text.
        latencies_ms: (calls,) milliseconds of single queries, for a figure of them.
        max_examples: Queries to browse, drawn evenly when there are more.

    Raises:
        InputDataError: The table is not one of predictions, the metrics are not of this split, or
            the file cannot be written.
    """
    page = render_report(
        metrics,
        predictions,
        title=title,
        split=split,
        facts=facts,
        latencies_ms=latencies_ms,
        max_examples=max_examples,
    )
    with whole_file(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def render_report(
    metrics: Mapping[str, float],
    predictions: pa.Table,
    *,
    title: str,
    split: str = "test",
    facts: Mapping[str, str] | None = None,
    latencies_ms: npt.NDArray[np.floating] | None = None,
    max_examples: int = 10_000,
) -> str:
    """Return the page as text; arguments and errors are those of ``write_report``."""
    check_predictions(predictions)
    if f"{split}/decoder/num_queries" not in metrics:
        raise InputDataError(
            "the metrics are not of this split",
            where="metrics",
            expected=f"{split}/decoder/…",
            found=", ".join(sorted({name.split("/")[0] for name in metrics})) or "none",
        )
    shown = _shown_examples(predictions, max_examples)
    left_out = len(predictions) - len(shown)
    environment = Environment(
        loader=PackageLoader("lightweight_decoder.evaluation"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    rows = metric_rows(metrics, split=split)
    return environment.get_template("report.html").render(
        title=title,
        split=split,
        facts=facts or {},
        cards=[row for key in _CARDS for row in rows if row["key"] == key],
        rows=rows,
        level_note=_level_note(metrics, split),
        figures=_drawings(predictions, latencies_ms),
        examples_note=f"{len(shown)} of {len(predictions)}, drawn evenly." if left_out else "",
        data={
            "calibrated": is_calibrated(predictions),
            "compared": has_baseline(predictions),
            "slices": slice_metrics(predictions).to_pylist(),
            "example_columns": _EXAMPLE_COLUMNS,
            "examples": _examples(shown),
        },
    )


def _level_note(metrics: Mapping[str, float], split: str) -> str:
    """Return what the figures are over, and what the intervals and p are."""
    inside = metrics[f"{split}/decoder/num_queries"]
    outside = metrics.get(f"{split}/decoder/num_out_of_bank", 0)
    note = f"Over {inside:,.0f} queries with a right phrase in the bank"
    note += f"; {outside:,.0f} more have none." if outside else "."
    if f"{split}/decoder/mrr/low" in metrics:
        note += (
            " Beside a figure stands its bootstrap interval; p is how often a difference this "
            "large comes about by the choice of queries alone."
        )
    return note + " Arrows say which direction is better."


def _drawings(
    predictions: pa.Table, latencies_ms: npt.NDArray[np.floating] | None
) -> list[dict[str, str]]:
    """Return the figures as the page shows them."""
    return [
        {"title": each.title, "note": each.note, "svg": _svg(each.figure, each.title)}
        for each in draw_figures(predictions, latencies_ms)
    ]


def _svg(figure: Figure, title: str) -> Markup:
    """Return the figure as an SVG element whose colors follow the page."""
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": title}):
        file = StringIO()
        figure.savefig(file, format="svg", metadata=dict.fromkeys(_SVG_METADATA))
    svg = file.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    for color, variable in _VARIABLES.items():
        svg = svg.replace(color, variable)
    return Markup(svg)  # noqa: S704  # matplotlib escapes, and no text of the data is drawn


def _shown_examples(predictions: pa.Table, max_examples: int) -> pa.Table:
    """At most so many rows, drawn evenly from first to last."""
    if len(predictions) <= max_examples:
        return predictions
    return predictions.take(np.linspace(0, len(predictions) - 1, max_examples).astype(np.int64))


def _examples(predictions: pa.Table) -> list[list[Any]]:
    """Return a row for each query, values rounded to keep the page small."""
    rows = []
    for row in predictions.select(_EXAMPLE_COLUMNS).to_pylist():
        row["phrases"] = row["phrases"][:_PHRASES_SHOWN]
        row["values"] = [round(value, 4) for value in row["values"][:_PHRASES_SHOWN]]
        if row["confidence"] is not None:
            row["confidence"] = round(row["confidence"], 4)
        rows.append([row[name] for name in _EXAMPLE_COLUMNS])
    return rows
