from __future__ import annotations

import errno

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightweight_decoder.errors import InputDataError
from lightweight_decoder.evaluation.predictions import (
    IN_TRAINING,
    SCHEMA,
    build_predictions,
    check_predictions,
    first_values,
    has_baseline,
    is_calibrated,
    mark_training_texts,
    metadata_columns,
    read_predictions,
    write_predictions,
)


def set_row(table, name, row, value):
    """The table with one value changed."""
    values = table[name].to_pylist()
    values[row] = value
    place = table.column_names.index(name)
    return table.set_column(place, name, pa.array(values, table[name].type))


def test_a_table_comes_back_as_it_was_written(make_predictions, tmp_path):
    predictions = make_predictions(out_of_bank=20)
    path = tmp_path / "predictions.parquet"

    write_predictions(predictions, path)

    assert read_predictions(path).equals(predictions)
    assert [entry.name for entry in tmp_path.iterdir()] == ["predictions.parquet"]


@given(st.text(), st.text())
def test_any_text_survives(text, target):
    predictions = build_predictions(
        query=np.array([0]),
        text=[text],
        targets=[[target]],
        rank=np.array([1]),
        baseline_rank=np.array([2]),
        phrases=[[target]],
        values=np.ones((1, 1), dtype=np.float32),
        abstained=np.array([False]),
    )

    assert predictions["text"].to_pylist() == [text]
    assert predictions["targets"].to_pylist() == [[target]]


def test_columns_have_the_types_of_the_schema(make_predictions):
    predictions = make_predictions()

    for field in SCHEMA:
        assert predictions[field.name].type == field.type
    assert metadata_columns(predictions) == ["frequency", "seen", "part of speech"]


def test_what_is_not_known_is_null(make_predictions):
    predictions = make_predictions(calibrated=False, text=None, baseline_value=None)

    assert not is_calibrated(predictions)
    assert is_calibrated(make_predictions())
    assert has_baseline(make_predictions())
    assert not has_baseline(make_predictions(baseline_rank=None))
    assert predictions["text"].null_count == len(predictions)
    assert predictions["target_ranks"].null_count == len(predictions)


def test_first_values_are_the_first_of_each_list(make_predictions):
    predictions = make_predictions()

    np.testing.assert_array_equal(
        first_values(predictions), [values[0] for values in predictions["values"].to_pylist()]
    )


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("targets", [], "row 7: a query has no target"),
        ("targets", None, "row 7: column targets has no value"),
        ("rank", 0, "row 7: rank and in_bank disagree"),
        ("rank", -3, "row 7: rank and in_bank disagree"),
        ("baseline_rank", 0, "row 7: baseline_rank and in_bank disagree"),
        ("in_bank", False, "row 7: rank and in_bank disagree"),
        ("phrases", ["a"], "row 7: phrases and values do not pair"),
        ("confidence", None, "row 7: some queries have confidence and this one has none"),
        ("confidence", float("nan"), "row 7: some queries have confidence"),
        ("confidence", 1.5, "row 7: confidence is not a probability"),
        ("abstained", None, "row 7: column abstained has no value"),
    ],
)
def test_a_row_that_cannot_be_is_named(make_predictions, tmp_path, name, value, message):
    path = tmp_path / "predictions.parquet"
    pq.write_table(set_row(make_predictions(), name, 7, value), path)

    with pytest.raises(InputDataError, match=f"predictions.parquet, {message}"):
        read_predictions(path)


def test_a_query_out_of_the_bank_needs_no_target(make_predictions):
    targets = make_predictions()["targets"].to_pylist()
    targets[0] = []

    assert make_predictions(out_of_bank=1, targets=targets)["targets"][0].as_py() == []


def test_a_missing_column_is_named(make_predictions, tmp_path):
    path = tmp_path / "predictions.parquet"
    pq.write_table(make_predictions().drop_columns("rank"), path)

    with pytest.raises(InputDataError, match=r"a column is missing: expected rank, found query"):
        read_predictions(path)


def test_a_column_of_another_type_is_named(make_predictions):
    predictions = make_predictions()
    place = predictions.column_names.index("rank")
    changed = predictions.set_column(place, "rank", predictions["rank"].cast(pa.float64()))

    with pytest.raises(InputDataError, match="column rank has another type: expected int64"):
        write_predictions(changed, None)


def test_no_rows_are_refused(make_predictions):
    with pytest.raises(InputDataError, match="there are no predictions"):
        write_predictions(make_predictions().slice(0, 0), None)


def test_a_file_that_is_not_parquet_is_refused(tmp_path):
    path = tmp_path / "predictions.parquet"
    path.write_text("rank,1")

    with pytest.raises(InputDataError, match=r"predictions.parquet: cannot be read"):
        read_predictions(path)
    with pytest.raises(InputDataError, match=r"missing.parquet: .*found no such file"):
        read_predictions(tmp_path / "missing.parquet")


def test_columns_of_other_lengths_and_kinds_are_refused(make_predictions):
    with pytest.raises(InputDataError, match="text: a column has another length: expected 200"):
        make_predictions(text=["one"])
    with pytest.raises(
        InputDataError, match="text: a column is of the wrong kind: expected string"
    ):
        make_predictions(text=[1] * 200)
    with pytest.raises(InputDataError, match="rank: a metadata column has a name of ours"):
        make_predictions(metadata={"rank": [1] * 200})


def test_a_full_disk_leaves_nothing_behind(make_predictions, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pq, "write_table", fail)

    with pytest.raises(InputDataError, match="cannot be written: found No space left on device"):
        write_predictions(make_predictions(), tmp_path / "predictions.parquet")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_named(make_predictions, tmp_path):
    with pytest.raises(InputDataError, match=r"nowhere/p.parquet: .*cannot be written"):
        write_predictions(make_predictions(), tmp_path / "nowhere" / "p.parquet")


def test_a_query_whose_text_was_trained_on_is_marked(make_predictions):
    texts = ["Lost  my card", "Cafe\u0301", "new", None] + ["other"] * 196
    predictions = make_predictions(text=texts)

    marked = mark_training_texts(predictions, ["lost my card ", "CAFÉ", "card"])

    assert marked[IN_TRAINING].to_pylist() == [True, True, False, None] + [False] * 196
    assert marked.drop([IN_TRAINING]).equals(predictions)
    check_predictions(marked)


@pytest.mark.parametrize("training_texts", [None, [], ["something else"]])
def test_where_no_text_was_trained_on_the_table_stays_as_it_is(make_predictions, training_texts):
    predictions = make_predictions(text=["a text"] * 200)

    assert mark_training_texts(predictions, training_texts) is predictions
