from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightweight_decoder.evaluation.html_report import (
    CONFIDENCE,
    LENGTH,
    MISSING,
    OTHER,
    _group,
    slice_metrics,
)
from lightweight_decoder.evaluation.rank_metrics import ranking_metrics


def test_every_query_of_the_bank_is_in_one_group_of_each_slice(make_predictions):
    table = slice_metrics(make_predictions(out_of_bank=30))

    sums = table.group_by("slice", use_threads=False).aggregate([("num_queries", "sum")])
    assert sums["slice"].to_pylist() == [LENGTH, "frequency", "seen", "part of speech", CONFIDENCE]
    assert sums["num_queries_sum"].to_pylist() == [170] * 5


def sliced(predictions, column):
    table = slice_metrics(predictions)
    return table.filter(pc.equal(table["slice"], column))


def test_metrics_are_those_of_the_rows_of_the_group(make_predictions):
    predictions = make_predictions()
    table = sliced(predictions, "part of speech")

    assert table["group"].to_pylist() == ["noun", "verb", MISSING]
    for row in table.slice(0, 2).to_pylist():
        chosen = predictions.filter(pc.equal(predictions["part of speech"], row["group"]))
        expected = ranking_metrics(chosen["rank"].to_numpy())
        assert row["num_queries"] == len(chosen)
        assert row["recall@10"] == expected["recall@10"]
        assert row["median_rank"] == expected["median_rank"]
        baseline = ranking_metrics(chosen["baseline_rank"].to_numpy())
        assert row["baseline_mrr"] == baseline["mrr"]
        assert row["confidence"] == pytest.approx(chosen["confidence"].to_numpy().mean())


def test_length_counts_the_words_of_the_first_target(make_predictions):
    table = sliced(make_predictions(num_queries=3, metadata={}), LENGTH)

    assert table["group"].to_pylist() == ["2", "3", "4"]


def test_confidence_is_cut_into_deciles(make_predictions):
    table = sliced(make_predictions(num_queries=1000), CONFIDENCE)

    np.testing.assert_allclose(table["num_queries"].to_numpy(), 100, atol=1)
    assert (np.diff(table["confidence"].to_numpy()) > 0).all()


def test_without_calibration_there_is_no_confidence(make_predictions):
    table = slice_metrics(make_predictions(calibrated=False))

    assert CONFIDENCE not in table["slice"].to_pylist()
    assert table["confidence"].null_count == len(table)


def test_rare_texts_are_put_together():
    texts = [f"label {number:02}" for number in range(20) for _ in range(20 - number)]

    labels, codes = _group(pa.chunked_array([texts]), 4)

    assert labels == [*(f"label {number:02}" for number in range(12)), OTHER]
    np.testing.assert_array_equal(np.bincount(codes), [*range(20, 8, -1), 36])


def test_booleans_read_as_yes_and_no():
    labels, codes = _group(pa.chunked_array([[True, False, True, None]]), 4)

    assert labels == ["no", "yes", MISSING]
    np.testing.assert_array_equal(codes, [1, 0, 1, 2])


@given(st.lists(st.integers(-50, 50) | st.none(), min_size=1, max_size=60), st.integers(1, 5))
def test_groups_of_numbers_are_in_order_and_never_empty(numbers, num_groups):
    labels, codes = _group(pa.chunked_array([pa.array(numbers, pa.int64())]), num_groups)

    assert set(codes) == set(range(len(labels)))
    assert [number is None for number in numbers] == [labels[code] == MISSING for code in codes]
    present = sorted((n, c) for n, c in zip(numbers, codes, strict=True) if n is not None)
    assert [code for _, code in present] == sorted(code for _, code in present)


def test_without_a_baseline_its_columns_are_empty(make_predictions):
    table = slice_metrics(make_predictions(baseline_rank=None, baseline_value=None))

    assert table["mrr"].null_count == 0
    assert table["baseline_mrr"].null_count == len(table) > 0
