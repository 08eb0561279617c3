from __future__ import annotations

import ir_measures
import numpy as np
import pytest
from sklearn.metrics import label_ranking_average_precision_score, ndcg_score

from lightweight_decoder.errors import ConfigError, InputDataError
from lightweight_decoder.evaluation.rank_metrics import (
    average_precision_at_k,
    best_ranks,
    hits_at_k,
    median_rank,
    ndcg_values_at_k,
    ranking_metrics,
    ranking_values,
    reciprocal_ranks,
)

NUM_PHRASES = 40
ALL_K = (1, 3, 5, 10, 25, 100)


def random_retrieval(seed):
    """The order of values with ties and negative numbers; 1 to 4 right phrases a query."""
    rng = np.random.default_rng(seed)
    values = rng.integers(-6, 3, size=(30, NUM_PHRASES)) / 4
    right = np.zeros(values.shape, dtype=bool)
    for row in right:
        row[rng.choice(NUM_PHRASES, size=rng.integers(1, 5), replace=False)] = True
    order = np.argsort(-values, axis=1, kind="stable")
    return order, right


def padded_ranks(order, right):
    """(q, m) ranks of all right phrases in the stable order, zeros at the end."""
    rows = [np.flatnonzero(row[places]) + 1 for places, row in zip(order, right, strict=True)]
    padded = np.zeros((len(rows), max(map(len, rows))), dtype=np.int64)
    for ranks, row in zip(padded, rows, strict=True):
        ranks[: len(row)] = row
    return padded


def reference_metrics(order, right, measures):
    """What ir-measures (trec_eval) says; its scores are made to follow the stable order."""
    qrels = [
        ir_measures.Qrel(str(query), str(phrase), 1)
        for query, row in enumerate(right)
        for phrase in np.flatnonzero(row)
    ]
    run = [
        ir_measures.ScoredDoc(str(query), str(phrase), -float(place))
        for query, row in enumerate(order)
        for place, phrase in enumerate(row)
    ]
    return ir_measures.calc_aggregate(measures, qrels, run)


@pytest.mark.parametrize("seed", range(5))
def test_metrics_agree_with_trec_eval_under_ties_and_negative_values(seed):
    order, right = random_retrieval(seed)
    rng = np.random.default_rng(seed)
    ranks = rng.permuted(padded_ranks(order, right), axis=1)  # the order in a row carries nothing
    measures = {
        **{f"recall@{k}": ir_measures.Success @ k for k in ALL_K},
        "mrr": ir_measures.RR,
        "mrr@25": ir_measures.RR @ 25,
        "map@25": ir_measures.AP @ 25,
        "map@3": ir_measures.AP @ 3,
        "ndcg@10": ir_measures.nDCG @ 10,
        "ndcg@2": ir_measures.nDCG @ 2,
    }
    reference = reference_metrics(order, right, list(measures.values()))

    metrics = ranking_metrics(ranks, recall_at=ALL_K, mrr_at=(25,))
    metrics |= {f"map@{k}": average_precision_at_k(ranks, k).mean() for k in (25, 3)}
    metrics |= {f"ndcg@{k}": ndcg_values_at_k(ranks, k).mean() for k in (10, 2)}

    for name, measure in measures.items():
        assert metrics[name] == pytest.approx(reference[measure]), name


@pytest.mark.parametrize("seed", range(3))
def test_metrics_agree_with_scikit_learn(seed):
    order, right = random_retrieval(seed)
    ranks = padded_ranks(order, right)
    scores = np.empty(order.shape)
    np.put_along_axis(scores, order, -np.arange(NUM_PHRASES, dtype=float)[None], axis=1)

    assert average_precision_at_k(ranks, NUM_PHRASES).mean() == pytest.approx(
        label_ranking_average_precision_score(right, scores)
    )
    assert ndcg_values_at_k(ranks, 10).mean() == pytest.approx(ndcg_score(right, scores, k=10))


def test_default_metrics_are_those_of_the_run_folder():
    metrics = ranking_metrics(np.array([1, 3, 200]))

    assert metrics == pytest.approx(
        {
            "recall@1": 1 / 3,
            "recall@10": 2 / 3,
            "recall@100": 2 / 3,
            "mrr": (1 + 1 / 3 + 1 / 200) / 3,
            "median_rank": 3,
            "num_queries": 3,
        }
    )


def test_one_column_and_one_dimension_say_the_same():
    ranks = np.array([4, 0, 1, 30])
    rows = ranks[:, None]

    assert ranking_metrics(ranks, mrr_at=(25,)) == ranking_metrics(rows, mrr_at=(25,))
    for function in (average_precision_at_k, ndcg_values_at_k):
        np.testing.assert_array_equal(function(ranks, 10), function(rows, 10))


def test_a_query_without_target_scores_zero_and_is_counted():
    ranks = np.array([[1, 2], [0, 0]])

    metrics = ranking_metrics(ranks, recall_at=(1,), mrr_at=(5,))

    assert metrics.pop("median_rank") == np.inf
    assert metrics.pop("num_queries") == 2
    assert set(metrics.values()) == {0.5}
    for function in (average_precision_at_k, ndcg_values_at_k):
        np.testing.assert_allclose(function(ranks, 5), [1, 0])


def test_median_counts_queries_without_target_as_worst():
    assert median_rank(np.array([0, 2, 9])) == 9
    assert median_rank(np.array([2, 4])) == 3


def test_best_ranks_skips_the_padding():
    np.testing.assert_array_equal(best_ranks(np.array([[7, 3, 0], [0, 0, 0]])), [3, 0])


def test_values_have_the_metrics_as_means():
    ranks = np.array([1, 12, 0, 5])
    metrics = ranking_metrics(ranks, mrr_at=(10,))

    for name, values in ranking_values(ranks, mrr_at=(10,)).items():
        assert values.shape == (4,)
        assert values.mean() == pytest.approx(metrics[name])


def test_mrr_stops_at_k():
    assert reciprocal_ranks(np.array([2, 30]), 25) == pytest.approx([1 / 2, 0])
    assert reciprocal_ranks(np.array([2, 30])) == pytest.approx([1 / 2, 1 / 30])


def test_k_below_one_is_refused():
    for function in (hits_at_k, reciprocal_ranks, average_precision_at_k, ndcg_values_at_k):
        with pytest.raises(ConfigError, match="k: cannot be used: expected at least 1, found 0"):
            function(np.array([1]), 0)


@pytest.mark.parametrize(
    ("ranks", "message"),
    [
        (np.array([1, -2]), "ranks, row 1: .*from 1, 0 for no target, found -2"),
        (np.array([], dtype=np.int64), "there are no ranks"),
        (np.array([1.0]), r"expected \(q,\) or \(q, m\) whole numbers, found \(1,\) float64"),
    ],
)
def test_unusable_ranks_are_refused(ranks, message):
    with pytest.raises(InputDataError, match=message):
        ranking_metrics(ranks)
