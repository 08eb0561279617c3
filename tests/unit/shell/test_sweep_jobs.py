from __future__ import annotations

import csv
import logging
import math
import sys

import pytest
from hydra.types import RunMode
from omegaconf import OmegaConf
from rich.console import Console

from lightweight_decoder.errors import ConfigError
from lightweight_decoder.evaluation.sweep_summary import SweepJob, read_job, write_job
from lightweight_decoder.shell import sweep_jobs
from lightweight_decoder.shell.sweep_jobs import SweepSummary, as_job

CONFIG = OmegaConf.create({"lr": 2})


def refused(_):
    raise ConfigError("out of range", where="training.lr")


def broken(_):
    raise ZeroDivisionError("by zero")


def killed(_):
    raise KeyboardInterrupt


def never(_):
    raise AssertionError


def test_outside_a_sweep_nothing_is_kept(hydra_job, tmp_path):
    hydra_job(tmp_path / "run", mode=RunMode.RUN)
    assert as_job(lambda config: config.lr / 4, CONFIG) == 0.5
    assert not list((tmp_path / "run").iterdir())
    with pytest.raises(ConfigError):
        as_job(refused, CONFIG)


def test_a_job_is_not_done_again(hydra_job, tmp_path):
    hydra_job(tmp_path / "s" / "3", ["lr=2"], number=3)
    assert as_job(lambda config: config.lr / 4, CONFIG) == 0.5
    assert read_job(tmp_path / "s" / "3") == SweepJob(3, ("lr=2",), "finished", 0.5)
    assert as_job(never, CONFIG) == 0.5


def test_a_job_without_an_objective_is_not_done_again(hydra_job, tmp_path):
    hydra_job(tmp_path / "s" / "0")
    assert math.isnan(as_job(lambda _: math.nan, CONFIG))
    assert math.isnan(as_job(never, CONFIG))


@pytest.mark.parametrize(
    ("work", "error"),
    [(refused, "training.lr: out of range"), (broken, "ZeroDivisionError('by zero')")],
)
def test_a_job_that_fails_says_so_and_can_be_tried_again(hydra_job, tmp_path, caplog, work, error):
    hydra_job(tmp_path / "0", ["lr=2"])
    assert math.isnan(as_job(work, CONFIG))
    assert read_job(tmp_path / "0") == SweepJob(0, ("lr=2",), "failed", error=error)
    assert bool(caplog.records[-1].exc_info) == (work is broken)
    assert as_job(lambda _: 0.5, CONFIG) == 0.5
    assert read_job(tmp_path / "0").status == "finished"


def test_a_killed_job_is_unfinished_and_done_again(hydra_job, tmp_path):
    hydra_job(tmp_path / "0", ["lr=2"])
    with pytest.raises(KeyboardInterrupt):
        as_job(killed, CONFIG)
    assert read_job(tmp_path / "0") == SweepJob(0, ("lr=2",), "unfinished")
    assert as_job(lambda _: 0.5, CONFIG) == 0.5


def test_a_folder_of_another_sweep_is_refused(hydra_job, tmp_path):
    hydra_job(tmp_path / "0", ["lr=2"])
    as_job(lambda _: 0.5, CONFIG)
    hydra_job(tmp_path / "0", ["lr=3"])
    with pytest.raises(ConfigError, match=r"0: holds a job of another .*expected lr=2, found lr=3"):
        as_job(never, CONFIG)
    assert read_job(tmp_path / "0").objective == 0.5


@pytest.fixture
def summarized(tmp_path, caplog, capsys, monkeypatch):
    """A sweep of four jobs, its log and what it printed."""
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(sys, "argv", ["train.py", "-m"])
    monkeypatch.setenv("COLUMNS", "120")
    jobs = [
        SweepJob(0, ("lr=1", "name=a b"), "finished", 0.25),
        SweepJob(1, ("lr=2", "name=a b"), "finished", 0.5),
        SweepJob(2, ("lr=-1", "name=a b"), "failed", error="lr: out of range"),
        SweepJob(3, ("lr=4", "name=a b")),
    ]
    for job in jobs:
        (tmp_path / str(job.number)).mkdir()
        write_job(job, tmp_path / str(job.number))
    config = OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}})
    SweepSummary().on_multirun_start(config)
    SweepSummary().on_multirun_end(config)
    return tmp_path, caplog.text, capsys.readouterr().out


def test_the_summary(summarized):
    folder, log, printed = summarized
    assert f"hydra.sweep.dir={folder} goes on" in log
    assert "Best job 1, 0.5000:\npython train.py lr=2 'name=a b'" in log
    assert "Job 2 failed: lr: out of range" in log
    assert "Job 3 did not finish" in log
    rows = [line.split("│")[1:3] for line in printed.splitlines() if "│" in line]
    assert [row[0].strip() for row in rows] == ["1", "0", "2", "3"]
    assert "name" not in printed
    with (folder / "sweep.csv").open(newline="") as file:
        assert [row["lr"] for row in csv.DictReader(file)] == ["1", "2", "-1", "4"]
    assert (folder / "sweep.png").read_bytes().startswith(b"\x89PNG")


def test_a_sweep_in_which_nothing_finished(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    SweepSummary().on_multirun_end(OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}}))
    assert "sweep.csv: 0 jobs" in caplog.text
    assert "Best job" not in caplog.text


def test_hostile_settings_are_shown_in_the_overview(capsys):
    jobs = [SweepJob(0, ("[b]=[/]",), "finished", 0.5), SweepJob(1, ("[b]=\x1b[31m",), "failed")]

    Console(width=100, force_terminal=True, color_system=None).print(sweep_jobs._overview(jobs))

    shown = capsys.readouterr().out
    for text in ("[b]", "[/]", "\\x1b[31m"):
        assert text in shown
    assert "\x1b" not in shown
