"""The figures of an evaluation, for report and trackers."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from lightweight_decoder.evaluation import plots
from lightweight_decoder.evaluation.predictions import first_values, has_baseline, is_calibrated
from lightweight_decoder.evaluation.summary import best_rank, systems

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa
    from matplotlib.figure import Figure

_NAMES = {"baseline": "plain search", "decoder": "decoder"}


class Drawing(NamedTuple):
    """A figure and what to say of it."""

    title: str
    note: str
    figure: Figure


def draw_figures(
    predictions: pa.Table, latencies_ms: npt.NDArray[np.floating] | None = None
) -> list[Drawing]:
    """Return the figures that there is something to draw for.

    Args:
        predictions: See ``evaluation.predictions``; queries out of the bank are left out.
        latencies_ms: (calls,) milliseconds of single queries.
    """
    inside = predictions.filter(predictions["in_bank"])
    ranks = {_NAMES[system]: best_rank(inside, system) for system in systems(inside)}
    right = ranks["decoder"] == 1
    drawings = [
        ("Recall at k", "How far down the right phrase is found.", plots.plot_recall(ranks)),
        ("Ranks", "Where the right phrase stands.", plots.plot_rank_histogram(ranks)),
    ]
    calibrated = is_calibrated(inside)
    if calibrated:
        drawings.append(
            (
                "Reliability",
                "A confidence of 80% should be right 8 times of 10.",
                plots.plot_reliability(inside["confidence"].to_numpy(), right),
            )
        )
    sureness = inside["confidence"].to_numpy() if calibrated else first_values(inside)
    risks = {"decoder": (sureness, right)}
    if has_baseline(inside) and inside["baseline_value"].null_count == 0:
        own = (inside["baseline_value"].to_numpy(), ranks["plain search"] == 1)
        risks = {"plain search": own, **risks}
    drawings.append(
        (
            "Risk and coverage",
            "How many answers are wrong when only the surest are given.",
            plots.plot_risk_coverage(risks),
        )
    )
    if latencies_ms is not None:
        drawings.append(("Latency", "Time of single queries.", plots.plot_latency(latencies_ms)))
    return [Drawing(*drawing) for drawing in drawings]
