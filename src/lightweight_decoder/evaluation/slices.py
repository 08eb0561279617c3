"""Metrics of parts of the queries: by phrase length, confidence, or any metadata column."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lightweight_decoder.evaluation.predictions import (
    check_predictions,
    has_baseline,
    is_calibrated,
    metadata_columns,
)
from lightweight_decoder.evaluation.rank_metrics import ranking_metrics

LENGTH = "phrase length (words)"
CONFIDENCE = "confidence"

_NUM_VALUES = 6  # a column of numbers with no more distinct ones is sliced by value
_NUM_TEXTS = 12  # more distinct texts than this are put together as OTHER
_METRICS = ("recall@1", "recall@10", "mrr", "median_rank")
OTHER, MISSING = "(other)", "(none)"


def slice_metrics(predictions: pa.Table) -> pa.Table:
    """Return the ranking metrics of each group of queries, for decoder and baseline.

    Queries are grouped by each metadata column, by ``LENGTH`` (words of the first target) and by
    ``CONFIDENCE``. Those without a right phrase in the bank are left out. Texts, booleans and
    numbers with few distinct values are grouped by value, other numbers by quartiles, confidence by
    deciles; a missing value is a group of its own.

    Args:
        predictions: See ``evaluation.predictions``; not changed.

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
    return [_range(group.min(), group.max()) for group in members], codes


def _range(low: float, high: float) -> str:
    """Return a range as people read it; one number where both ends are."""
    return _number(low) if low == high else f"{_number(low)} to {_number(high)}"


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
