from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import bootstrap, permutation_test

from lightweight_decoder.errors import ConfigError, InputDataError
from lightweight_decoder.evaluation.bootstrap import Bootstrap

NUM_QUERIES = 400


@pytest.fixture
def values():
    rng = np.random.default_rng(0)
    return {
        "recall@1": (rng.random(NUM_QUERIES) < 0.3).astype(float),
        "mrr": 1 / rng.integers(1, 50, NUM_QUERIES),
    }


def test_intervals_of_means_agree_with_scipy(values):
    intervals = Bootstrap(num_resamples=4000, level=0.9).mean_intervals(values)

    for name, column in values.items():
        reference = bootstrap(
            (column,),
            np.mean,
            n_resamples=4000,
            confidence_level=0.9,
            method="percentile",
            rng=np.random.default_rng(1),
        ).confidence_interval
        width = reference.high - reference.low
        assert intervals[name].low == pytest.approx(reference.low, abs=0.1 * width)
        assert intervals[name].high == pytest.approx(reference.high, abs=0.1 * width)


def test_interval_of_the_median_agrees_with_scipy():
    ranks = np.random.default_rng(0).integers(1, 200, NUM_QUERIES).astype(float)
    reference = bootstrap(
        (ranks,),
        np.median,
        n_resamples=4000,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval

    interval = Bootstrap(num_resamples=4000).median_interval(ranks)

    assert interval.low == pytest.approx(reference.low, abs=3)
    assert interval.high == pytest.approx(reference.high, abs=3)


def test_median_stays_whole_where_ranks_are_infinite():
    interval = Bootstrap(num_resamples=200).median_interval(np.array([1.0, 2.0, np.inf, np.inf]))

    assert interval.low < 3
    assert interval.high == np.inf


def test_the_seed_decides(values):
    third = Bootstrap(seed=3).mean_intervals(values)
    assert third == Bootstrap(seed=3).mean_intervals(values)
    assert third != Bootstrap(seed=4).mean_intervals(values)


def test_blocks_give_what_one_draw_gives(values, monkeypatch):
    whole = Bootstrap(num_resamples=50).mean_intervals(values)
    monkeypatch.setattr(
        "lightweight_decoder.evaluation.bootstrap._NUMBERS_AT_ONCE", 7 * NUM_QUERIES
    )

    assert Bootstrap(num_resamples=50).mean_intervals(values) == whole


def test_paired_difference_agrees_with_a_permutation_test(values):
    rng = np.random.default_rng(2)
    better = {
        name: np.clip(v + rng.normal(0.02, 0.2, NUM_QUERIES), 0, 1) for name, v in values.items()
    }

    results = Bootstrap(num_resamples=4000).compare(values, better)

    for name, result in results.items():
        reference = permutation_test(
            (better[name], values[name]),
            lambda a, b: np.mean(a - b),
            permutation_type="samples",
            vectorized=False,
            n_resamples=2000,
            rng=np.random.default_rng(3),
        )
        assert result.difference == pytest.approx(reference.statistic)
        assert result.p_value == pytest.approx(reference.pvalue, abs=0.05)
        assert result.low < result.difference < result.high


def test_equal_systems_do_not_differ(values):
    for result in Bootstrap().compare(values, values).values():
        assert result == (0, 0, 0, 1)


def test_a_clear_difference_has_a_small_p_value(values):
    better = {name: v + 0.5 for name, v in values.items()}

    for result in Bootstrap(num_resamples=999).compare(values, better).values():
        assert result.difference == pytest.approx(0.5)
        assert result.p_value == pytest.approx(1 / 1000)


def test_p_values_are_uniform_where_nothing_differs():
    rng = np.random.default_rng(5)
    p_values = []
    for seed in range(200):
        first, second = rng.normal(size=(2, 60))
        result = Bootstrap(num_resamples=200, seed=seed).compare({"m": first}, {"m": second})
        p_values.append(result["m"].p_value)

    assert np.mean(np.array(p_values) < 0.1) == pytest.approx(0.1, abs=0.06)
    assert np.mean(p_values) == pytest.approx(0.5, abs=0.08)


def test_what_only_one_system_has_is_left_out(values):
    both = Bootstrap(num_resamples=10).compare(values, {"mrr": values["mrr"], "bleu": np.ones(3)})

    assert list(both) == ["mrr"]


def test_systems_that_do_not_pair_are_refused(values):
    with pytest.raises(InputDataError, match=r"metrics: .*found \{\}"):
        Bootstrap().compare(values, {"bleu": values["mrr"]})
    shorter = {name: v[1:] for name, v in values.items()}
    with pytest.raises(InputDataError, match=r"the second system: .*400 queries, found 399"):
        Bootstrap().compare(values, shorter)


def test_one_query_has_an_interval_of_its_own_value():
    assert Bootstrap(num_resamples=9).mean_intervals({"m": np.array([0.25])}) == {"m": (0.25, 0.25)}
    assert Bootstrap(num_resamples=9).median_interval(np.array([np.inf])) == (np.inf, np.inf)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "metrics: .*expected shape"),
        ({"a": np.zeros(2), "b": np.zeros(3)}, "metrics: .*expected shape"),
        ({"a": np.zeros(0)}, "no queries to draw from"),
        ({"a": np.array([0.0, np.nan])}, "a, row 1: a value is not finite"),
    ],
)
def test_unusable_values_are_refused(values, message):
    with pytest.raises(InputDataError, match=message):
        Bootstrap().mean_intervals(values)


def test_unusable_options_are_refused():
    with pytest.raises(ConfigError, match=r"level: .*a share"):
        Bootstrap(level=1)
    with pytest.raises(ConfigError, match=r"num_resamples: .*at least 1"):
        Bootstrap(num_resamples=0)
    with pytest.raises(InputDataError, match=r"values: .*shape \(q,\), found \(0,\)"):
        Bootstrap().median_interval(np.zeros(0))
