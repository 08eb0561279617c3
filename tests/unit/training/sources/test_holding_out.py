from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from lightweight_decoder.errors import ConfigError
from lightweight_decoder.training.sources.holding_out import draw_rows, random_split, unseen_split

ENTRIES = st.lists(
    st.frozensets(st.sampled_from("abcdefghijklmnopqrstuvwxyz"), min_size=1, max_size=4),
    min_size=5,
    max_size=60,
)


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


def random_entries(count=4_000, num_phrases=2_500, seed=0):
    """Entries in which few phrases have many senses and many have one, as in a dictionary."""
    random = np.random.default_rng(seed)
    weights = 1 / np.arange(1, num_phrases + 1)
    sizes = random.integers(1, 4, count)
    return [
        frozenset(map(str, random.choice(num_phrases, size, p=weights / weights.sum())))
        for size in sizes
    ]


@given(ENTRIES, st.integers(1, 5), st.integers(0, 3), st.integers(0, 3), st.integers(0, 9))
def test_nothing_held_out_shares_a_phrase_with_train(entries, num_test, num_val, num_calib, seed):
    sizes = {"num_test": num_test, "num_val": num_val, "num_calib": num_calib}
    try:
        split = unseen_split(entries, **sizes, seed=seed)
    except ConfigError:
        assume(False)
    places = list(itertools.chain.from_iterable(split.values()))
    assert len(places) == len(set(places))
    assert {f"num_{name}": len(split[name]) for name in ("test", "val", "calib")} == sizes
    trained = frozenset().union(*(entries[i] for i in split["train"]))
    for name in ("val", "calib", "test"):
        assert all(entries[i].isdisjoint(trained) for i in split[name])
    held_out = set(places) - set(split["train"])
    unseen = frozenset().union(*(entries[i] for i in held_out))
    lost = set(range(len(entries))) - set(places)
    assert all(entries[i] & unseen for i in lost)  # no entry is lost without a reason


def test_val_and_calib_cost_less_than_random_ones_would():
    entries = random_entries()
    sizes = {"num_test": 200, "num_val": 200, "num_calib": 200}
    ours = unseen_split(entries, **sizes, seed=0)
    random = unseen_split(entries, num_test=600, num_val=0, num_calib=0, seed=0)
    assert len(ours["train"]) > 1.2 * len(random["train"])


def test_val_and_calib_are_as_connected_as_test():
    entries = random_entries()
    split = unseen_split(entries, num_test=200, num_val=200, num_calib=200, seed=0)

    def mean_connections(name):
        return np.mean([sum(bool(entries[i] & other) for other in entries) for i in split[name]])

    assert mean_connections("val") == pytest.approx(mean_connections("test"), rel=0.2)
    assert mean_connections("calib") == pytest.approx(mean_connections("test"), rel=0.2)


def test_the_split_follows_from_the_seed():
    entries = random_entries(500)
    sizes = {"num_test": 20, "num_val": 20, "num_calib": 20}
    assert unseen_split(entries, **sizes, seed=3) == unseen_split(entries, **sizes, seed=3)
    first, second = (unseen_split(entries, **sizes, seed=seed) for seed in (3, 4))
    assert set(first["test"]) != set(second["test"])


@pytest.mark.parametrize("sizes", [(0, 1, 1), (1, -1, 1), (8, 1, 1), (1, 0, 0)])
def test_sizes_that_leave_nothing_are_refused(sizes):
    entries = [frozenset("a")] * 10  # all share their phrase
    num_test, num_val, num_calib = sizes
    with pytest.raises(ConfigError, match=r"data\.num_test .* too large"):
        unseen_split(entries, num_test=num_test, num_val=num_val, num_calib=num_calib, seed=0)
