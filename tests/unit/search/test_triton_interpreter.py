"""Runs the tests of the GPU's kernels on the CPU."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
@pytest.mark.parametrize(
    ("tests", "chosen"),
    [
        (HERE / "test_group_maxima.py", ""),
        (HERE.parents[1] / "search_conformance", "(exact-k or exact-num or exact]) and not batch"),
    ],
    ids=["group_maxima", "conformance"],
)
def test_kernels_under_tritons_interpreter(tests, chosen):
    # A process of its own: Triton reads the variable when it is imported, which others may have
    # done in this one.
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", chosen, tests]
    done = subprocess.run(
        command,
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
