"""Whoever imports a part of evaluation pays for no library that it does not use."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import importlib, pkgutil, sys
from lightweight_decoder import evaluation
for module in pkgutil.iter_modules(evaluation.__path__, "lightweight_decoder.evaluation."):
    if module.name != "lightweight_decoder.evaluation.plots":
        importlib.import_module(module.name)
slow = {"jinja2", "matplotlib", "sacrebleu", "scipy", "sklearn", "torch", "wandb"}
sys.exit(" ".join(sorted(slow & sys.modules.keys())) or 0)
"""


def test_slow_libraries_are_loaded_by_those_who_use_them():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stderr) == (0, "")
