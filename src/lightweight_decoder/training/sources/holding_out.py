"""Splits that follow from a seed: of rows at random, of entries so that none shares a phrase."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np

from lightweight_decoder.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from lightweight_decoder.datatypes import IntArray
    from lightweight_decoder.decoder.splits import SplitName

_Stratum = tuple[int, int]
_MOST_PHRASES = 4  # entries with more are rare, and alike


def random_split(
    count: int, *, fractions: dict[SplitName, float], seed: int
) -> dict[SplitName, IntArray]:
    """Divide 0 to ``count`` - 1 at random; what no fraction takes is ``"train"``.

    Fractions are shares in [0, 1) of each split besides train; one above 0 takes at least one. The
    same seed gives the same ascending places for each split.

    Raises:
        ConfigError: If a fraction is out of range, or nothing is left to train on.
    """
    for name, fraction in fractions.items():
        if not 0 <= fraction < 1:
            raise ConfigError.unexpected(
                f"data.{name}_fraction", "a share of the rows from 0 to below 1", fraction
            )
    sizes = {name: max(1, round(count * f)) if f else 0 for name, f in fractions.items()}
    if sum(sizes.values()) >= count:
        raise ConfigError.unexpected(
            " + ".join(f"data.{name}_fraction" for name in fractions),
            f"fewer than {count} rows in all, so that some are left to train on",
            sum(sizes.values()),
            summary="they leave nothing to train on",
            advice="Choose smaller fractions, or give more rows",
        )
    order = np.random.default_rng(seed).permutation(count)
    places: dict[SplitName, IntArray] = {}
    for name, size in sizes.items():
        places[name], order = np.sort(order[:size]), order[size:]
    places["train"] = np.sort(order)
    return places


def draw_rows(count: int, wanted: int | None, *, seed: int) -> IntArray:
    """Draw ``wanted`` of ``count`` rows, all where that is None or more; ascending."""
    if wanted is None or wanted >= count:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).permutation(count)[:wanted])


def unseen_split(
    entries: Sequence[frozenset[str]], *, num_test: int, num_val: int, num_calib: int, seed: int
) -> dict[SplitName, list[int]]:
    """Divide entries so that val, calib and test share no phrase with train.

    Test entries are drawn at random. Every entry that shares a phrase with one of them is lost to
    training, 5,000 to 6,000 for 2,000 test entries of the 20,000 most used phrases of WordNet.
    Drawing val and calib at random too would lose three times as many. So they are taken first from
    what is lost already: for each test entry one that is as connected (by the power of two of the
    entries it shares phrases with) and has as many phrases, the one that costs training least,
    at random among equals. Val and calib thus resemble test, and may share phrases with it and
    with each other.

    Args:
        entries: The phrases of each entry.
        num_test: Entries to test on, at least 1.
        num_val: Entries to validate on.
        num_calib: Entries to calibrate on.
        seed: The same seed, the same split.

    Returns:
        Places in ``entries`` for each split; those of ``"train"`` ascending. The sizes of val,
        calib and test are exactly as asked for.

    Raises:
        ConfigError: If so many entries cannot be held out, or nothing is left to train on.
    """
    num_held_out = num_val + num_calib
    if num_test < 1 or min(num_val, num_calib) < 0 or num_test + num_held_out >= len(entries):
        raise _too_many(num_test + num_held_out, len(entries))
    order = np.random.default_rng(seed).permutation(len(entries)).tolist()
    test, rest = order[:num_test], order[num_test:]
    entries_with = _invert(entries)
    seen_in_test = _phrases(entries, test)

    def cost(entry: int) -> int:
        return sum(len(entries_with[phrase]) for phrase in entries[entry] - seen_in_test)

    def stratum(entry: int) -> _Stratum:
        connected = sum(len(entries_with[phrase]) for phrase in entries[entry])
        return connected.bit_length(), min(len(entries[entry]), _MOST_PHRASES)

    cheapest_first = sorted(rest, key=cost)
    held_out = list(_matched(test, cheapest_first, stratum, num_held_out))
    held_out = [held_out[i] for i in np.random.default_rng([seed, 1]).permutation(num_held_out)]
    unseen = seen_in_test | _phrases(entries, held_out)
    train = [i for i, phrases in enumerate(entries) if phrases.isdisjoint(unseen)]
    if not train:
        raise _too_many(num_test + num_held_out, len(entries))
    return {"train": train, "val": held_out[:num_val], "calib": held_out[num_val:], "test": test}


def _invert(entries: Sequence[frozenset[str]]) -> dict[str, list[int]]:
    """Map each phrase to the entries that have it."""
    entries_with = defaultdict(list)
    for entry, phrases in enumerate(entries):
        for phrase in phrases:
            entries_with[phrase].append(entry)
    return entries_with


def _phrases(entries: Sequence[frozenset[str]], chosen: Iterable[int]) -> frozenset[str]:
    """Return all phrases of some entries."""
    return frozenset().union(*(entries[entry] for entry in chosen))


def _matched(
    models: Sequence[int], candidates: Sequence[int], stratum: Callable[[int], _Stratum], count: int
) -> Iterator[int]:
    """Yield ``count`` candidates in the proportions of the models' strata, first ones first."""
    by_stratum = defaultdict(list)
    for candidate in candidates:
        by_stratum[stratum(candidate)].append(candidate)
    waiting = {key: iter(members) for key, members in by_stratum.items()}
    wanted = [stratum(models[i % len(models)]) for i in range(count)]
    matched = [next(waiting.get(key, iter(())), None) for key in wanted]
    taken = {candidate for candidate in matched if candidate is not None}
    others = (candidate for candidate in candidates if candidate not in taken)
    for match in matched:  # where a stratum ran dry, the cheapest of any other
        yield next(others) if match is None else match


def _too_many(num_held_out: int, num_entries: int) -> ConfigError:
    """Return the error of splits that leave nothing to train on."""
    return ConfigError.unexpected(
        "data.num_test + data.num_val + data.num_calib",
        f"at least 1, and well below the {num_entries} entries there are",
        num_held_out,
        summary="the held-out splits are too large",
        advice="Choose smaller splits",
    )
