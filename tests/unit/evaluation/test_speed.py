from __future__ import annotations

from statistics import quantiles

import numpy as np
import pytest

from lightweight_decoder.errors import InputDataError
from lightweight_decoder.evaluation.speed import latency_metrics


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
