"""What each command imports: no more than it needs."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

HEAVY = {"lightning", "lightning_fabric", "pytorch_lightning", "torchmetrics"}
HEAVY |= {"wandb", "optuna", "hydra_zen", "faiss", "datasets", "h5py"}
ENCODING = {"sentence_transformers", "transformers", "tokenizers"}
STATISTICS = {"scipy", "sklearn", "pandas", "matplotlib"}
RUN = """
import json, sys
from lightweight_decoder.shell.composing import run_command
run_command(sys.argv[1], sys.argv[2:])
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


@pytest.fixture
def imported(environment, tmp_path):
    """Runs a command in a process of its own; gives the packages that it imported."""

    def imported(*arguments):
        done = subprocess.run(
            [sys.executable, "-c", RUN, *arguments],
            capture_output=True,
            text=True,
            check=True,
            env=environment(tmp_path),
        )
        return set(json.loads(done.stdout.splitlines()[-1]))

    return imported


def test_the_package_itself_imports_nothing():
    code = "import sys; before = set(sys.modules); import lightweight_decoder;"
    code += "print(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    packages = {name.partition(".")[0] for name in done.stdout.split()}
    assert packages - sys.stdlib_module_names == {"lightweight_decoder"}


def test_decoding_vectors_needs_no_training_and_no_encoder(work, tmp_path, imported):
    np.save(tmp_path / "q.npy", np.load(work / "vectors.npy")[:3])
    paths = (f"bank={work}/bank", f"input={tmp_path}/q.npy", f"output={tmp_path}/o.jsonl")
    found = imported("decode", *paths, "trainer.accelerator=cpu")

    assert len((tmp_path / "o.jsonl").read_text().splitlines()) == 3
    assert found.isdisjoint(HEAVY | ENCODING | STATISTICS)


def test_help_needs_no_encoder(imported):
    assert imported("decode", "--help").isdisjoint(HEAVY | ENCODING | STATISTICS)
    assert imported("build_bank", "--help").isdisjoint(HEAVY | ENCODING | STATISTICS)


def test_evaluating_needs_no_training(trained, tmp_path, imported):
    found = imported("evaluate", f"run_dir={trained}", f"output={tmp_path}/out")

    assert (tmp_path / "out" / "metrics.json").is_file()
    assert found.isdisjoint(HEAVY | ENCODING)


@pytest.mark.slow
def test_decoding_a_sentence_needs_no_training(tmp_path, imported):
    (tmp_path / "p.txt").write_text("a wide road\na small dog\n")
    paths = (f"input={tmp_path}/p.txt", f"output={tmp_path}/bank")
    others = HEAVY - {"datasets"}  # which sentence-transformers imports where it is installed
    assert imported("build_bank", *paths, "trainer.accelerator=cpu").isdisjoint(others)
    found = imported("decode", f"bank={tmp_path}/bank", "text=a puppy", "trainer.accelerator=cpu")

    assert found >= ENCODING
    assert found.isdisjoint(others)
