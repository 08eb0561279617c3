"""A progress bar that counts texts, rows or anything else, with their number per second."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from lightweight_decoder.display import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextlib.contextmanager
def report_progress(
    description: str, *, unit: str, total: int | None, enabled: bool
) -> Iterator[Callable[[int], None]]:
    """Show a bar, and give a function that moves it on by how many more are done.

    ``unit`` is what is counted, in the plural; ``total`` how many there are, None: unknown.
    """
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        _SpeedColumn(unit),
        TimeRemainingColumn(),
    )
    with Progress(*columns, disable=not enabled) as progress:
        task = progress.add_task(printable(description), total=total)
        yield lambda count: progress.advance(task, count)


class _SpeedColumn(ProgressColumn):
    """Shows how many per second."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        """Return the speed, or nothing until it is known."""
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f} {self._unit}/s")
