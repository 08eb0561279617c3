"""Samples of a stream: the same whatever the blocks, spread over all rows, bounded."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.stats import kstest

from lightweight_decoder.bank import preprocessing_file
from lightweight_decoder.bank.preprocessing_file import draw_sample
from lightweight_decoder.errors import BankBuildError


def numbered(num_rows):
    """Rows that say which they are, from 1."""
    return np.repeat(np.arange(1, num_rows + 1, dtype=np.float32)[:, None], 2, axis=1)


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(preprocessing_file, "SAMPLE_ROWS", 100)


def test_few_rows_are_all_taken_in_their_order():
    rows = numbered(100)
    np.testing.assert_array_equal(draw_sample([rows[:30], rows[30:]]), rows)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.integers(0, 700), max_size=8))
def test_blocks_do_not_change_the_sample(cuts):
    rows = numbered(700)
    drawn = draw_sample(np.split(rows, sorted(cuts)))
    np.testing.assert_array_equal(drawn, draw_sample([rows]))
    assert len(drawn) == 100
    assert (np.diff(drawn[:, 0]) > 0).all()


def test_the_sample_is_spread_evenly():
    drawn = draw_sample(np.array_split(numbered(20_000), 13))
    assert kstest(drawn[:, 0] / 20_000, "uniform").pvalue > 0.01


def test_wide_rows_are_bounded_by_their_bytes(monkeypatch):
    monkeypatch.setattr(preprocessing_file, "SAMPLE_BYTES", 40 * 2 * 4)
    assert draw_sample([numbered(500)]).shape == (40, 2)


@pytest.mark.parametrize("bad", [0, np.nan, np.inf])
def test_rows_without_direction(bad):
    rows = numbered(50)
    rows[17] = bad
    dropped = draw_sample([rows[:10], rows[10:]], on_bad_row="drop")
    np.testing.assert_array_equal(dropped, np.delete(rows, 17, axis=0))
    with pytest.raises(BankBuildError, match="row 17: a vector has no direction"):
        draw_sample([rows[:10], rows[10:]])


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ([], "there is nothing to fit the preprocessing on"),
        ([np.zeros((3, 2))], "there is nothing to fit"),
        ([np.ones((3, 2)), np.ones((3, 4))], "rows from 3: .*another shape: expected .rows, 2."),
        ([[["a", "b"]]], "not an array of numbers"),
    ],
)
def test_what_cannot_be_sampled(blocks, message):
    with pytest.raises(BankBuildError, match=message):
        draw_sample(blocks, on_bad_row="drop")
