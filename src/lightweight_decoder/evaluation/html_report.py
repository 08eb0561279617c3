"""One self-contained page of an evaluation, and its slices: opens offline and loads nothing.

Texts of the predictions may hold anything, HTML included; they reach the page escaped or as text.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lightweight_decoder.errors import InputDataError
from lightweight_decoder.evaluation.comparison import metric_rows
from lightweight_decoder.evaluation.predictions import (
    check_predictions,
    evenly_drawn,
    has_baseline,
    is_calibrated,
    metadata_columns,
)
from lightweight_decoder.evaluation.rank_metrics import ranking_metrics

if TYPE_CHECKING:
    from collections.abc import Mapping


LENGTH = "phrase length (words)"
CONFIDENCE = "confidence"

_NUM_VALUES = 6  # a column of numbers with no more distinct ones is sliced by value
_NUM_TEXTS = 12  # more distinct texts than this are put together as OTHER
_EXAMPLE_COLUMNS = (
    *("query", "text", "targets", "in_bank", "rank", "baseline_rank"),
    *("phrases", "values", "confidence", "abstained"),
)
_PHRASES_SHOWN = 5
_METRICS = ("recall@1", "recall@10", "mrr", "median_rank")
OTHER, MISSING = "(other)", "(none)"


def slice_metrics(predictions: pa.Table) -> pa.Table:
    """Return the ranking metrics of each group of queries, for decoder and baseline.

    Queries are grouped by each metadata column, by ``LENGTH`` (words of the first target) and by
    ``CONFIDENCE``. Those without a right phrase in the bank are left out. Texts, booleans and
    numbers with few distinct values are grouped by value, other numbers by quartiles, confidence by
    deciles; a missing value is a group of its own.

    Returns:
        A row for each group, in rising order of a column's values: ``slice`` (the column),
        ``group``, ``num_queries``, ``recall@1``, ``recall@10``, ``mrr``, ``median_rank``, the same
        four with ``baseline_`` before them (null where there is no baseline), and ``confidence``
        (mean, null where not calibrated).

    Raises:
        InputDataError: The table is not one of predictions.
    """
    check_predictions(predictions)
    inside = predictions.filter(predictions["in_bank"])
    rows: list[dict[str, Any]] = []
    for name, column in _columns(inside).items():
        labels, codes = _group(column, 10 if name == CONFIDENCE else 4)
        rows += [
            {"slice": name, "group": label} | _group_metrics(inside.filter(pa.array(codes == code)))
            for code, label in enumerate(labels)
        ]
    return pa.Table.from_pylist(rows, schema=_schema())


def _schema() -> pa.Schema:
    """Columns of the table of slices."""
    metrics = [*_METRICS, *(f"baseline_{name}" for name in _METRICS), "confidence"]
    return pa.schema(
        [("slice", pa.string()), ("group", pa.string()), ("num_queries", pa.int64())]
        + [(name, pa.float64()) for name in metrics]
    )


def _columns(inside: pa.Table) -> dict[str, pa.ChunkedArray]:
    """Everything that these queries can be sliced by."""
    words = pc.utf8_split_whitespace(pc.utf8_trim_whitespace(pc.list_element(inside["targets"], 0)))
    columns = {LENGTH: pc.list_value_length(words)}
    columns |= {name: inside[name] for name in metadata_columns(inside)}
    if is_calibrated(inside):
        columns[CONFIDENCE] = inside["confidence"]
    return columns


def _group_metrics(group: pa.Table) -> dict[str, Any]:
    """One row of the table."""
    decoder = ranking_metrics(group["rank"].to_numpy())
    baseline: dict[str, float] = {}
    if has_baseline(group):
        baseline = ranking_metrics(group["baseline_rank"].to_numpy())
    return {
        "num_queries": len(group),
        **{name: decoder[name] for name in _METRICS},
        **{f"baseline_{name}": baseline.get(name) for name in _METRICS},
        "confidence": pc.mean(group["confidence"]).as_py(),
    }


def _group(column: pa.ChunkedArray, num_groups: int) -> tuple[list[str], npt.NDArray[np.int64]]:
    """Labels of the groups, none empty, and the (q,) group of each query."""
    is_missing = pc.is_null(column, nan_is_null=True).to_numpy()
    present = column.filter(pa.array(~is_missing))
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        labels, codes = _group_numbers(present.to_numpy(), num_groups)
    elif pa.types.is_boolean(column.type):
        labels, codes = _group_texts(pc.if_else(present, "yes", "no"))
    else:
        labels, codes = _group_texts(present.cast(pa.string()))
    places = np.full(len(column), len(labels), dtype=np.int64)
    places[~is_missing] = codes
    return [*labels, MISSING] if is_missing.any() else labels, places


def _group_numbers(
    values: npt.NDArray[Any], num_groups: int
) -> tuple[list[str], npt.NDArray[np.int64]]:
    """By value where there are few, else by quantiles; equal values stay together."""
    distinct = np.unique(values)
    if len(distinct) <= _NUM_VALUES:
        return [_number(value) for value in distinct], np.searchsorted(distinct, values)
    shares = np.linspace(0, 1, num_groups + 1)[1:]
    tops = np.unique(np.quantile(values, shares, method="inverted_cdf"))
    codes = np.searchsorted(tops, values)
    members = [values[codes == code] for code in range(len(tops))]
    ends = ((group.min(), group.max()) for group in members)
    return [
        _number(low) if low == high else f"{_number(low)} to {_number(high)}" for low, high in ends
    ], codes


def _number(value: float) -> str:
    """Return a number short enough for a label."""
    return f"{value:,}" if isinstance(value, int | np.integer) else f"{value:.3g}"


def _group_texts(texts: pa.ChunkedArray) -> tuple[list[str], npt.NDArray[np.int64]]:
    """By text; of many the most frequent, the rest together."""
    counts = sorted(
        ((entry["counts"], entry["values"]) for entry in pc.value_counts(texts).to_pylist()),
        key=lambda pair: (-pair[0], pair[1]),
    )
    kept = sorted(text for _, text in counts[:_NUM_TEXTS])
    codes = pc.index_in(texts, value_set=pa.array(kept, type=pa.string()))
    labels = [*kept, OTHER] if len(counts) > _NUM_TEXTS else kept
    return labels, np.asarray(pc.fill_null(codes, len(kept)).to_numpy(), dtype=np.int64)


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
        facts: Further things to say under the title: name to text. Of a path that is not in the
            working folder only the name is said: pages are passed on.
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
        cards=[row for key in _METRICS for row in rows if row["key"] == key],
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
