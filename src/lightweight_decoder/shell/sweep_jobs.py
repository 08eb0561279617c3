"""Sweeps: what makes a job one of many, and the summary when all are done."""

from __future__ import annotations

import logging
import math
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from rich.console import Console
from rich.table import Table

from lightweight_decoder.display import cell, printable
from lightweight_decoder.errors import ConfigError, LightweightDecoderError
from lightweight_decoder.evaluation.sweep_summary import (
    SweepJob,
    best_job,
    read_job,
    read_jobs,
    swept_parameters,
    write_job,
    write_sweep_table,
)
from lightweight_decoder.files import whole_file

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from omegaconf import DictConfig

logger = logging.getLogger(__name__)


def as_job(work: Callable[[DictConfig], float], config: DictConfig) -> float:
    """Do the work of a command that can be swept; return what a sweep maximizes.

    In a sweep, a job that finished before is not done again, and one that fails gives NaN, so that
    the others go on.

    Raises:
        ConfigError: The sweep's folder has the same job of another sweep.
        LightweightDecoderError: What ``work`` raises, outside a sweep.
    """
    hydra = HydraConfig.get()
    if hydra.mode != RunMode.MULTIRUN:
        return work(config)
    folder = Path(hydra.runtime.output_dir)
    job = SweepJob(number=int(hydra.job.num), overrides=tuple(hydra.overrides.task))
    known = read_job(folder)
    if known is not None:
        _check_same(known, job, folder)
    if known is not None and known.status == "finished":
        logger.info("Job %d was finished before: %s", job.number, known.objective)
        return math.nan if known.objective is None else known.objective
    write_job(job, folder)
    outcome = _outcome(work, config, job)
    write_job(outcome, folder)
    return math.nan if outcome.objective is None else outcome.objective


def _check_same(known: SweepJob, job: SweepJob, folder: Path) -> None:
    """Refuses a folder with the job of another sweep."""
    if known.overrides != job.overrides:
        raise ConfigError(
            "holds a job of another sweep",
            where=folder,
            expected=" ".join(known.overrides),
            found=" ".join(job.overrides),
            advice="Type what was typed then, or name another hydra.sweep.dir",
        )


def _outcome(work: Callable[[DictConfig], float], config: DictConfig, job: SweepJob) -> SweepJob:
    """How a job ended."""
    try:
        objective = work(config)
    except LightweightDecoderError as error:
        logger.error("%s", error)  # noqa: TRY400 - the message is for people
        return SweepJob(job.number, job.overrides, "failed", error=str(error))
    except Exception as error:
        logger.exception("Job %d failed", job.number)
        return SweepJob(job.number, job.overrides, "failed", error=repr(error))
    return SweepJob(
        job.number, job.overrides, "finished", None if math.isnan(objective) else objective
    )


class SweepSummary(Callback):
    """Hydra callback: says how to go on with a sweep, and sums it up at its end."""

    def on_multirun_start(self, config: DictConfig, **_: object) -> None:
        """Says what to type after an interruption."""
        logger.info(
            "Sweep folder: %s. If the sweep is interrupted, the same command with"
            " hydra.sweep.dir=%s goes on",
            config.hydra.sweep.dir,
            config.hydra.sweep.dir,
        )

    def on_multirun_end(self, config: DictConfig, **_: object) -> None:
        """Write ``sweep.csv`` and ``sweep.png``; prints all jobs and the best one's command."""
        from lightweight_decoder.evaluation.plots import plot_sweep  # noqa: PLC0415 - slow to load

        sweep_dir = Path(config.hydra.sweep.dir)
        jobs = read_jobs(sweep_dir).values()
        table = write_sweep_table(sweep_dir)
        with whole_file(sweep_dir / "sweep.png") as path:
            plot_sweep(jobs).savefig(path, format="png", dpi=120)
        Console().print(_overview(jobs))
        for job in jobs:
            if job.status == "failed":
                logger.warning("Job %d failed: %s", job.number, printable(job.error))
            elif job.status == "unfinished":
                logger.warning("Job %d did not finish", job.number)
        logger.info("%s: %d jobs", table, len(jobs))
        best = best_job(jobs)
        if best is not None:
            command = printable(shlex.join([*_as_typed(), *best.overrides]))
            logger.info("Best job %d, %.4f:\n%s", best.number, best.objective, command)


def _as_typed() -> list[str]:
    """Return the words that this process's command was started with."""
    program = sys.argv[0]
    return ["python", program] if program.endswith(".py") else [program, "train"]


def _overview(jobs: Collection[SweepJob]) -> Table:
    """All jobs with what differs between them, best first."""
    parameters = swept_parameters(jobs)
    table = Table("job", "status", "objective")
    for parameter in parameters:
        table.add_column(cell(parameter))
    for job in sorted(jobs, key=_objective, reverse=True):
        objective = "-" if job.objective is None else f"{job.objective:.4f}"
        settings = [cell(job.settings.get(key, "")) for key in parameters]
        table.add_row(str(job.number), job.status, objective, *settings)
    return table


def _objective(job: SweepJob) -> float:
    """Orders jobs; those without a result come last."""
    return -math.inf if job.objective is None else job.objective
