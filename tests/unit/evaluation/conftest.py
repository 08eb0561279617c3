from __future__ import annotations

import numpy as np
import pytest

from lightweight_decoder.evaluation.predictions import build_predictions


@pytest.fixture
def make_predictions():
    return random_predictions


def random_predictions(seed=0, num_queries=200, *, calibrated=True, out_of_bank=0, **changes):
    """Predictions that hang together: the first phrase is a target exactly where the rank is 1."""
    rng = np.random.default_rng(seed)
    in_bank = np.arange(num_queries) >= out_of_bank
    rank = np.where(in_bank, 1 + rng.geometric(0.3, num_queries) - 1, 0)
    baseline_rank = np.where(in_bank, rank + rng.integers(0, 4, num_queries), 0)
    values = -np.sort(-rng.normal(0, 1, (num_queries, 3)), axis=1).astype(np.float32)
    confidence = np.where(rank == 1, 0.7, 0.2) * in_bank + rng.uniform(0, 0.3, num_queries)
    confidence = confidence.astype(np.float32)
    columns = {
        "query": np.arange(num_queries),
        "text": [f"what is number {row}" for row in range(num_queries)],
        "targets": [["number " * (1 + row % 3) + str(row)] for row in range(num_queries)],
        "rank": rank,
        "baseline_rank": baseline_rank,
        "baseline_value": values[:, 0] / 2,
        "phrases": [
            ["number " * (1 + row % 3) + str(row) if place == 1 else f"wrong {row}", "x", "y"]
            for row, place in enumerate(rank)
        ],
        "values": values,
        "confidence": confidence if calibrated else None,
        "abstained": confidence < 0.4 if calibrated else np.zeros(num_queries, dtype=bool),
        "metadata": {
            "frequency": rng.integers(0, 1000, num_queries),
            "seen": rng.random(num_queries) < 0.5,
            "part of speech": rng.choice(["noun", "verb", None], num_queries),
        },
    }
    return build_predictions(**{**columns, **changes})
