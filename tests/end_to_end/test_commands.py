"""The commands as people type them, on data small enough for a test."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
NUM_PHRASES = 60
DIM = 16
FAST = [
    "trainer.accelerator=cpu",
    "trainer.max_epochs=2",
    "trainer.enable_progress_bar=false",
    "data.num_train=512",
    "data.num_val=64",
    "data.num_calib=64",
    "data.num_test=64",
    "data.noise=2",
]


@pytest.fixture(scope="module")
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


@pytest.fixture(scope="module")
def trained(work, run):
    """The folder of a finished run on the bank."""
    status, output = run(
        work,
        "train.py",
        "data=denoise",
        f"data.bank={work}/bank",
        f"hydra.run.dir={work}/run",
        *FAST,
    )
    assert status == 0, output
    assert "plain search" in output
    return work / "run"


def test_a_run_leaves_its_record(trained):
    metrics = json.loads((trained / "metrics.json").read_text())
    plan = json.loads((trained / "accelerator.json").read_text())

    for system in ("baseline", "decoder"):
        for name in ("recall@1", "recall@10", "recall@100", "mrr", "median_rank"):
            assert metrics[f"test/{system}/{name}"] >= 0
        assert metrics[f"test/{system}/num_queries"] == 64
    assert plan["accelerator"] == "cpu"
    checkpoint = torch.load(trained / "checkpoints" / "best.ckpt", weights_only=True)
    assert checkpoint["accelerator_plan"] == plan
    assert (trained / "config.yaml").is_file()
    assert (trained / "checkpoints" / "best.ckpt").is_file()
    assert (trained / "csv" / "metrics.csv").is_file()


def test_decoding_a_file_gives_what_numpy_finds(work, tmp_path, run):
    queries = np.random.default_rng(1).standard_normal((7, DIM)).astype(np.float32)
    np.save(tmp_path / "q.npy", queries)
    status, output = run(
        work,
        "scripts/decode.py",
        f"bank={work}/bank",
        f"input={tmp_path}/q.npy",
        f"output={tmp_path}/out.jsonl",
        "top_k=3",
        "trainer.accelerator=cpu",
    )

    assert status == 0, output
    bank = np.load(work / "vectors.npy")
    cosines = (queries / np.linalg.norm(queries, axis=1, keepdims=True)) @ (
        bank / np.linalg.norm(bank, axis=1, keepdims=True)
    ).T
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    for row, line in enumerate(lines):
        best = np.argsort(-cosines[row])[:3]
        assert line["query"] == row
        assert line["phrases"] == [f"phrase {i}" for i in best]
        np.testing.assert_allclose(line["values"], cosines[row][best], atol=1e-5)
        assert line["confidence"] is None


@pytest.mark.slow
def test_repeated_queries_are_answered_from_the_cache(work, tmp_path, run):
    vectors = np.load(work / "vectors.npy")
    np.save(tmp_path / "q.npy", vectors[[4, 9, 4, 4, 9, 1, 4, 9]])
    status, output = run(
        work,
        "scripts/decode.py",
        f"bank={work}/bank",
        f"input={tmp_path}/q.npy",
        f"output={tmp_path}/out.jsonl",
        "trainer.accelerator=cpu",
        "cached_queries=2",
    )
    assert status == 0, output
    assert "62.5% of the queries were answered from the cache" in output
    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    assert [json.loads(line)["text"] for line in lines] == [
        f"phrase {row}" for row in (4, 9, 4, 4, 9, 1, 4, 9)
    ]


def test_decoding_with_a_checkpoint(work, trained, tmp_path, run):
    status, output = run(
        work,
        "scripts/decode.py",
        f"checkpoint={trained}/checkpoints/best.ckpt",
        f"input={work}/vectors.npy",
        f"output={tmp_path}/out.jsonl",
        "trainer.accelerator=cpu",
    )

    assert status == 0, output
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    right = [line["text"] == f"phrase {row}" for row, line in enumerate(lines)]
    assert np.mean(right) > 0.9
    assert all(0 <= line["confidence"] <= 1 for line in lines)


def test_queries_of_another_width(work, tmp_path, run):
    bank = np.load(work / "vectors.npy")
    wide = bank.repeat(4, axis=0) @ np.random.default_rng(2).standard_normal((DIM, 24))
    np.save(tmp_path / "q.npy", wide.astype(np.float32))
    targets = [f"phrase {i}" for i in range(NUM_PHRASES) for _ in range(4)]
    (tmp_path / "t.txt").write_text("\n".join(targets) + "\n")
    status, output = run(
        work,
        "train.py",
        "data=pairs",
        f"data.queries={tmp_path}/q.npy",
        f"data.targets={tmp_path}/t.txt",
        f"data.bank={work}/bank",
        f"hydra.run.dir={tmp_path}/run",
        *FAST[:3],
    )

    assert status == 0, output
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["test/decoder/recall@10"] > 0.9  # a linear map undoes what was done
    assert "test/baseline/recall@1" not in metrics


@pytest.mark.slow
def test_a_sweep_gives_each_job_a_folder_and_a_finished_tracker_run(work, tmp_path, run):
    status, output = run(
        work,
        "train.py",
        "-m",
        "seed=0,1",
        "data=denoise",
        f"data.bank={work}/bank",
        f"hydra.sweep.dir={tmp_path}/sweep",
        "logger=wandb",
        *FAST,
    )

    assert status == 0, output
    assert output.count("wandb sync") == 2
    for job in ("0", "1"):
        assert (tmp_path / "sweep" / job / "metrics.json").is_file()
        assert len(list((tmp_path / "sweep" / job / "wandb").glob("offline-run-*/*.wandb"))) == 1


@pytest.mark.slow
def test_a_sentence_is_decoded_with_the_banks_own_encoder(tmp_path, run):
    rows = [
        f"{text} {i},{label}"
        for i in range(10)
        for text, label in (
            ("where is my card", "card_arrival"),
            ("the rate is wrong", "exchange_rate"),
        )
    ]
    (tmp_path / "train.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    status, output = run(
        tmp_path,
        "train.py",
        "data=labelled_text",
        f"data.train={tmp_path}/train.csv",
        f"data.bank_root={tmp_path}/banks",
        f"hydra.run.dir={tmp_path}/run",
        *FAST[:3],
    )
    assert status == 0, output
    status, output = run(
        tmp_path,
        "scripts/decode.py",
        f"checkpoint={tmp_path}/run/checkpoints/best.ckpt",
        "text=when will my card come",
        "trainer.accelerator=cpu",
    )

    assert status == 0, output
    assert output.index("card_arrival") < output.index("exchange_rate")


@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        ("scripts/decode.py", ["input=x", "output=y", "bank=/no/bank"]),
        ("train.py", ["data=denoise", "hydra.run.dir={}/run", "data.bank=/no/bank"]),
    ],
)
def test_bad_input_is_named_without_a_traceback(work, tmp_path, run, script, arguments):
    arguments = [argument.format(tmp_path) for argument in arguments]
    status, output = run(work, script, *arguments, "trainer.accelerator=cpu")

    assert status != 0
    assert "/no/bank" in output
    assert "Traceback" not in output


def test_a_query_of_the_wrong_width_is_named_and_leaves_nothing(work, tmp_path, run):
    np.save(tmp_path / "q.npy", np.ones((3, 5), dtype=np.float32))
    status, output = run(
        work,
        "scripts/decode.py",
        f"bank={work}/bank",
        f"input={tmp_path}/q.npy",
        f"output={tmp_path}/out.jsonl",
        "trainer.accelerator=cpu",
    )

    assert status != 0
    assert "expected (q, 16)" in output
    assert "Traceback" not in output
    assert [path.name for path in tmp_path.iterdir()] == ["q.npy"]
