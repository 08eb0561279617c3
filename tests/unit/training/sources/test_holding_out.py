from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightweight_decoder.errors import ConfigError
from lightweight_decoder.training.sources.holding_out import draw_rows, random_split


@given(st.integers(3, 500), st.floats(0, 0.4), st.floats(0, 0.4), st.integers(0, 99))
def test_every_row_is_in_one_split(count, val, test, seed):
    places = random_split(count, fractions={"val": val, "test": test}, seed=seed)
    assert sorted(np.concatenate(list(places.values())).tolist()) == list(range(count))
    assert len(places["val"]) == (max(1, round(count * val)) if val else 0)
    assert all((np.diff(rows) > 0).all() for rows in places.values())


def test_a_split_follows_from_the_seed():
    first, again, other = (
        random_split(100, fractions={"val": 0.2}, seed=seed)["val"].tolist() for seed in (1, 1, 2)
    )
    assert first == again != other


@pytest.mark.parametrize("fraction", [-0.1, 1.0, 2.0, float("nan")])
def test_a_fraction_out_of_range_is_refused(fraction):
    with pytest.raises(ConfigError, match=r"data\.val_fraction.*from 0 to below 1"):
        random_split(100, fractions={"val": fraction}, seed=0)


def test_fractions_that_leave_nothing_are_refused():
    with pytest.raises(
        ConfigError, match=r"data\.val_fraction \+ data\.test_fraction.*fewer than 2"
    ):
        random_split(2, fractions={"val": 0.1, "test": 0.1}, seed=0)


def test_rows_are_drawn_without_repetition():
    drawn = draw_rows(100, 30, seed=5)
    assert len(set(drawn.tolist())) == 30
    assert drawn.tolist() == sorted(drawn)
    assert drawn.tolist() == draw_rows(100, 30, seed=5).tolist()


@pytest.mark.parametrize("wanted", [None, 10, 11])
def test_all_rows_are_drawn_where_as_many_are_wanted(wanted):
    assert draw_rows(10, wanted, seed=0).tolist() == list(range(10))
