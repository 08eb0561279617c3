"""Commands that may hold little memory: what they say, and that they leave nothing behind."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lightweight_decoder import PhraseBank, PhraseBankDecoder

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")

ROOT = Path(__file__).resolve().parents[2]
NUM_PHRASES, DIM = 20_000, 8
TEXTS = [f"phrase {row}" for row in range(NUM_PHRASES)]


def vectors(num_rows):
    return np.random.default_rng(num_rows).standard_normal((num_rows, DIM)).astype(np.float32)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with a bank, what it was made of, and queries."""
    folder = tmp_path_factory.mktemp("work")
    PhraseBank.build(folder / "bank", TEXTS, vectors(NUM_PHRASES))
    (folder / "texts.txt").write_text("\n".join(TEXTS) + "\n")
    np.save(folder / "vectors.npy", vectors(NUM_PHRASES))
    np.save(folder / "q.npy", vectors(1_000))
    return folder


CPU = "trainer.accelerator=cpu"


@pytest.fixture
def refusal(run, tmp_path_factory):
    """What a command says that ends with our message."""

    def refusal(*arguments):
        status, output = run(tmp_path_factory.mktemp("elsewhere"), *arguments, CPU)
        assert status == 1
        assert "max_memory_gb: " in output
        assert "Traceback" not in output
        return output

    return refusal


def test_decoding_is_refused(work, tmp_path, refusal):
    told = refusal(
        *("scripts/decode.py", f"bank={work}/bank", f"input={work}/q.npy"),
        *(f"output={tmp_path}/out.jsonl", f"top_k={NUM_PHRASES}", "max_memory_gb=0.04"),
    )

    assert "decoding takes more memory than it may: expected at most 0.04 GiB" in told
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_decoding_in_enough_memory_gives_the_same(work, tmp_path, run):
    status, output = run(
        *(work, "scripts/decode.py", CPU, f"bank={work}/bank", f"input={work}/q.npy"),
        *(f"output={tmp_path}/out.jsonl", "max_memory_gb=0.1"),
    )
    assert status == 0, output

    unlimited = PhraseBankDecoder(PhraseBank.open(work / "bank")).decode(vectors(1_000))
    limited = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["phrases"] for line in limited] == unlimited.texts
    np.testing.assert_allclose([line["values"] for line in limited], unlimited.values, atol=2e-6)


def test_building_is_refused(work, tmp_path, refusal):
    torch.save(torch.zeros(2**26), tmp_path / "v.pt")  # its map belongs to the process

    told = refusal(
        *("scripts/build_bank.py", f"input={work}/texts.txt", f"vectors={tmp_path}/v.pt"),
        *(f"output={tmp_path}/bank", "max_memory_gb=0.04"),
    )

    assert "building the bank takes more memory than it may" in told
    assert list(tmp_path.iterdir()) == [tmp_path / "v.pt"]


@pytest.mark.slow
def test_building_in_enough_memory_gives_the_same(work, tmp_path, run):
    status, output = run(
        *(
            work,
            "scripts/build_bank.py",
            CPU,
            f"input={work}/texts.txt",
            f"vectors={work}/vectors.npy",
        ),
        *(f"output={tmp_path}/bank", "max_memory_gb=0.1"),
    )

    assert status == 0, output
    limited, unlimited = PhraseBank.open(tmp_path / "bank"), PhraseBank.open(work / "bank")
    assert limited.fingerprint == unlimited.fingerprint


BUILD_THEN_TAKE_TOO_MUCH = """
import sys
import numpy as np
from lightweight_decoder.bank import BankRows, write_bank
from lightweight_decoder.memory import memory_budget

def rows():
    yield BankRows(texts=["a", "b"], vectors=np.eye(2, dtype=np.float32))
    yield BankRows(texts=["c", "d"], vectors=np.ones((2**28, 2), dtype=np.float32))

with memory_budget(0.1, work="building", advice="do less."):
    write_bank(sys.argv[1], rows())
"""


@pytest.mark.slow
def test_a_build_that_runs_out_of_memory_half_way_leaves_nothing(work, tmp_path, run):
    status, output = run(work, "-c", BUILD_THEN_TAKE_TOO_MUCH, str(tmp_path / "bank"))

    assert status == 1
    assert "MemoryBudgetError: max_memory_gb: building takes more memory" in output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("told", "overrides"),
    [
        ("refused: ", ["data.num_train=4000000"]),
        pytest.param(
            "0.596 for 2000 x 20000 mined candidates",
            ["training.num_listed=30000", "data.num_train=2000"],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_training_is_refused(work, tmp_path, refusal, told, overrides):
    output = refusal(
        *("train.py", "data=denoise", f"data.bank={work}/bank", f"hydra.run.dir={tmp_path}"),
        *("trainer.enable_progress_bar=false", "max_memory_gb=0.2", *overrides),
        *(f"data.num_{split}=64" for split in ("val", "calib", "test")),
    )

    assert "training takes more memory than it may: expected at most 0.2 GiB" in output
    assert told in output
    assert not (tmp_path / "checkpoints").exists()
    assert not (tmp_path / "metrics.json").exists()
