"""Experiment trackers: CSV always, Weights & Biases on request, closed by whoever opened them."""

from __future__ import annotations

import logging
import os
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    import wandb
    from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger

logger = logging.getLogger(__name__)

_INIT_TIMEOUT_S = 20


def csv_logger(run_dir: Path) -> CSVLogger:
    """Return a logger that writes ``run_dir/csv/metrics.csv``."""
    from lightning.pytorch.loggers import CSVLogger  # noqa: PLC0415 - seconds, for those who train

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
    """Open one W&B run for as long as the context lasts; a run that raises is marked failed.

    Never asks anything. Without a login, and with ``WANDB_MODE`` unset, the run is written to disk
    and the command that uploads it is logged at the end. So it is where the server cannot be
    reached, or takes no login, whatever ``WANDB_MODE`` says; a warning tells.

    Args:
        run_dir: Folder in which W&B makes its own folder ``wandb``.
        project: W&B project.
        name: Name of the run; W&B invents one where it is None.
        group: Runs of one group are shown together, such as the jobs of a sweep.
        tags: Tags of the run.
    """
    from lightning.pytorch.loggers import WandbLogger  # noqa: PLC0415 - as above

    run = _start(project=project, name=name, group=group, tags=tags, dir=run_dir)
    try:
        yield WandbLogger(experiment=run)
    except BaseException:
        run.finish(exit_code=1)
        raise
    run.finish()
    if run.offline:
        logger.info("W&B run kept on disk. To upload it: wandb sync %s", run.settings.sync_dir)


@contextmanager
def open_trackers(run_dir: Path, wandb_options: dict[str, object] | None) -> Iterator[list[Logger]]:
    """Open the CSV logger and, where there are options for it, a W&B run."""
    trackers: list[Logger] = [csv_logger(run_dir)]
    if wandb_options is None:
        yield trackers
        return
    with open_wandb(run_dir, **wandb_options) as tracker:  # type: ignore[arg-type]
        yield [*trackers, tracker]


def _start(**options: Any) -> wandb.Run:  # noqa: ANN401 - W&B's own
    """Start a run online where that is possible, else offline."""
    import wandb  # noqa: PLC0415 - half a second that only its users should pay

    quiet = wandb.Settings(silent=True, init_timeout=_INIT_TIMEOUT_S)
    start = partial(wandb.init, **options, settings=quiet, reinit="create_new")
    try:
        if "WANDB_MODE" not in os.environ and not wandb.login(prompt=False):
            return start(mode="offline")
        return start()
    except wandb.errors.Error as error:
        reason = str(error).splitlines()[0]
        logger.warning("W&B cannot be used online, so the run is kept on disk: %s", reason)
        return start(mode="offline")
