"""Random splits that follow from a seed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lightweight_decoder.errors import ConfigError

if TYPE_CHECKING:
    from lightweight_decoder.datatypes import IntArray
    from lightweight_decoder.decoder.splits import SplitName


def random_split(
    count: int, *, fractions: dict[SplitName, float], seed: int
) -> dict[SplitName, IntArray]:
    """Divide 0 to ``count`` - 1 at random; what no fraction takes is ``"train"``.

    Args:
        count: How many there are.
        fractions: Share of each split besides train, in [0, 1); one above 0 takes at least one.
        seed: The same seed, the same split.

    Returns:
        Ascending places for each split, train too.

    Raises:
        ConfigError: If a fraction is out of range, or nothing is left to train on.
    """
    for name, fraction in fractions.items():
        if not 0 <= fraction < 1:
            raise ConfigError(
                "a share of the rows is out of range",
                where=f"data.{name}_fraction",
                expected="a number from 0 to below 1",
                found=fraction,
            )
    sizes = {name: max(1, round(count * f)) if f else 0 for name, f in fractions.items()}
    if sum(sizes.values()) >= count:
        raise ConfigError(
            "the held-out splits leave nothing to train on",
            where=" + ".join(f"data.{name}_fraction" for name in fractions),
            expected=f"fewer than {count} rows in all",
            found=sum(sizes.values()),
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
