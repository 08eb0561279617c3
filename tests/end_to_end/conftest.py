"""Starts commands as people do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def run():
    """Runs a script in a process of its own; gives its exit status and everything it printed.

    Its cache and what W&B keeps for itself are in the folder given first; no setting of W&B comes
    from outside.
    """
    return _run


def _run(folder, script, *arguments):
    environment = {name: value for name, value in os.environ.items() if "WANDB" not in name}
    environment |= {
        "LIGHTWEIGHT_DECODER_CACHE": str(folder / "cache"),
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "200",
        "WANDB_DATA_DIR": str(folder / "wandb-data"),
    }
    done = subprocess.run(
        [sys.executable, script, *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    return done.returncode, done.stdout + done.stderr
