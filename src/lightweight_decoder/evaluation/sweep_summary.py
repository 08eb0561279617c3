"""What the jobs of a sweep gave: a record in each job's folder, and one table.

Each job writes ``job.json`` into its own folder as it begins and as it ends, so whoever looks later
knows which jobs are done, wherever and in whatever order they ran.
"""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import TypeAdapter, ValidationError

from lightweight_decoder.display import spreadsheet_cell
from lightweight_decoder.errors import InputDataError
from lightweight_decoder.files import whole_file

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

JOB_FILE = "job.json"


@dataclass(frozen=True)
class SweepJob:
    """One job of a sweep.

    Attributes:
        number: From 0, in the order in which the sweep asked for them.
        overrides: What was set for this job, as ``key=value``.
        status: ``"unfinished"`` while it runs, and for good if it was killed.
        objective: What the sweep maximizes; None unless finished, and where nothing was trained.
        error: Why it failed; empty otherwise.
    """

    number: int
    overrides: tuple[str, ...]
    status: Literal["unfinished", "finished", "failed"] = "unfinished"
    objective: float | None = None
    error: str = ""

    @property
    def settings(self) -> dict[str, str]:
        """The overrides by key."""
        return dict(override.split("=", 1) for override in self.overrides if "=" in override)


_RECORD = TypeAdapter(SweepJob)


def write_job(job: SweepJob, folder: Path) -> None:
    """Write ``folder/job.json``, whole or not at all."""
    with whole_file(folder / JOB_FILE) as path:
        path.write_bytes(_RECORD.dump_json(job, indent=2) + b"\n")


def read_job(folder: Path) -> SweepJob | None:
    """Return the job that wrote ``folder/job.json``; None where there is no such file."""
    path = folder / JOB_FILE
    if not path.is_file():
        return None
    try:
        return _RECORD.validate_json(path.read_bytes())
    except ValidationError as error:
        advice = "Delete the job's folder to run the job again."
        raise InputDataError.unexpected(
            path, "the record of a job", error.errors()[0]["msg"], advice=advice
        ) from error


def read_jobs(sweep_dir: Path) -> dict[Path, SweepJob]:
    """Return the jobs whose folders are in ``sweep_dir``, by folder, in their order."""
    folders = [path.parent for path in sweep_dir.glob(f"*/{JOB_FILE}")]
    jobs = [(folder, job) for folder in folders if (job := read_job(folder)) is not None]
    return dict(sorted(jobs, key=lambda pair: pair[1].number))


def best_job(jobs: Collection[SweepJob]) -> SweepJob | None:
    """Return the job with the highest objective, the first of equals; None where none has one."""
    rated = [(job.objective, job) for job in jobs if job.objective is not None]
    return max(rated, key=lambda pair: pair[0])[1] if rated else None


def swept_parameters(jobs: Collection[SweepJob]) -> list[str]:
    """Return the keys that do not have one value in all jobs, in the order of the overrides."""
    keys = dict.fromkeys(key for job in jobs for key in job.settings)
    return [key for key in keys if len({job.settings.get(key) for job in jobs}) > 1]


def write_sweep_table(sweep_dir: Path) -> Path:
    """Write ``sweep_dir/sweep.csv``, a row for each job, and return its path.

    Columns: number, status, objective, error, overrides, each swept parameter, and each figure of
    the jobs' ``metrics.json``; empty where a job has none. A damaged record raises
    ``InputDataError``.
    """
    jobs = read_jobs(sweep_dir)
    parameters = swept_parameters(jobs.values())
    rows = [_row(job, parameters) | _metrics(folder, job) for folder, job in jobs.items()]
    first = ["number", "status", "objective", "error", "overrides", *parameters]
    figures = sorted({name for row in rows for name in row} - set(first))
    path = sweep_dir / "sweep.csv"
    with whole_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*first, *figures])
        writer.writerow({name: spreadsheet_cell(name) for name in writer.fieldnames})
        for row in rows:
            writer.writerow({name: spreadsheet_cell(value) for name, value in row.items()})
    return path


def _row(job: SweepJob, parameters: Sequence[str]) -> dict[str, object]:
    """Return a job's own columns."""
    return {
        "number": job.number,
        "status": job.status,
        "objective": job.objective,
        "error": job.error,
        "overrides": " ".join(job.overrides),
        **{key: job.settings.get(key, "") for key in parameters},
    }


def _metrics(folder: Path, job: SweepJob) -> dict[str, object]:
    """Return a finished job's ``metrics.json``; an unfinished one's is not its own."""
    path = folder / "metrics.json"
    if job.status != "finished" or not path.is_file():
        return {}
    metrics: dict[str, object] = json.loads(path.read_text(encoding="utf-8"))
    return metrics
