from __future__ import annotations

from io import StringIO

from rich.console import Console

from lightweight_decoder.evaluation.comparison import metric_rows, metric_table
from lightweight_decoder.evaluation.summary import summarize_predictions


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


def test_without_a_baseline_its_column_is_empty(make_predictions):
    predictions = make_predictions(
        baseline_rank=None, baseline_value=None, baseline_target_ranks=None
    )
    rows = metric_rows(summarize_predictions(predictions, num_resamples=50))

    assert {row["key"] for row in rows} >= {"recall@1", "mrr", "ece"}
    assert all(row["baseline"] == row["change"] == row["p_value"] == "" for row in rows)
