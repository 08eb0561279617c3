"""Times the steps of a fit."""

from __future__ import annotations

import time

import lightning as L  # noqa: N812 - the name everyone uses


class StepClock(L.Callback):
    """Times the steps after a warm-up, in a Trainer or called by hand.

    Args:
        warm_up: How many steps do not count, at least 1.
    """

    def __init__(self, warm_up: int) -> None:
        self._warm_up = warm_up
        self._ends: list[float] = []

    def on_train_batch_end(self, *_: object) -> None:
        """Note when a step ended."""
        self._ends.append(time.perf_counter())

    @property
    def seconds(self) -> float:
        """What the steps took together."""
        return self._ends[-1] - self._ends[self._warm_up - 1]

    @property
    def rate(self) -> float:
        """Steps per second."""
        return (len(self._ends) - self._warm_up) / self.seconds
