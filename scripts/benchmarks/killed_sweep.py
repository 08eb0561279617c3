"""Kill a Bayesian sweep three times, and compare it with one that was left alone.

    python scripts/benchmarks/killed_sweep.py [--seed 0]

Twelve jobs on a bank made for it, twice. The second sweep is killed (SIGKILL, its whole process
group) at three moments that the seed chooses, and started again each time with the same command.
Prints how many jobs finished, how often each was trained to its end, and both best values.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import optuna

from lightweight_decoder.bank import PhraseBank
from lightweight_decoder.evaluation.sweep_summary import JOB_FILE

ROOT = Path(__file__).resolve().parents[2]
NUM_JOBS = 12
NUM_KILLS = 3
MAX_JOBS_BEFORE_A_KILL = 3.5
TRAINED_TO_THE_END = "Run folder:"  # a job's log has this line once each time


def start(bank: Path, sweep_dir: Path) -> subprocess.Popen[bytes]:
    """Return a sweep, in a process group of its own."""
    command = [
        *(sys.executable, "train.py", "-m", "hparams_search=optuna", "data=denoise"),
        *(f"data.bank={bank}", "data.num_train=1500", "data.noise=1.5"),
        *("data.num_val=256", "data.num_calib=256", "data.num_test=256"),
        *("trainer.accelerator=cpu", "trainer.max_epochs=1", "trainer.enable_progress_bar=false"),
        *(f"hydra.sweeper.n_trials={NUM_JOBS}", f"hydra.sweep.dir={sweep_dir}"),
    ]
    output = subprocess.DEVNULL
    return subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output, start_new_session=True)


def make_bank(folder: Path) -> Path:
    """Phrases at random places."""
    vectors = np.random.default_rng(0).standard_normal((2_000, 64)).astype(np.float32)
    PhraseBank.build(folder, [f"phrase {i}" for i in range(len(vectors))], vectors)
    return folder


def wait_for_a_job(sweep_dir: Path, *, since: float) -> None:
    """Wait until a job began or ended after a moment."""
    while not any(path.stat().st_mtime > since for path in sweep_dir.glob(f"*/{JOB_FILE}")):
        time.sleep(0.02)


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kills a sweep and whatever it started."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def report(name: str, sweep_dir: Path) -> list[tuple[dict[str, object], float]]:
    """Print what a sweep has to show; returns parameters and values of its finished jobs."""
    study = optuna.load_study(study_name="sweep", storage=f"sqlite:///{sweep_dir}/study.db")
    finished = study.get_trials(states=[optuna.trial.TrialState.COMPLETE])
    ends = [
        (sweep_dir / str(trial.number) / "train.log").read_text().count(TRAINED_TO_THE_END)
        for trial in finished
    ]
    print(
        f"{name}: {len(study.trials)} jobs, {len(finished)} finished, trained to the end"
        f" {sum(ends)} times, at most {max(ends)} times the same; best {study.best_value:.10f}"
    )
    return [(trial.params, trial.values[0]) for trial in finished]


def main() -> None:
    """Run both sweeps and compares them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    draw = random.Random(parser.parse_args().seed)  # noqa: S311 - no secret
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        bank, whole, killed = (Path(folder) / name for name in ("bank", "whole", "killed"))
        make_bank(bank)
        began = time.time()
        process = start(bank, whole)
        wait_for_a_job(whole, since=began)
        began = time.time()
        process.wait()
        job_s = (time.time() - began) / NUM_JOBS
        for _ in range(NUM_KILLS):
            began = time.time()
            process = start(bank, killed)
            wait_for_a_job(killed, since=began)
            wait_s = draw.uniform(0, MAX_JOBS_BEFORE_A_KILL * job_s)
            time.sleep(wait_s)
            kill(process)
            records = [path.read_text() for path in killed.glob(f"*/{JOB_FILE}")]
            done = sum('"finished"' in record for record in records)
            print(
                f"killed {wait_s:.1f} s after its first job began (a job takes {job_s:.1f} s):"
                f" {done} finished, {len(records)} begun"
            )
        start(bank, killed).wait()
        same = report("left alone", whole) == report("killed", killed)
        print("the same parameters and values in the same order" if same else "NOT the same")


if __name__ == "__main__":
    main()
