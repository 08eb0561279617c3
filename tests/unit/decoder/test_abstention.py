from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightweight_decoder.decoder.abstention import measure_operating_points
from lightweight_decoder.errors import ConfigError, InputDataError


@given(
    st.lists(st.tuples(st.integers(0, 8), st.booleans()), min_size=1, max_size=30),
    st.sampled_from([0.3, 0.5, 0.95, 1.0]),
)
def test_thresholds_are_the_best_that_reach_the_target(pairs, target):
    """Held to a search over every possible threshold."""
    confidence = np.array([step / 8 for step, _ in pairs], dtype=np.float32)
    right = np.array([is_right for _, is_right in pairs])
    answered = {float(t): confidence >= t for t in np.unique(confidence)}
    points = measure_operating_points(confidence, right)

    precise = [t for t, mask in answered.items() if right[mask].mean() >= target]
    covering = [t for t, mask in answered.items() if mask.mean() >= target]

    assert points.for_coverage(target) == max(covering)
    if precise:
        assert points.for_precision(target) == min(precise)
    else:
        with pytest.raises(ConfigError, match="no threshold reaches this precision"):
            points.for_precision(target)


def test_many_thresholds_are_thinned_out_evenly():
    rng = np.random.default_rng(0)
    confidence = rng.random(5000).astype(np.float32)
    right = rng.random(5000) < confidence
    points = measure_operating_points(confidence, right)

    assert len(points.thresholds) == 500
    assert list(points.thresholds) == sorted(points.thresholds)
    assert points.coverages[0] == 1
    threshold = points.for_precision(0.9)
    assert right[confidence >= threshold].mean() >= 0.9
    assert (confidence >= points.for_coverage(0.4)).mean() == pytest.approx(0.4, abs=0.01)


def test_what_is_not_a_share_is_refused():
    points = measure_operating_points(np.array([0.5], np.float32), np.array([True]))

    with pytest.raises(ConfigError, match=r"target_precision: is not a share.*found 1.5"):
        points.for_precision(1.5)
    with pytest.raises(ConfigError, match=r"target_coverage: is not a share.*found 0"):
        points.for_coverage(0)
    with pytest.raises(InputDataError, match="do not go together"):
        measure_operating_points(np.array([], np.float32), np.array([], bool))
