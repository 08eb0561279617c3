"""Sweeps as people type them, on data small enough for a test."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from lightweight_decoder.bank import PhraseBank

ROOT = Path(__file__).resolve().parents[2]
NUM_PHRASES = 60
FAST = [
    "data=denoise",
    "trainer.accelerator=cpu",
    "trainer.max_epochs=1",
    "trainer.enable_progress_bar=false",
    "data.num_train=512",
    "data.num_val=64",
    "data.num_calib=64",
    "data.num_test=64",
    "data.noise=2",
]
OPTUNA = ["hparams_search=optuna", "hydra.sweeper.seed=1"]


@pytest.fixture(scope="module")
def bank(tmp_path_factory):
    folder = tmp_path_factory.mktemp("banks") / "bank"
    vectors = np.random.default_rng(0).standard_normal((NUM_PHRASES, 16)).astype(np.float32)
    PhraseBank.build(folder, [f"phrase {i}" for i in range(NUM_PHRASES)], vectors)
    return folder


@pytest.fixture
def start(bank, tmp_path):
    """Starts a sweep in ``tmp_path/sweep``."""
    environment = os.environ | {
        "LIGHTWEIGHT_DECODER_CACHE": str(tmp_path / "cache"),
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "200",
        "WANDB_MODE": "offline",
    }

    def start(*arguments):
        command = [sys.executable, "train.py", "-m", *FAST, f"data.bank={bank}", *arguments]
        return subprocess.Popen(
            [*command, f"hydra.sweep.dir={tmp_path}/sweep"],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )

    return start


@pytest.fixture
def run(start):
    """Runs a sweep; gives its exit status and everything it printed."""

    def run(*arguments):
        process = start(*arguments)
        output, _ = process.communicate()
        return process.returncode, output

    return run


def table(folder):
    with (folder / "sweep" / "sweep.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def times_trained(folder, job):
    return (folder / "sweep" / str(job) / "train.log").read_text().count("Run folder:")


@pytest.mark.slow
def test_a_search_goes_on_where_it_stopped(run, tmp_path):
    status, output = run(*OPTUNA, "hydra.sweeper.n_trials=1")
    assert status == 0, output
    (first,) = table(tmp_path)
    parallel = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra.sweeper.n_jobs=2"]
    status, output = run(*OPTUNA, *parallel, "hydra.sweeper.n_trials=3")
    assert status == 0, output

    rows = table(tmp_path)
    assert {key: rows[0][key] for key in first} == first
    assert [row["number"] for row in rows] == ["0", "1", "2"]
    assert [times_trained(tmp_path, job) for job in range(3)] == [1, 1, 1]
    for row in rows:
        job = tmp_path / "sweep" / row["number"]
        metrics = json.loads((job / "metrics.json").read_text())
        assert float(row["test/decoder/mrr"]) == metrics["test/decoder/mrr"]
        assert row["status"] == "finished"
    best = max(rows, key=lambda row: float(row["objective"]))
    command = next(line for line in output.splitlines() if line.startswith("python train.py"))
    assert f"training.lr={best['training.lr']}" in command
    assert (tmp_path / "sweep" / "sweep.png").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["basic", "joblib", "submitit_local"])
def test_a_grid_with_a_job_that_fails(run, tmp_path, launcher):
    options = ["hydra.launcher.n_jobs=2"] if launcher == "joblib" else []
    status, output = run("training.lr=1e-3,-1,3e-3", f"hydra/launcher={launcher}", *options)

    assert status == 0, output
    assert "Traceback" not in output
    assert "Job 1 failed: training.lr: " in output
    assert [row["status"] for row in table(tmp_path)] == ["finished", "failed", "finished"]
    status, output = run("training.lr=1e-3,-1,3e-3")
    assert status == 0, output
    assert [times_trained(tmp_path, job) for job in range(3)] == [1, 0, 1]


@pytest.mark.slow
def test_a_killed_search_ends_like_one_that_was_not(start, run, tmp_path):
    process = start(*OPTUNA, "hydra.sweeper.n_trials=4", "data.num_train=4096")
    while not (tmp_path / "sweep" / "1" / "job.json").is_file():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    status, output = run(*OPTUNA, "hydra.sweeper.n_trials=4", "data.num_train=4096")
    assert status == 0, output
    killed = table(tmp_path)
    (tmp_path / "sweep").rename(tmp_path / "killed")
    status, output = run(*OPTUNA, "hydra.sweeper.n_trials=4", "data.num_train=4096")
    assert status == 0, output
    assert killed == table(tmp_path)


@pytest.mark.slow
def test_a_search_whose_overrides_are_wrong_or_changed(run, tmp_path):
    status, output = run(*OPTUNA, "training.nope=interval(0,1)")
    assert status != 0
    assert "training.nope" in output or "'nope'" in output
    assert not (tmp_path / "sweep" / "study.db").exists()
    status, output = run(*OPTUNA, "hydra.sweeper.n_trials=1")
    assert status == 0, output
    status, output = run(*OPTUNA, "hydra.sweeper.n_trials=1", "seed=1")
    assert status == 1
    assert "study.db: holds another sweep: expected nothing more, found seed=1" in output
    assert "Traceback" not in output


@pytest.mark.slow
def test_jobs_of_a_sweep_are_one_group_of_finished_runs(run, tmp_path):
    from wandb.proto.wandb_internal_pb2 import RunRecord

    status, output = run("seed=0,1", "logger=wandb")
    assert status == 0, output
    assert output.count("wandb sync") == 2
    files = sorted((tmp_path / "sweep").glob("*/wandb/offline-run-*/*.wandb"))
    assert [path.parents[2].name for path in files] == ["0", "1"]
    for path in files:
        assert RunRecord(run_group="sweep").SerializeToString() in path.read_bytes()
