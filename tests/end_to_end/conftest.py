"""Starts commands as people do, and in this process where a process of its own proves nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lightweight_decoder.shell.composing import call, composed, register

ROOT = Path(__file__).resolve().parents[2]
NUM_PHRASES, DIM = 60, 16
FAST = (
    "trainer.accelerator=cpu",
    "trainer.max_epochs=2",
    "trainer.enable_progress_bar=false",
    "data.num_train=512",
    "data.num_val=64",
    "data.num_calib=64",
    "data.num_test=64",
    "data.noise=2",
)


@pytest.fixture(scope="session")
def run():
    """Runs a script in a process of its own; gives its exit status and everything it printed.

    Its cache and what W&B keeps for itself are in the folder given first; no setting of W&B comes
    from outside.
    """
    return _run


def _run(folder, script, *arguments):
    done = subprocess.run(
        [sys.executable, script, *arguments],
        cwd=ROOT,
        env=_environment(folder),
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    return done.returncode, done.stdout + done.stderr


def _environment(folder):
    outside = {name: value for name, value in os.environ.items() if "WANDB" not in name}
    return outside | {
        "LIGHTWEIGHT_DECODER_CACHE": str(folder / "cache"),
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "200",
        "WANDB_DATA_DIR": str(folder / "wandb-data"),
    }


@pytest.fixture(scope="session")
def environment():
    """The environment of such a process, by the same folder."""
    return _environment


@pytest.fixture(scope="session")
def command():
    """Calls a command in this process with what would be typed; gives what it returns."""
    return _command


def _command(name, *typed, **filled):
    register(name)
    overrides = [*typed, "trainer.accelerator=cpu"]
    return call(name, composed(name, overrides), filled=filled, overrides=overrides)


@pytest.fixture(scope="session")
def work(tmp_path_factory, run):
    """A folder with phrases, their vectors, and a bank that build_bank.py made of them."""
    folder = tmp_path_factory.mktemp("work")
    vectors = np.random.default_rng(0).standard_normal((NUM_PHRASES, DIM)).astype(np.float32)
    np.save(folder / "vectors.npy", vectors)
    lines = ["text,frequency", *(f"phrase {i},{i}" for i in range(NUM_PHRASES))]
    (folder / "phrases.csv").write_text("\n".join(lines) + "\n")
    status, output = run(
        folder,
        "scripts/build_bank.py",
        f"input={folder}/phrases.csv",
        f"vectors={folder}/vectors.npy",
        f"output={folder}/bank",
        "metadata_columns=[frequency]",
    )
    assert status == 0, output
    assert "60 phrases, 60 vectors of width 16" in output
    return folder


@pytest.fixture(scope="session")
def trained(work, run):
    """The folder of a finished run on the bank; nothing may be changed in it."""
    status, output = run(
        work,
        "train.py",
        "data=denoise",
        f"data.bank={work}/bank",
        f"hydra.run.dir={work}/run",
        "logger=wandb",
        *FAST,
    )
    assert status == 0, output
    assert "plain search" in output
    assert "wandb sync" in output
    for noise in ("GPU available", "TPU available", "litlogger", "LeafSpec"):
        assert noise not in output
    return work / "run"
