from __future__ import annotations

from statistics import quantiles

import numpy as np
import pytest

from lightweight_decoder.errors import InputDataError
from lightweight_decoder.evaluation.speed import (
    latency_metrics,
    queries_per_s,
    time_queries,
)

QUERIES = np.arange(10, dtype=np.float32).reshape(5, 2)


def test_percentiles_agree_with_the_standard_library():
    latencies = np.random.default_rng(0).lognormal(size=501)
    reference = quantiles(latencies, n=100, method="inclusive")

    metrics = latency_metrics(latencies)

    assert metrics == pytest.approx(
        {f"latency_p{share}_ms": reference[share - 1] for share in (50, 95, 99)}
    )


@pytest.mark.parametrize("latencies", [[], [1.0, np.nan], [0.0], [-1.0]])
def test_latencies_that_cannot_be_are_refused(latencies):
    with pytest.raises(InputDataError, match="latencies cannot be summarized"):
        latency_metrics(np.array(latencies))


def test_single_queries_are_answered_one_by_one_after_a_warm_up():
    answered = []
    latencies = time_queries(answered.append, QUERIES, max_calls=7)

    assert (latencies > 0).all()
    assert [query.tolist() for query in answered] == [
        QUERIES[[row % 5]].tolist() for row in [0, 1, 2, *range(7)]
    ]


def test_timing_stops_when_its_time_is_over():
    assert len(time_queries(lambda _: None, QUERIES, max_seconds=0)) == 1


def test_a_batch_is_filled_up(monkeypatch):
    clock = iter([10.0, 14.0])
    monkeypatch.setattr(
        "lightweight_decoder.evaluation.speed.time.perf_counter", lambda: next(clock)
    )
    answered = []

    assert queries_per_s(answered.append, QUERIES, batch_size=12) == 12 / 4
    np.testing.assert_array_equal(answered[-1], QUERIES[[*range(5), *range(5), 0, 1]])
