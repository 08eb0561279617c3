from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.stats import ttest_rel
from sklearn.metrics import roc_auc_score

from lightweight_decoder.errors import InputDataError
from lightweight_decoder.evaluation.confidence import aurc
from lightweight_decoder.evaluation.predictions import mark_training_texts
from lightweight_decoder.evaluation.summary import all_ranks, query_values, summarize_predictions

MEANS = [
    *("recall@1", "recall@3", "recall@5", "recall@10", "recall@25", "recall@100"),
    *("mrr", "mrr@25", "map@25", "ndcg@10"),
]
DECODER_MEANS = [*MEANS, "bleu", "chrf", "rouge_l", "brier"]


def with_intervals(system, names):
    return {f"test/{system}/{name}{end}" for name in names for end in ("", "/low", "/high")}


def test_names_are_those_of_metrics_json(make_predictions):
    summary = summarize_predictions(make_predictions(), num_resamples=50)

    assert set(summary) == {
        *with_intervals("baseline", [*MEANS, "median_rank"]),
        *with_intervals("decoder", [*DECODER_MEANS, "median_rank"]),
        *with_intervals("difference", MEANS),
        *(f"test/difference/{name}/p_value" for name in MEANS),
        *(f"test/{system}/num_queries" for system in ("baseline", "decoder")),
        *(f"test/baseline/{name}" for name in ("aurc", "auroc_right")),
        *(f"test/decoder/{n}" for n in ("ece", "aurc", "auroc_right", "coverage", "precision")),
    }


def test_figures_are_those_of_the_ranks(make_predictions):
    predictions = make_predictions()
    rank, baseline_rank = (predictions[n].to_numpy() for n in ("rank", "baseline_rank"))

    summary = summarize_predictions(predictions, split="val", num_resamples=200)

    assert summary["val/decoder/recall@10"] == pytest.approx((rank <= 10).mean())
    assert summary["val/baseline/mrr"] == pytest.approx((1 / baseline_rank).mean())
    assert summary["val/decoder/median_rank"] == np.median(rank)
    assert summary["val/difference/mrr"] == pytest.approx((1 / rank - 1 / baseline_rank).mean())
    assert summary["val/baseline/num_queries"] == 200
    for name in ("recall@1", "mrr", "median_rank"):
        low, high = (summary[f"val/decoder/{name}/{end}"] for end in ("low", "high"))
        assert low <= summary[f"val/decoder/{name}"] <= high


def test_the_paired_test_agrees_with_a_t_test(make_predictions):
    predictions = make_predictions(num_queries=60)
    first, second = (query_values(predictions, system) for system in ("baseline", "decoder"))
    reference = ttest_rel(second["ndcg@10"], first["ndcg@10"])

    summary = summarize_predictions(predictions, num_resamples=4000)

    low, high = reference.confidence_interval()
    assert summary["test/difference/ndcg@10/low"] == pytest.approx(low, abs=0.02)
    assert summary["test/difference/ndcg@10/high"] == pytest.approx(high, abs=0.02)


def test_queries_out_of_the_bank_are_counted_apart(make_predictions):
    predictions = make_predictions(out_of_bank=50)
    inside = predictions.slice(50)

    with_outside = summarize_predictions(predictions, num_resamples=50)
    without = summarize_predictions(inside, num_resamples=50)

    in_bank = predictions["in_bank"].to_numpy()
    answered = ~predictions["abstained"].to_numpy()
    extra = {name: with_outside.pop(name) for name in set(with_outside) - set(without)}
    assert with_outside == without
    assert extra == {
        "test/decoder/num_out_of_bank": 50,
        "test/decoder/auroc_in_bank": roc_auc_score(in_bank, predictions["confidence"].to_numpy()),
        "test/decoder/fpr95_in_bank": extra["test/decoder/fpr95_in_bank"],
        "test/decoder/answered_out_of_bank": answered[:50].mean(),
    }


def test_abstention_is_measured(make_predictions):
    predictions = make_predictions()
    answered = ~predictions["abstained"].to_numpy()
    right = predictions["rank"].to_numpy() == 1

    summary = summarize_predictions(predictions, num_resamples=10)

    assert summary["test/decoder/coverage"] == pytest.approx(answered.mean())
    assert summary["test/decoder/precision"] == pytest.approx(right[answered].mean())


def test_without_calibration_the_first_value_is_what_sureness_is_measured_by(make_predictions):
    predictions = make_predictions(calibrated=False)
    first = np.array([values[0] for values in predictions["values"].to_pylist()])

    summary = summarize_predictions(predictions, num_resamples=10)

    assert "test/decoder/ece" not in summary
    assert "test/decoder/brier" not in summary
    assert summary["test/decoder/aurc"] == aurc(first, predictions["rank"].to_numpy() == 1)


def test_average_precision_of_several_targets_needs_all_ranks(make_predictions):
    targets = [["one", "two"]] * 200
    unknown = make_predictions(targets=targets)
    ranks = [[int(rank), int(rank) + 5] for rank in unknown["rank"].to_numpy()]
    known = make_predictions(targets=targets, target_ranks=ranks)

    assert all_ranks(unknown, "decoder") is None
    assert "test/decoder/map@25" not in summarize_predictions(unknown, num_resamples=10)
    np.testing.assert_array_equal(all_ranks(known, "decoder"), ranks)
    expected = np.mean(
        [(1 / a * (a <= 25) + 2 / b * (b <= 25)) / 2 for a, b in ranks],
    )
    summary = summarize_predictions(known, num_resamples=10)
    assert summary["test/decoder/map@25"] == pytest.approx(expected)
    assert "test/difference/map@25" not in summary


def test_ranks_of_uneven_numbers_are_padded(make_predictions):
    ranks = [[row + 1] * (row % 3) for row in range(200)]

    padded = all_ranks(make_predictions(target_ranks=ranks), "decoder")

    assert padded.shape == (200, 2)
    np.testing.assert_array_equal(padded[:3], [[0, 0], [2, 0], [3, 3]])


def test_everything_is_finite_json(make_predictions):
    summary = summarize_predictions(make_predictions(out_of_bank=150), num_resamples=10)

    assert json.loads(json.dumps(summary, allow_nan=False)) == summary


def test_a_table_without_a_query_of_the_bank_is_refused(make_predictions):
    with pytest.raises(InputDataError, match="no query has a right phrase in the bank"):
        summarize_predictions(make_predictions(out_of_bank=200))


def test_without_a_baseline_there_is_only_the_decoder(make_predictions):
    everything = summarize_predictions(make_predictions(), num_resamples=20)
    alone = summarize_predictions(
        make_predictions(baseline_rank=None, baseline_value=None), num_resamples=20
    )

    assert alone == {n: v for n, v in everything.items() if n.startswith("test/decoder/")}


def test_queries_that_were_trained_on_are_counted(make_predictions):
    predictions = make_predictions(text=["seen"] * 3 + ["new"] * 197, out_of_bank=1)

    marked = mark_training_texts(predictions, ["seen"])
    summary = summarize_predictions(marked, num_resamples=10)

    assert summary.pop("test/decoder/num_in_training") == 2  # the first query is out of the bank
    assert summary == summarize_predictions(predictions, num_resamples=10)
