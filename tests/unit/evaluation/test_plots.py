from __future__ import annotations

from io import BytesIO

import matplotlib.pyplot as plt
import numpy as np
import pytest

from lightweight_decoder.errors import InputDataError
from lightweight_decoder.evaluation.confidence import risk_coverage_curve
from lightweight_decoder.evaluation.plots import (
    plot_latency,
    plot_rank_histogram,
    plot_recall,
    plot_reliability,
    plot_risk_coverage,
)

RANKS = {
    "baseline": np.array([1, 5, 0, 40, 2000]),
    "decoder": np.array([1, 1, 0, 12, 101]),
}


def assert_draws(figure):
    file = BytesIO()
    figure.savefig(file, format="png")
    assert file.getvalue().startswith(b"\x89PNG")
    assert plt.get_fignums() == []


def test_recall_lines_are_the_metric():
    figure = plot_recall(RANKS, max_k=50)

    for line, ranks in zip(figure.axes[0].lines, RANKS.values(), strict=True):
        np.testing.assert_allclose(
            line.get_ydata(), [((ranks > 0) & (ranks <= k)).mean() for k in line.get_xdata()]
        )
    assert_draws(figure)


def test_rank_bars_are_shares_of_the_queries_with_a_rank():
    figure = plot_rank_histogram(RANKS)
    baseline, decoder = (
        [bar.get_height() for bar in bars.patches] for bars in figure.axes[0].containers
    )

    assert baseline == [0.25, 0, 0.25, 0, 0.25, 0, 0.25]
    assert decoder == [0.5, 0, 0, 0.25, 0, 0.25, 0]
    assert_draws(figure)


def test_reliability_shows_accuracy_and_counts():
    confidence = np.array([0.1, 0.1, 0.9, 0.9, 0.9])
    right = np.array([False, True, True, True, False])

    figure = plot_reliability(confidence, right, num_bins=2)

    above, below = figure.axes
    assert [bar.get_height() for bar in above.patches] == pytest.approx([1 / 2, 2 / 3])
    assert [bar.get_height() for bar in below.patches] == [2, 3]
    assert_draws(figure)


def test_risk_coverage_lines_are_thinned_but_keep_their_ends():
    rng = np.random.default_rng(0)
    values, right = rng.random(5000), rng.random(5000) < 0.5

    figure = plot_risk_coverage({"decoder": (values, right)})

    (line,) = figure.axes[0].lines
    coverage, risk = risk_coverage_curve(values, right)
    assert len(line.get_xdata()) == 500
    assert (line.get_xdata()[-1], line.get_ydata()[-1]) == (coverage[-1], risk[-1])
    assert_draws(figure)


def test_latency_marks_its_percentiles():
    latencies = np.arange(1.0, 1001.0)

    figure = plot_latency(latencies)

    marks = [line.get_xdata()[0] for line in figure.axes[0].lines]
    assert marks == pytest.approx(np.percentile(latencies, [50, 95, 99]))
    assert_draws(figure)


def test_latencies_that_cannot_be_are_refused():
    with pytest.raises(InputDataError, match="latencies cannot be summarized"):
        plot_latency(np.array([]))
