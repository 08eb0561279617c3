from __future__ import annotations

from io import StringIO

import numpy as np
import pytest
from rich.console import Console

from lightweight_decoder.errors import ConfigError, InputDataError
from lightweight_decoder.evaluation.comparison import compare_metrics, metric_rows, metric_table
from lightweight_decoder.evaluation.summary import summarize_predictions

METRICS = {
    "test/decoder/recall@10": 0.40,
    "test/decoder/median_rank": 50.0,
    "test/decoder/ece": 0.02,
    "test/decoder/num_queries": 1000.0,
    "test/decoder/recall@10/low": 0.37,
    "test/baseline/recall@10": 0.3,
    "test/difference/recall@10": 0.1,
    "test/decoder/latency_p50_ms": 3.0,
}


def printed(table):
    console = Console(file=StringIO(), width=140)
    console.print(table)
    return console.file.getvalue()


def test_a_row_says_both_systems_and_the_change(make_predictions):
    metrics = summarize_predictions(make_predictions(), num_resamples=50)
    row = next(row for row in metric_rows(metrics) if row["key"] == "mrr")

    assert row["baseline"] == f"{metrics['test/baseline/mrr']:.3f}"
    assert row["decoder"] == f"{metrics['test/decoder/mrr']:.3f}"
    assert row["change"] == f"{metrics['test/difference/mrr']:+.3f}"
    assert row["verdict"] == "better"
    for text in (row["baseline"], row["decoder"], row["change"], row["decoder_interval"]):
        assert text in printed(metric_table(metrics))


def test_a_table_has_the_columns_that_have_a_figure():
    metrics = {
        "val/decoder/num_queries": 60.0,
        "val/decoder/recall@1": 0.25,
        "val/baseline/recall@1": 0.125,
    }
    table = metric_table(metrics)
    assert [column.header for column in table.columns] == [
        "metric",
        "plain search",
        "decoder",
        "change",
    ]
    assert "val: 60 queries" in printed(table)
    assert "+12.5 pp" in printed(table)


def test_without_a_baseline_its_column_is_empty(make_predictions):
    predictions = make_predictions(
        baseline_rank=None, baseline_value=None, baseline_target_ranks=None
    )
    rows = metric_rows(summarize_predictions(predictions, num_resamples=50))

    assert {row["key"] for row in rows} >= {"recall@1", "mrr", "ece"}
    assert all(row["baseline"] == row["change"] == row["p_value"] == "" for row in rows)


def changed(**values):
    return METRICS | {f"test/decoder/{name}": value for name, value in values.items()}


def fallen(now, *, tolerance=0.01):
    return [c.name for c in compare_metrics(now, METRICS, tolerance=tolerance) if c.fell]


def test_an_equal_evaluation_holds():
    changes = compare_metrics(METRICS, METRICS, tolerance=0)

    assert {change.name for change in changes} == {
        "test/decoder/recall@10",
        "test/decoder/median_rank",
        "test/decoder/ece",
    }
    assert not any(change.fell for change in changes)


@pytest.mark.parametrize(
    ("name", "worse", "better"),
    [("recall@10", 0.38, 0.5), ("median_rank", 52.0, 30.0), ("ece", 0.035, 0.0)],
)
def test_each_metric_falls_in_its_own_direction(name, worse, better):
    assert fallen(changed(**{name: worse})) == [f"test/decoder/{name}"]
    assert fallen(changed(**{name: better})) == []


def test_a_loss_within_the_tolerance_holds():
    assert fallen(changed(**{"recall@10": 0.395})) == []
    assert fallen(changed(median_rank=52.0), tolerance=0.05) == []


def test_the_line_says_which_metric_fell_by_how_much():
    first, *_ = compare_metrics(
        changed(**{"recall@10": 0.3, "median_rank": 51.0}), METRICS, tolerance=0.01
    )

    assert str(first) == "test/decoder/recall@10 fell: 0.4000 -> 0.3000 (loss +0.1000)"


def test_the_largest_fall_comes_first():
    changes = compare_metrics(changed(**{"recall@10": 0.3, "ece": 0.5}), METRICS, tolerance=0.01)

    assert [change.fell for change in changes] == [True, True, False]
    assert changes[0].name == "test/decoder/ece"


def test_what_is_not_the_decoders_quality_is_not_compared():
    now = METRICS | {"test/baseline/recall@10": 0.0, "test/decoder/latency_p50_ms": 900.0}

    assert fallen(now) == []


def test_other_metrics_are_named():
    before = {**METRICS, "test/decoder/map@25": 0.5}
    del before["test/decoder/ece"]

    with pytest.raises(
        InputDataError,
        match=r"old.json: .*other metrics: expected test/decoder/ece, found test/decoder/map@25",
    ):
        compare_metrics(METRICS, before, tolerance=0, where="old.json")
    with pytest.raises(InputDataError, match="other metrics"):
        compare_metrics({}, {}, tolerance=0)


def test_other_numbers_of_queries_are_refused():
    with pytest.raises(InputDataError, match=r"num_queries: .*other queries.* 900.*found 1000"):
        compare_metrics(changed(num_queries=900.0), METRICS, tolerance=0)


@pytest.mark.parametrize("tolerance", [-0.1, float("nan")])
def test_a_tolerance_below_zero_is_refused(tolerance):
    with pytest.raises(ConfigError, match=r"tolerance: .*0 or more"):
        compare_metrics(METRICS, METRICS, tolerance=tolerance)


def test_the_paired_test_tells_a_fall_from_luck(make_predictions):
    before = make_predictions(num_queries=500)
    rank = before["rank"].to_numpy()
    worse = make_predictions(num_queries=500, rank=rank * 3)
    rng = np.random.default_rng(1)
    shuffled = np.where(rng.random(500) < 0.02, rank + rng.integers(0, 2, 500), rank)
    similar = make_predictions(num_queries=500, rank=shuffled)
    metrics = {
        name: summarize_predictions(table, num_resamples=20)
        for name, table in (("before", before), ("worse", worse), ("similar", similar))
    }

    clear = compare_metrics(
        metrics["worse"], metrics["before"], tolerance=0.01, predictions=(worse, before)
    )
    unclear = compare_metrics(
        metrics["similar"], metrics["before"], tolerance=0.01, predictions=(similar, before)
    )

    by_name = {change.name: change for change in clear}
    mrr = by_name["test/decoder/mrr"]
    assert mrr.fell
    assert mrr.paired.difference == pytest.approx(-mrr.loss)
    assert mrr.paired.p_value < 0.01
    assert "p = 0.001" in str(mrr)
    assert by_name["test/decoder/ece"].paired is None
    assert {c.name: c for c in unclear}["test/decoder/recall@10"].paired.p_value > 0.05


def test_predictions_of_other_queries_do_not_pair(make_predictions):
    predictions = make_predictions()
    other = make_predictions(query=np.arange(200) + 1)
    metrics = summarize_predictions(predictions, num_resamples=10)

    with pytest.raises(InputDataError, match=r"old, column query: .*of other queries"):
        compare_metrics(
            metrics, metrics, tolerance=0, predictions=(predictions, other), where="old"
        )
