from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import softmax
from sklearn.metrics import roc_auc_score

from lightweight_decoder.decoder.calibration import Calibration
from lightweight_decoder.errors import CheckpointError, ConfigError, InputDataError

TEMPERATURE = 0.05


def ranked_queries(seed, num_queries=4000, k=16):
    """Cosine-like values whose right phrase is drawn from their softmax, so the truth is known."""
    rng = np.random.default_rng(seed)
    values = np.sort(rng.normal(0.4, 0.1, size=(num_queries, k)).astype(np.float32))[:, ::-1]
    truth = softmax(values / TEMPERATURE, axis=1)[:, 0]
    return values, rng.random(num_queries) < truth, truth


def out_of_bank_queries(seed, num_queries, k=16):
    rng = np.random.default_rng(seed)
    return np.sort(rng.normal(0.15, 0.1, size=(num_queries, k)).astype(np.float32))[:, ::-1]


@pytest.fixture(scope="module", params=["temperature", "isotonic"])
def calibration(request):
    values, right, _ = ranked_queries(0)
    return Calibration.fit(values, right, method=request.param)


def test_confidence_is_the_true_probability(calibration):
    values, _, truth = ranked_queries(1)

    confidence = calibration.confidence(values)

    assert confidence.dtype == np.float32
    assert confidence.shape == (4000,)
    assert np.abs(confidence - truth).mean() < 0.03
    assert confidence.mean() == pytest.approx(truth.mean(), abs=0.02)


def test_temperature_scaling_is_found_where_it_is_the_truth():
    values, right, _ = ranked_queries(0, num_queries=8000)

    calibration = Calibration.fit(values, right)

    assert calibration.temperature == pytest.approx(TEMPERATURE, rel=0.3)
    assert calibration.weights[0] == pytest.approx(1, abs=0.2)


def test_confidence_never_falls_while_the_best_value_rises(calibration):
    values = np.repeat(ranked_queries(2, num_queries=20)[0], 50, axis=0)
    values[:, 0] += np.tile(np.linspace(0, 0.5, 50, dtype=np.float32), 20)

    confidence = calibration.confidence(values).reshape(20, 50)

    assert (np.diff(confidence, axis=1) >= -1e-6).all()
    assert (confidence[:, -1] > confidence[:, 0]).any()


@pytest.mark.parametrize("method", ["temperature", "isotonic"])
def test_out_of_bank_queries_get_low_confidence(method):
    values, right, _ = ranked_queries(0)
    values = np.concatenate([values, out_of_bank_queries(0, 1000)])
    right = np.concatenate([right, np.zeros(1000, dtype=bool)])
    calibration = Calibration.fit(values, right, method=method)

    inside = calibration.confidence(ranked_queries(1)[0])
    outside = calibration.confidence(out_of_bank_queries(1, 1000))

    labels = np.repeat([1, 0], [len(inside), len(outside)])
    assert outside.mean() < 0.05
    assert roc_auc_score(labels, np.concatenate([inside, outside])) > 0.95


def test_similarity_tells_out_of_bank_where_logits_cannot():
    """Logits without a level of their own: only the cosine knows that nothing is near."""
    rng = np.random.default_rng(0)
    values, right, _ = ranked_queries(0)
    logits = values - values.mean(axis=1, keepdims=True)
    in_bank = rng.random(len(values)) < 0.7
    similarity = np.where(in_bank, 0.7, 0.3).astype(np.float32)
    similarity = (similarity + rng.normal(0, 0.1, len(values)).astype(np.float32))[:, None]
    right &= in_bank

    without = Calibration.fit(logits, right).confidence(logits)
    calibration = Calibration.fit(logits, right, similarity=similarity)
    confidence = calibration.confidence(logits, similarity)

    assert roc_auc_score(in_bank, without) < 0.7
    assert roc_auc_score(in_bank, confidence) > 0.9
    with pytest.raises(
        ConfigError, match=r"fitted with similarities.*expected similarity \(q, 1\)"
    ):
        calibration.confidence(logits)


def test_values_of_any_scale_give_the_same_confidence():
    values, right, _ = ranked_queries(0)
    small = Calibration.fit(values, right).confidence(values)

    large = Calibration.fit(values * 1000, right).confidence(values * 1000)

    np.testing.assert_allclose(large, small, atol=0.01)


def test_separable_examples_stay_finite():
    values = np.repeat(np.array([[0.9, 0.1], [0.5, 0.49]], dtype=np.float32), 50, axis=0)
    right = np.repeat([True, False], 50)

    confidence = Calibration.fit(values, right).confidence(values)

    assert confidence[0] > 0.9
    assert confidence[-1] < 0.1


def test_a_bank_of_one_phrase_can_be_calibrated():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(500, 1)).astype(np.float32)
    right = values[:, 0] + rng.normal(size=500) > 0

    confidence = Calibration.fit(values, right).confidence(values)

    assert roc_auc_score(right, confidence) == pytest.approx(roc_auc_score(right, values[:, 0]))


def test_more_candidates_than_fitted_are_left_unread(calibration):
    values = ranked_queries(3, num_queries=10)[0]
    wider = np.concatenate([values, values[:, -1:] - 1], axis=1)

    np.testing.assert_array_equal(calibration.confidence(wider), calibration.confidence(values))


def test_fewer_candidates_than_fitted_are_refused(calibration):
    with pytest.raises(ConfigError, match="expected at least 16 values a query, found 5"):
        calibration.confidence(ranked_queries(3)[0][:, :5])


def test_saved_calibration_answers_the_same(calibration, tmp_path):
    values = ranked_queries(4, num_queries=100)[0]
    torch.save({"calibration": calibration.to_dict()}, tmp_path / "model.ckpt")
    loaded = torch.load(tmp_path / "model.ckpt", weights_only=True)["calibration"]

    for fields in (loaded, json.loads(json.dumps(calibration.to_dict()))):
        again = Calibration.from_dict(fields)
        assert again == calibration
        np.testing.assert_array_equal(again.confidence(values), calibration.confidence(values))


ISOTONIC = {
    "method": "isotonic",
    "log_odds_knots": [0.0, 1.0],
    "confidence_knots": [0.2, 0.8],
}


def points(thresholds, precisions, coverages):
    columns = {"thresholds": thresholds, "precisions": precisions, "coverages": coverages}
    return {"operating_points": columns}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extra": 1}, "calibration.extra: .*Unexpected"),
        ({"weights": [1.0, 2.0]}, "calibration.weights: .*expected 3 numbers, found 2"),
        ({"weights": "many"}, "calibration.weights: .*found 'many'"),
        ({"weights": None}, "calibration.weights: .*found None"),
        ({"weights": [-1.0, 0.0, 0.0]}, "calibration.weights.0: .*found -1.0"),
        ({"weights": [1.0, True, 0.0]}, "calibration.weights.1: .*found True"),
        ({"bias": "1.5"}, "calibration.bias: .*found '1.5'"),
        ({"bias": float("nan")}, "calibration.bias: .*finite"),
        ({"bias": {1, 2}}, "calibration: .*expected plain values"),
        ({"method": "platt"}, "calibration.method: .*found 'platt'"),
        ({"temperature": 0.0}, "calibration.temperature: .*found 0.0"),
        ({"num_candidates": 0}, "calibration.num_candidates: .*found 0"),
        ({"num_similarities": -1}, "calibration.num_similarities: .*found -1"),
        ({"log_odds_knots": [0.0]}, "calibration.log_odds_knots: .*temperature, found 1"),
        (ISOTONIC | {"log_odds_knots": []}, "calibration.log_odds_knots: .*isotonic, found 0"),
        (ISOTONIC | {"confidence_knots": [0.5]}, "calibration.confidence_knots: .*2, found 1"),
        (ISOTONIC | {"confidence_knots": [0.5, 4.5]}, "confidence_knots.1: .*found 4.5"),
        (ISOTONIC | {"confidence_knots": [0.9, 0.5]}, "confidence_knots: .*rising numbers"),
        (ISOTONIC | {"log_odds_knots": [1.0, 0.0]}, "log_odds_knots: .*rising numbers"),
        ({"operating_points": {"thresholds": [0.5]}}, "operating_points.precisions: .*nothing"),
        (points([0.5], [2.0], [1.0]), "operating_points.precisions.0: .*found 2.0"),
        (points([0.5], [0.5], []), "operating_points: .*equal length.*'coverages': 0"),
        (points([], [], []), "operating_points.thresholds: "),
    ],
)
def test_a_record_that_no_fit_has_made_is_refused(change, message):
    values, right, _ = ranked_queries(0, num_queries=200)
    fields = Calibration.fit(values, right).to_dict()

    with pytest.raises(CheckpointError, match=message) as raised:
        Calibration.from_dict({**fields, **change})
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("answer", "word"), [(True, "right"), (False, "wrong")])
def test_a_split_with_one_class_is_refused(answer, word):
    values = ranked_queries(0, num_queries=50)[0]

    with pytest.raises(InputDataError, match=f"one class.*found 50 {word} ones"):
        Calibration.fit(values, np.full(50, answer))


def test_an_unknown_method_is_refused():
    values, right, _ = ranked_queries(0, num_queries=50)

    with pytest.raises(ConfigError, match=r"method: unknown.*temperature or isotonic, found platt"):
        Calibration.fit(values, right, method="platt")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array([[0.5, 0.1], [0.4, np.nan]], dtype=np.float32), "row 1: .*not finite.*found nan"),
        (np.array([[0.5, 0.1], [0.1, 0.4]], dtype=np.float32), "row 1: .*not best first"),
        (np.zeros(2, dtype=np.float32), r"wrong shape: expected \(q, k\), found \(2,\)"),
    ],
)
def test_unusable_values_are_refused(values, message):
    with pytest.raises(InputDataError, match=message):
        Calibration.fit(values, np.array([True, False]))


def test_right_and_similarity_must_go_with_the_queries():
    values, right, _ = ranked_queries(0, num_queries=50)

    with pytest.raises(InputDataError, match=r"expected \(50,\) bool, found \(49,\) bool"):
        Calibration.fit(values, right[1:])
    with pytest.raises(InputDataError, match="similarity has the wrong shape"):
        Calibration.fit(values, right, similarity=values[1:, :1])
    with pytest.raises(InputDataError, match="a similarity is not finite"):
        Calibration.fit(values, right, similarity=np.full((50, 1), np.inf, dtype=np.float32))


def test_out_of_bank_queries_count_as_their_share():
    """A weight is the same as giving the queries that often."""
    values, right, _ = ranked_queries(0, num_queries=300)
    outside = out_of_bank_queries(0, 100)
    once = np.concatenate([values, outside])
    thrice = np.concatenate([values, outside, outside, outside])
    no = np.zeros(300, dtype=bool)

    weighted = Calibration.fit(
        once,
        np.concatenate([right, no[:100]]),
        in_bank=np.repeat([True, False], [300, 100]),
        out_of_bank_share=0.5,
    )
    repeated = Calibration.fit(
        thrice, np.concatenate([right, no]), in_bank=np.repeat([True, False], 300)
    )

    np.testing.assert_allclose(
        weighted.confidence(once), repeated.confidence(once), rtol=0.01, atol=1e-3
    )
    assert weighted.operating_points.coverages[0] == 1
    assert weighted.operating_points.precisions[0] == pytest.approx(right.mean())


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_share_out_of_range_is_refused(share):
    values, right, _ = ranked_queries(0, num_queries=50)

    with pytest.raises(ConfigError, match="out_of_bank_share: is not a share"):
        Calibration.fit(values, right, in_bank=right, out_of_bank_share=share)


def test_the_record_cannot_be_changed(calibration):
    with pytest.raises(AttributeError):
        calibration.bias = 0.0
    assert replace(calibration, bias=0.0) != calibration


def test_queries_out_of_the_bank_teach_weights_and_leave_confidence_to_the_others():
    random = np.random.default_rng(0)
    in_bank = np.arange(4_000) < 2_000
    right = in_bank & (random.random(4_000) < 0.8)
    margin = np.where(right, 2.0, 0.5) * random.gamma(2, size=4_000)
    values = np.stack([margin, np.zeros(4_000)], axis=1).astype(np.float32)
    near = (np.where(in_bank, 0.7, 0.4) + 0.1 * random.normal(size=4_000)).astype(np.float32)
    options = {"similarity": near[:, None], "in_bank": in_bank, "out_of_bank_share": 0.0}
    found = Calibration.fit(values, right, **options)
    inside = {name: each[in_bank] for name, each in (("v", values), ("r", right), ("n", near))}
    alone = Calibration.fit(inside["v"], inside["r"], similarity=inside["n"][:, None])
    confidence, before = (each.confidence(values, near[:, None]) for each in (found, alone))
    assert confidence[in_bank].mean() == pytest.approx(right[in_bank].mean(), abs=0.002)
    assert before[in_bank].mean() == pytest.approx(right[in_bank].mean(), abs=0.002)
    told_apart = [(each[in_bank][:, None] > each[~in_bank]).mean() for each in (confidence, before)]
    assert told_apart[0] > 0.95 > told_apart[1]
