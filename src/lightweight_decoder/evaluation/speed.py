"""How long answers take."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lightweight_decoder.errors import InputDataError

if TYPE_CHECKING:
    from collections.abc import Callable

    from lightweight_decoder.datatypes import FloatArray

_WARM_UP = 3


def time_queries(
    answer: Callable[[FloatArray], object],
    queries: FloatArray,
    *,
    max_calls: int = 200,
    max_seconds: float = 2.0,
) -> npt.NDArray[np.float64]:
    """Answer queries (q, d) one by one, after three to warm up; return (calls,) milliseconds.

    They come round again where there are few, up to ``max_calls``; after ``max_seconds`` it stops,
    though not before one was timed.
    """
    for row in range(_WARM_UP):
        answer(_query(queries, row))
    latencies: list[float] = []
    end = time.perf_counter() + max_seconds
    while not latencies or (len(latencies) < max_calls and time.perf_counter() < end):
        query = _query(queries, len(latencies))
        start = time.perf_counter()
        answer(query)
        latencies.append(1000 * (time.perf_counter() - start))
    return np.array(latencies)


def queries_per_s(
    answer: Callable[[FloatArray], object], queries: FloatArray, *, batch_size: int = 512
) -> float:
    """Answer a batch of queries (q, d), after a small one to warm up; return how many a second.

    A smaller set is repeated to fill the batch.
    """
    answer(queries[:8])
    batch = np.resize(queries, (batch_size, queries.shape[1]))
    start = time.perf_counter()
    answer(batch)
    return batch_size / (time.perf_counter() - start)


def _query(queries: FloatArray, row: int) -> FloatArray:
    """One query, (1, d)."""
    place = row % len(queries)
    return queries[place : place + 1]


def latency_metrics(latencies_ms: npt.NDArray[np.floating]) -> dict[str, float]:
    """Return ``latency_p50_ms``, ``latency_p95_ms`` and ``latency_p99_ms``, linearly interpolated.

    Args:
        latencies_ms: (calls,) milliseconds of single queries after a warm-up.

    Raises:
        InputDataError: There are no latencies, or they are not all finite and above 0.
    """
    if latencies_ms.size == 0 or not (np.isfinite(latencies_ms) & (latencies_ms > 0)).all():
        expected = "one or more finite milliseconds above 0"
        raise InputDataError("latencies cannot be summarized", expected=expected)
    shares = (50, 95, 99)
    percentiles = np.percentile(latencies_ms, shares)
    return {f"latency_p{p}_ms": float(ms) for p, ms in zip(shares, percentiles, strict=True)}
