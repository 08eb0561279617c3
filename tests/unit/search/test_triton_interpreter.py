"""Runs the tests of the GPU's kernels on the CPU."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def why_not() -> str:
    """Say why the kernels cannot be interpreted here."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    version = importlib.metadata.version("triton")
    if tuple(int(part) for part in version.split(".")[:2]) < (3, 7):
        return f"the interpreter of Triton {version} does not run with NumPy 2.4"
    return ""


@pytest.mark.skipif(bool(why_not()), reason=why_not())
@pytest.mark.parametrize(
    ("tests", "chosen"),
    [
        (HERE / "kernels/test_group_maxima.py", ""),
        (HERE / "kernels/test_few_queries.py", ""),
        (HERE.parents[1] / "search_conformance", "(exact-k or exact-num or exact]) and not batch"),
    ],
    ids=["group_maxima", "few_queries", "conformance"],
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
