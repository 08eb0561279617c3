"""A progress bar in rows, with rows per second."""

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

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class _RowsPerSecondColumn(ProgressColumn):
    """Shows a task's speed."""

    def render(self, task: Task) -> Text:
        """Return the speed, or nothing until it is known."""
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f} rows/s")


@contextlib.contextmanager
def report_progress(*, total: int | None, enabled: bool) -> Iterator[Callable[[int], None]]:
    """Give a function that moves the bar on by some rows."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _RowsPerSecondColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, disable=not enabled) as progress:
        task = progress.add_task("building the bank", total=total)
        yield lambda rows: progress.advance(task, rows)
