from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import brier_score_loss
from torchmetrics.functional.classification import (
    binary_auroc,
    binary_calibration_error,
    binary_roc,
)

from lightweight_decoder.errors import ConfigError, InputDataError
from lightweight_decoder.evaluation.confidence import (
    aurc,
    auroc,
    brier_values,
    confidence_metrics,
    expected_calibration_error,
    fpr_at_tpr,
    reliability_bins,
    risk_coverage_curve,
)


def scored_queries(seed, num_queries=300, *, steps=40):
    """Confidence with many ties, and answers that follow it loosely."""
    rng = np.random.default_rng(seed)
    confidence = (rng.integers(0, steps + 1, num_queries) / steps).astype(np.float32)
    return confidence, rng.random(num_queries) < confidence**1.5


@pytest.mark.parametrize("seed", range(5))
def test_calibration_error_agrees_with_torchmetrics(seed):
    rng = np.random.default_rng(seed)
    confidence = rng.random(500).astype(np.float32)  # ties apart from bin edges
    right = rng.random(500) < confidence**2
    reference = binary_calibration_error(
        torch.from_numpy(confidence), torch.from_numpy(right).int(), n_bins=15, norm="l1"
    )

    assert expected_calibration_error(confidence, right) == pytest.approx(float(reference))


def test_calibration_error_of_two_bins_by_hand():
    confidence = np.array([0.1, 0.3, 0.5, 1.0])
    right = np.array([False, True, True, True])

    # below 0.5: mean 0.2 against 1/2; from 0.5 on: mean 0.75 against 1
    assert expected_calibration_error(confidence, right, num_bins=2) == pytest.approx(
        0.5 * 0.3 + 0.5 * 0.25
    )


def test_bins_hold_their_lower_edge_and_the_last_holds_one():
    bins = reliability_bins(np.array([0.0, 0.25, 0.5, 1.0]), np.array([True] * 4), num_bins=4)

    np.testing.assert_array_equal(bins.counts, [1, 1, 1, 1])
    np.testing.assert_allclose(bins.edges, [0, 0.25, 0.5, 0.75, 1])


def test_empty_bins_are_nan_and_do_not_count():
    bins = reliability_bins(np.array([0.9, 0.9]), np.array([True, False]))

    assert np.isnan(bins.accuracy).sum() == 14
    assert expected_calibration_error(np.array([0.9]), np.array([True])) == pytest.approx(0.1)


@pytest.mark.parametrize("seed", range(3))
def test_brier_agrees_with_scikit_learn(seed):
    confidence, right = scored_queries(seed)

    assert brier_values(confidence, right).mean() == pytest.approx(
        brier_score_loss(right, confidence)
    )


@pytest.mark.parametrize("seed", range(3))
def test_auroc_and_fpr_agree_with_torchmetrics_under_ties_and_negative_values(seed):
    confidence, right = scored_queries(seed)
    values = confidence - np.float32(0.7)
    scores, labels = torch.from_numpy(values + 1), torch.from_numpy(right).int()
    false_rates, true_rates, _ = binary_roc(scores / 2, labels)

    assert auroc(values, right) == pytest.approx(float(binary_auroc(scores / 2, labels)))
    assert fpr_at_tpr(values, right) == pytest.approx(float(false_rates[true_rates >= 0.95].min()))


def test_fpr_by_hand():
    values = np.array([4.0, 3.0, 2.0, 1.0])
    positive = np.array([True, False, True, False])

    assert fpr_at_tpr(values, positive, tpr=0.5) == 0
    assert fpr_at_tpr(values, positive, tpr=0.95) == 0.5


@given(
    hnp.arrays(np.float64, 12, elements=st.sampled_from([-1.0, -0.5, 0.0, 2.0])),
    hnp.arrays(bool, 12),
    st.integers(0, 2**32 - 1),
)
def test_aurc_is_the_mean_over_orders_of_tied_queries(values, right, seed):
    """Held to the plain definition, averaged over random orders of equal values."""
    rng = np.random.default_rng(seed)
    areas = []
    for _ in range(300):
        shuffle = rng.permutation(12)
        order = shuffle[np.argsort(-values[shuffle], kind="stable")]
        areas.append((np.cumsum(~right[order]) / np.arange(1, 13)).mean())

    assert aurc(values, right) == pytest.approx(np.mean(areas), abs=0.03)
    assert aurc(values, right) == aurc(values[::-1], right[::-1])


def test_risk_coverage_by_hand():
    coverage, risk = risk_coverage_curve(
        np.array([0.9, 0.1, 0.5, 0.5]), np.array([True, False, True, False])
    )

    np.testing.assert_allclose(coverage, [0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(risk, [0, 0.25, 1 / 3, 0.5])


def test_all_metrics_by_their_names():
    confidence, right = scored_queries(0)

    metrics = confidence_metrics(confidence, right)

    assert metrics == {
        "ece": expected_calibration_error(confidence, right),
        "brier": pytest.approx(brier_score_loss(right, confidence)),
        "aurc": aurc(confidence, right),
        "auroc_right": auroc(confidence, right),
    }


def test_what_cannot_be_computed_is_left_out():
    confidence, _ = scored_queries(0)
    everything = np.ones(300, dtype=bool)

    assert set(confidence_metrics(confidence, everything)) == {"ece", "brier", "aurc"}


def test_one_class_is_refused():
    with pytest.raises(InputDataError, match=r"one class only.*found 3 negative ones"):
        auroc(np.array([0.1, 0.2, 0.3]), np.zeros(3, dtype=bool))
    with pytest.raises(InputDataError, match=r"one class only.*found 3 positive ones"):
        fpr_at_tpr(np.array([0.1, 0.2, 0.3]), np.ones(3, dtype=bool))


@pytest.mark.parametrize(
    ("confidence", "right", "message"),
    [
        (np.array([0.5, np.nan]), np.array([True, False]), "row 1: a value is not finite"),
        (np.array([0.5, 1.5]), np.array([True, False]), "confidence, row 1: .*0 to 1, found 1.5"),
        (np.array([0.5]), np.array([True, False]), "values and flags: "),
        (np.array([0.5]), np.array([1]), "values and flags: .*int64"),
        (np.array([]), np.array([], dtype=bool), "no queries"),
    ],
)
def test_unusable_confidence_is_refused(confidence, right, message):
    with pytest.raises(InputDataError, match=message):
        confidence_metrics(confidence, right)


def test_unusable_options_are_refused():
    confidence, right = scored_queries(0)

    with pytest.raises(ConfigError, match=r"num_bins: .*at least 1"):
        reliability_bins(confidence, right, num_bins=0)
    with pytest.raises(ConfigError, match=r"tpr: .*above 0"):
        fpr_at_tpr(confidence, right, tpr=0)
