"""The table of predictions: a row for each query, and all that metrics, slices and report need.

It is a pyarrow Table with the columns of ``SCHEMA``, in any order, and free metadata columns beside
them (frequency, number of vectors, seen in training ...) which evaluation slices by. On disk it is
``predictions.parquet``. Shapes: q queries, k candidates.
"""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lightweight_decoder.errors import InputDataError
from lightweight_decoder.files import whole_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from lightweight_decoder.datatypes import FloatArray, IntArray

SCHEMA = pa.schema(
    [
        pa.field("query", pa.int64(), nullable=False),
        pa.field("text", pa.string()),
        pa.field("targets", pa.list_(pa.string()), nullable=False),
        pa.field("in_bank", pa.bool_(), nullable=False),
        pa.field("rank", pa.int64(), nullable=False),
        pa.field("target_ranks", pa.list_(pa.int64())),
        pa.field("baseline_rank", pa.int64()),
        pa.field("baseline_target_ranks", pa.list_(pa.int64())),
        pa.field("baseline_value", pa.float32()),
        pa.field("phrases", pa.list_(pa.string()), nullable=False),
        pa.field("values", pa.list_(pa.float32()), nullable=False),
        pa.field("confidence", pa.float32()),
        pa.field("abstained", pa.bool_(), nullable=False),
    ]
)
"""Columns of a predictions table.

- query: row of the query in its file. text: what was encoded, where it is known.
- targets: the right texts; at least one where ``in_bank``.
- in_bank: whether a right phrase is in the bank.
- rank, baseline_rank: of the best right phrase over the whole bank, from 1; 0 exactly where not
  ``in_bank``. baseline_rank is null in all rows where plain search cannot read the queries, as
  they are of another width than the bank. target_ranks, baseline_target_ranks: of every right
  phrase in the bank, where known.
- baseline_value: the best value of plain search, where known.
- phrases, values: the decoder's first phrases and their values, best first, at least one.
- confidence: probability that the first phrase is right; null in all rows where not calibrated.
- abstained: whether the answer was "no phrase".
"""


IN_TRAINING = "text is in training"
"""A column of truth values that ``mark_training_texts`` adds."""


def build_predictions(
    *,
    rank: IntArray,
    metadata: Mapping[str, Sequence[Any] | npt.NDArray[Any]] | None = None,
    **columns: Any,  # noqa: ANN401 - arrays and lists, checked here
) -> pa.Table:
    """Return a checked table of predictions from the columns of ``SCHEMA``, arrays or lists.

    Args:
        rank: (q,) int64 from 1; 0 says that no right phrase is in the bank, which fills
            ``in_bank``.
        metadata: Further columns to slice by: name to q numbers, booleans or texts.
        columns: The other columns of the schema, q values each; None, or left out: nulls.

    Raises:
        InputDataError: A column is unknown, has another length, a wrong kind, or values that
            cannot be.
    """
    given = {**columns, "rank": rank, "in_bank": rank > 0}
    for name in given.keys() - set(SCHEMA.names):
        raise InputDataError("a column is not of the schema", where=name)
    arrays = {
        field.name: _column(field.name, given.get(field.name), field.type, len(rank))
        for field in SCHEMA
    }
    for name, column in (metadata or {}).items():
        if name in arrays:
            raise InputDataError("a metadata column has a name of ours", where=name)
        arrays[name] = _column(name, column, None, len(rank))
    table = pa.table(arrays)
    check_predictions(table)
    return table


def write_predictions(predictions: pa.Table, path: Path) -> None:
    """Check and write a predictions table as Parquet; a failed write leaves no file behind.

    Raises:
        InputDataError: The table is not one of predictions, or the file cannot be written.
    """
    check_predictions(predictions)
    with whole_file(path) as temporary:
        pq.write_table(predictions, temporary, compression="zstd")


def read_predictions(path: Path) -> pa.Table:
    """Read and check a predictions table.

    Raises:
        InputDataError: The file is missing, is not Parquet, or is not a table of predictions.
    """
    try:
        predictions = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        is_missing = isinstance(error, FileNotFoundError)
        raise InputDataError.unreadable(
            path,
            "no such file" if is_missing else str(error).splitlines()[0],
            expected="a Parquet file that evaluation wrote",
            advice="Evaluate the run again.",
        ) from error
    check_predictions(predictions, where=path)
    return predictions


def check_predictions(predictions: pa.Table, *, where: object = "predictions") -> None:
    """Refuse a table that is not one of predictions; ``where`` is what to call it in errors.

    Raises:
        InputDataError: A column is missing or of another type, a value is missing, a query of the
            bank has no target, ranks and ``in_bank`` disagree, phrases and values do not pair, or
            confidence is not a probability.
    """
    for field in SCHEMA:
        _check_column(predictions, field, where)
    if len(predictions) == 0:
        raise InputDataError("there are no predictions", where=where)
    for is_bad, summary, expected in _rules(predictions):
        _refuse(is_bad, summary, where=where, expected=expected)
    _check_finite(predictions["values"].combine_chunks(), where)


def _rules(predictions: pa.Table) -> Iterator[tuple[pa.ChunkedArray, str, str | None]]:
    """Yield the rows that break a rule, what is wrong with them, and what would be right."""
    in_bank, confidence = predictions["in_bank"], predictions["confidence"]
    targets, phrases, values = (
        pc.list_value_length(predictions[name]) for name in ("targets", "phrases", "values")
    )
    is_bad = pc.and_(in_bank, pc.less(targets, 1))
    yield is_bad, "a query has no target", "at least one text in targets, or in_bank false"
    for name in ("rank", "baseline_rank") if has_baseline(predictions) else ("rank",):
        ranks = predictions[name]
        yield pc.is_null(ranks), f"column {name} has no value", None
        agree = pc.equal(pc.greater(ranks, 0), in_bank)
        expected = "ranks from 1 for queries in the bank, 0 for the others"
        is_bad = pc.or_(pc.less(ranks, 0), pc.invert(agree))
        yield is_bad, f"{name} and in_bank disagree", expected
    is_bad = pc.or_(pc.less(phrases, 1), pc.not_equal(phrases, values))
    yield is_bad, "phrases and values do not pair", "one or more phrases, and a value for each"
    if confidence.null_count < len(confidence):
        is_bad = pc.is_null(confidence, nan_is_null=True)
        yield is_bad, "some queries have confidence and this one has none", None
        is_bad = pc.or_(pc.less(confidence, 0), pc.greater(confidence, 1))
        yield is_bad, "confidence is not a probability", "0 to 1"


def evenly_drawn(predictions: pa.Table, count: int) -> pa.Table:
    """Return at most ``count`` rows, drawn evenly from first to last."""
    if len(predictions) <= count:
        return predictions
    return predictions.take(np.linspace(0, len(predictions) - 1, count).astype(np.int64))


def mark_training_texts(predictions: pa.Table, training_texts: Iterable[str] | None) -> pa.Table:
    """Return a table with the column ``IN_TRAINING``, if some query's text is a training text.

    For such queries it was no test. Texts are the same where they differ in case, white space and
    Unicode's forms only.

    Args:
        predictions: A checked table.
        training_texts: What was trained on; None where it was never texts.
    """
    known = set(map(_bare, training_texts or ()))
    is_known = [
        None if text is None else _bare(text) in known for text in predictions["text"].to_pylist()
    ]
    if not any(is_known):
        return predictions
    return predictions.append_column(IN_TRAINING, pa.array(is_known, pa.bool_()))


def first_values(predictions: pa.Table) -> FloatArray:
    """(q,) float32, the value of each query's first phrase."""
    return np.asarray(pc.list_element(predictions["values"], 0).to_numpy(), dtype=np.float32)


def has_baseline(predictions: pa.Table) -> bool:
    """Whether the predictions have ranks of plain search."""
    return bool(predictions["baseline_rank"].null_count < len(predictions))


def is_calibrated(predictions: pa.Table) -> bool:
    """Whether the predictions have confidence."""
    return bool(predictions["confidence"].null_count == 0)


def metadata_columns(predictions: pa.Table) -> list[str]:
    """Names of the columns that are not of the schema, in the order of the table."""
    return [name for name in predictions.column_names if name not in SCHEMA.names]


def _bare(text: str) -> str:
    """Return what two texts must share to be the same."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _column(name: str, values: Any, kind: pa.DataType | None, length: int) -> pa.Array:  # noqa: ANN401
    """Return an Arrow column; nulls where there is nothing."""
    if values is None:
        return pa.nulls(length, kind)
    if len(values) != length:
        problem = "a column has another length"
        raise InputDataError.unexpected(name, length, len(values), summary=problem)
    try:
        is_table = isinstance(values, np.ndarray) and values.ndim > 1
        return pa.array(list(values) if is_table else values, type=kind)
    except (pa.ArrowException, TypeError) as error:
        problem = "a column is of the wrong kind"
        raise InputDataError.unexpected(name, kind, error, summary=problem) from error


def _check_column(predictions: pa.Table, field: pa.Field, where: object) -> None:
    """Refuse a column that is missing, of another type, or with holes."""
    if field.name not in predictions.column_names:
        found = ", ".join(predictions.column_names)
        raise InputDataError.unexpected(where, field.name, found, summary="a column is missing")
    column = predictions[field.name]
    if column.type != field.type:
        problem = f"column {field.name} has another type"
        raise InputDataError.unexpected(where, field.type, column.type, summary=problem)
    if not field.nullable:
        _refuse(pc.is_null(column), f"column {field.name} has no value", where=where)


def _check_finite(values: pa.ListArray, where: object) -> None:
    """Refuse a value that no ranking has, which JSON could not carry either."""
    is_bad = pc.invert(pc.is_finite(pc.fill_null(values.flatten(), float("nan"))))
    place = pc.index(is_bad, value=True).as_py()
    if place >= 0:
        row = pc.list_parent_indices(values)[place].as_py()
        raise InputDataError("a value is not finite", where=where, at=f"row {row}")


def _refuse(
    is_bad: pa.ChunkedArray, summary: str, *, where: object, expected: str | None = None
) -> None:
    """Raise for the first row that is bad, if there is one."""
    row = pc.index(is_bad, value=True).as_py()
    if row >= 0:
        raise InputDataError(summary, where=where, at=f"row {row}", expected=expected)
