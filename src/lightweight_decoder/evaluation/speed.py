"""What the times of single queries come to."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lightweight_decoder.errors import InputDataError


def latency_metrics(latencies_ms: npt.NDArray[np.floating]) -> dict[str, float]:
    """Percentiles of the time of one query, in milliseconds.

    Args:
        latencies_ms: (calls,) milliseconds of single queries after a warm-up, each above 0.

    Returns:
        ``latency_p50_ms``, ``latency_p95_ms`` and ``latency_p99_ms``, linearly interpolated.

    Raises:
        InputDataError: There are no latencies, or they are not all finite and above 0.
    """
    if latencies_ms.size == 0 or not (np.isfinite(latencies_ms) & (latencies_ms > 0)).all():
        raise InputDataError(
            "latencies cannot be summarized", expected="one or more finite milliseconds above 0"
        )
    shares = (50, 95, 99)
    percentiles = np.percentile(latencies_ms, shares)
    return {f"latency_p{p}_ms": float(ms) for p, ms in zip(shares, percentiles, strict=True)}
