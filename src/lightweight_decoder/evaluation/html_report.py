"""One self-contained page of an evaluation: opens offline, needs no server and loads nothing.

Texts of the predictions may hold anything, HTML included; they reach the page escaped or as text.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightweight_decoder.errors import InputDataError
from lightweight_decoder.evaluation.comparison import metric_rows
from lightweight_decoder.evaluation.predictions import (
    check_predictions,
    evenly_drawn,
    has_baseline,
    is_calibrated,
)
from lightweight_decoder.evaluation.slices import slice_metrics

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

_CARDS = ("recall@1", "recall@10", "mrr", "median_rank")
_EXAMPLE_COLUMNS = (
    *("query", "text", "targets", "in_bank", "rank", "baseline_rank"),
    *("phrases", "values", "confidence", "abstained"),
)
_PHRASES_SHOWN = 5


def render_report(
    metrics: Mapping[str, float],
    predictions: pa.Table,
    *,
    title: str,
    split: str = "test",
    facts: Mapping[str, str | Path] | None = None,
    latencies_ms: npt.NDArray[np.floating] | None = None,
    max_examples: int = 10_000,
) -> str:
    """Return the page as text.

    Args:
        metrics: As ``summarize_predictions`` gives them.
        predictions: The table they were made from.
        title: Head of the page.
        split: Whose metrics to show.
        facts: Further things to say under the title, such as bank and checkpoint: name to text. Of
            a path that is not in the working folder only the name is said: pages are passed on.
        latencies_ms: (calls,) milliseconds of single queries, for a figure of them.
        max_examples: Queries to browse, drawn evenly when there are more.

    Raises:
        InputDataError: The table is not one of predictions, or the metrics are not of this split.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined  # noqa: PLC0415 - for pages only

    check_predictions(predictions)
    if f"{split}/decoder/num_queries" not in metrics:
        splits = ", ".join(sorted({name.split("/")[0] for name in metrics})) or "none"
        problem = "the metrics are not of this split"
        raise InputDataError.unexpected("metrics", f"{split}/decoder/…", splits, summary=problem)
    shown = evenly_drawn(predictions, max_examples)
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
        facts={name: _without_place(fact) for name, fact in (facts or {}).items()},
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


def _without_place(fact: str | Path) -> str:
    """Return a path as seen from the working folder, its name where it is not inside."""
    if isinstance(fact, str):
        return fact
    path, here = fact.absolute(), Path.cwd()
    return str(path.relative_to(here)) if here in path.parents else path.name


def _level_note(metrics: Mapping[str, float], split: str) -> str:
    """Return what the figures are over, and what the intervals and p are."""
    inside = metrics[f"{split}/decoder/num_queries"]
    outside = metrics.get(f"{split}/decoder/num_out_of_bank", 0)
    note = f"Over {inside:,.0f} queries with a right phrase in the bank"
    note += f"; {outside:,.0f} more have none." if outside else "."
    if trained_on := metrics.get(f"{split}/decoder/num_in_training"):
        note += f" {trained_on:,.0f} of the first are training texts too, which is no test."
    if f"{split}/decoder/mrr/low" in metrics:
        note += (
            " Beside a figure stands its bootstrap interval; p is how often a difference this "
            "large comes about by the choice of queries alone."
        )
    return note + " Arrows say which direction is better."


def _drawings(
    predictions: pa.Table, latencies_ms: npt.NDArray[np.floating] | None
) -> list[dict[str, str]]:
    """Return the figures as the page shows them, in its colors."""
    from markupsafe import Markup  # noqa: PLC0415 - as above

    from lightweight_decoder.evaluation import plots  # noqa: PLC0415 - matplotlib takes a second

    names = ("ink", "line", "quiet", "strong", "soft")
    drawn = (plots.INK, plots.GRID, plots.MUTED, plots.STRONG, plots.SOFT)
    colors = {color: f"var(--{name})" for color, name in zip(drawn, names, strict=True)}
    return [
        {
            "title": each.title,
            "note": each.note,
            # matplotlib escapes, and no text of the data is drawn
            "svg": Markup(plots.svg_text(each.figure, each.title, colors)),  # noqa: S704
        }
        for each in plots.draw_figures(predictions, latencies_ms)
    ]


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
