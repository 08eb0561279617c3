"""Experiment trackers: CSV always, Weights & Biases on request, closed by whoever opened them."""

from __future__ import annotations

import logging
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger

if TYPE_CHECKING:
    from collections.abc import Iterator

logger = logging.getLogger(__name__)


def csv_logger(run_dir: Path) -> CSVLogger:
    """Returns a logger that writes ``run_dir/csv/metrics.csv``."""
    return CSVLogger(save_dir=run_dir, name="", version="csv")


@contextmanager
def open_wandb(
    run_dir: Path,
    *,
    project: str = "lightweight-decoder",
    name: str | None = None,
    group: str | None = None,
    tags: tuple[str, ...] = (),
) -> Iterator[WandbLogger]:
    """Opens one W&B run for as long as the context lasts; a run that raises is marked failed.

    Never asks anything. Without a login, and with ``WANDB_MODE`` unset, the run is written to disk
    and the command that uploads it is logged at the end.

    Args:
        run_dir: Folder in which W&B makes its own folder ``wandb``.
        project: W&B project.
        name: Name of the run; W&B invents one where it is None.
        group: Runs of one group are shown together, such as the jobs of a sweep.
        tags: Tags of the run.
    """
    import wandb  # noqa: PLC0415 - half a second that only its users should pay

    offline = "WANDB_MODE" not in os.environ and not wandb.login(prompt=False)
    run = wandb.init(
        project=project,
        name=name,
        group=group,
        tags=tags,
        dir=run_dir,
        mode="offline" if offline else None,
        settings=wandb.Settings(silent=True),
        reinit="create_new",
    )
    try:
        yield WandbLogger(experiment=run)
    except BaseException:
        run.finish(exit_code=1)
        raise
    run.finish()
    if run.settings.mode == "offline":
        logger.info("W&B run kept on disk. To upload it: wandb sync %s", run.settings.sync_dir)


@contextmanager
def open_trackers(run_dir: Path, wandb_options: dict[str, object] | None) -> Iterator[list[Logger]]:
    """Opens the CSV logger and, where there are options for it, a W&B run."""
    trackers: list[Logger] = [csv_logger(run_dir)]
    if wandb_options is None:
        yield trackers
        return
    with open_wandb(run_dir, **wandb_options) as tracker:  # type: ignore[arg-type]
        yield [*trackers, tracker]
