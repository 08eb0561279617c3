"""`scripts/evaluate.py`, on a run small enough for a test."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from lightweight_decoder.bank import PhraseBank
from lightweight_decoder.errors import (
    BankError,
    CheckpointError,
    ConfigError,
    InputDataError,
    RegressionError,
)
from lightweight_decoder.evaluation.predictions import read_predictions


@pytest.fixture
def evaluate(command):
    """The command in this process."""
    return lambda *overrides: command("evaluate", *overrides)


@pytest.fixture
def run_dir(trained, tmp_path):
    """A copy of the run, to be evaluated or spoiled."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def test_a_run_is_evaluated_as_training_tested_it(run_dir, evaluate):
    trained = json.loads((run_dir / "metrics.json").read_text())
    evaluate(f"run_dir={run_dir}")

    metrics = json.loads((run_dir / "metrics.json").read_text())
    assert {name: metrics[name] for name in trained} == pytest.approx(trained)
    for name in ("recall@5", "map@25", "ndcg@10", "chrf", "ece", "aurc", "latency_p99_ms"):
        assert f"test/decoder/{name}" in metrics
    for name in ("recall@1/low", "latency_p50_ms", "queries_per_s"):
        assert f"test/baseline/{name}" in metrics
    predictions = read_predictions(run_dir / "predictions.parquet")
    assert len(predictions) == 64
    assert np.mean(predictions["rank"].to_numpy() == 1) == metrics["test/decoder/recall@1"]
    assert set(predictions["frequency"].to_pylist()) <= set(range(60))
    page = (run_dir / "report.html").read_text()
    assert "peak memory" in page
    assert "<svg" in page


def test_wandb_says_what_metrics_json_says(work, trained, tmp_path, read_offline_run, run):
    metrics = json.loads((trained / "metrics.json").read_text())
    recorded = read_offline_run(trained)
    assert {name: recorded.summary[name] for name in metrics} == metrics
    assert sorted(artifact.type for artifact in recorded.artifacts.values()) == ["bank", "model"]

    status, output = run(
        work,
        "scripts/evaluate.py",
        f"run_dir={trained}",
        f"output={tmp_path}",
        "logger=wandb",
        "trainer.accelerator=cpu",
    )

    assert status == 0, output
    assert "wandb sync" in output
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    evaluated = read_offline_run(tmp_path)
    assert {name: evaluated.summary[name] for name in metrics} == metrics
    assert evaluated.exit_code == 0
    (table,) = (evaluated.files / "media" / "table").glob("examples*.json")
    rows = json.loads(table.read_text())["data"]
    predictions = read_predictions(tmp_path / "predictions.parquet")
    assert [row[3] for row in rows] == predictions["rank"].to_pylist()
    assert len(list((evaluated.files / "media" / "images").rglob("*.png"))) == 5
    assert b"accelerator_plan" in evaluated.content


def test_artifacts_say_what_they_are_based_on(work, trained, read_offline_run):
    artifacts = read_offline_run(trained).artifacts
    (bank,) = (name for name in artifacts if name.startswith("bank-"))
    (checkpoint,) = (name for name in artifacts if name.startswith("checkpoint-"))

    assert json.loads(artifacts[checkpoint].metadata)["bank"] == bank
    files = {entry.path: entry for entry in artifacts[bank].manifest.contents}
    assert files["files/vectors.npy"].ref == (work / "bank" / "vectors.npy").as_uri()
    assert not files["files/vectors.npy"].local_path  # a reference, not a copy


def test_a_failing_evaluation_closes_its_wandb_run_as_failed(
    run_dir, work, tmp_path, read_offline_run, run
):
    checkpoint = torch.load(run_dir / "checkpoints" / "best.ckpt", weights_only=True)
    del checkpoint["state_dict"]["adapter.residual.bias"]
    torch.save(checkpoint, run_dir / "checkpoints" / "best.ckpt")
    status, output = run(
        work,
        "scripts/evaluate.py",
        f"run_dir={run_dir}",
        f"output={tmp_path}/out",
        "logger=wandb",
        "trainer.accelerator=cpu",
    )

    assert status == 1
    assert "its parts do not fit together" in output
    assert "Traceback" not in output
    assert read_offline_run(tmp_path / "out").exit_code == 1
    assert not (tmp_path / "out" / "metrics.json").exists()


def test_the_gate_fails_with_what_fell_and_the_record_is_kept(run_dir, tmp_path, evaluate):
    evaluate(f"run_dir={run_dir}")
    (tmp_path / "earlier").mkdir()
    for name in ("metrics.json", "predictions.parquet"):
        shutil.copy(run_dir / name, tmp_path / "earlier" / name)
    against = tmp_path / "earlier" / "metrics.json"
    metrics = json.loads(against.read_text())
    metrics["test/decoder/mrr"] += 0.2
    against.write_text(json.dumps(metrics))

    # the predictions are the same, so p is 1
    told = r"(?s)1 of 20 metrics fell by more than 0\.05.*test/decoder/mrr fell.*p = 1\.000"
    with pytest.raises(RegressionError, match=told):
        evaluate(
            f"run_dir={run_dir}", f"output={tmp_path}/now", f"against={against}", "tolerance=0.05"
        )
    assert (tmp_path / "now" / "report.html").is_file()


def test_the_gate_holds(run_dir, caplog, evaluate):
    evaluate(f"run_dir={run_dir}")
    with caplog.at_level("INFO"):
        evaluate(f"run_dir={run_dir}", f"against={run_dir}/metrics.json", "tolerance=0")

    assert "metrics fell by more than" in caplog.text


def test_a_moved_bank_is_found_where_it_is_said_to_be(run_dir, work, tmp_path, evaluate):
    checkpoint = torch.load(run_dir / "checkpoints" / "best.ckpt", weights_only=True)
    checkpoint["decoder"]["bank"]["path"] = "/no/such/bank"
    torch.save(checkpoint, run_dir / "checkpoints" / "best.ckpt")

    with pytest.raises(CheckpointError, match=r"bank .* has moved.*bank=DIR"):
        evaluate(f"run_dir={run_dir}")
    with pytest.raises(BankError, match="/no/other"):
        evaluate(f"run_dir={run_dir}", "bank=/no/other")
    moved = shutil.copytree(work / "bank", tmp_path / "moved")
    evaluate(f"run_dir={run_dir}", f"bank={moved}", f"output={tmp_path}/out")
    assert (tmp_path / "out" / "metrics.json").is_file()


def test_another_bank_is_refused(run_dir, tmp_path, evaluate):
    vectors = np.random.default_rng(1).standard_normal((60, 16)).astype(np.float32)
    PhraseBank.build(tmp_path / "other", [f"phrase {i}" for i in range(60)], vectors)

    with pytest.raises(CheckpointError, match="another bank"):
        evaluate(f"run_dir={run_dir}", f"bank={tmp_path}/other")


def without_checkpoint(run_dir):
    (run_dir / "checkpoints" / "best.ckpt").unlink()


def of_another_version(run_dir):
    path = run_dir / "checkpoints" / "best.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["decoder"]["version"] = 99
    torch.save(checkpoint, path)


def without_config(run_dir):
    (run_dir / "config.yaml").unlink()


def with_a_broken_config(run_dir):
    (run_dir / "config.yaml").write_text("data: [")


def with_another_config(run_dir):
    (run_dir / "config.yaml").write_text("colors: [red]")


def with_a_strangers_config(run_dir):
    path = run_dir / "config.yaml"
    path.write_text(path.read_text().replace("seed: 0", "seed: ${oc.env:HOME}"))


def with_a_wrong_value(run_dir):
    path = run_dir / "config.yaml"
    path.write_text(path.read_text().replace("num_test: 64", "num_test: many"))


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (without_checkpoint, CheckpointError, r"run: the run has no checkpoint.*best\.ckpt"),
        (of_another_version, CheckpointError, "has another version: expected 2, found 99"),
        (without_config, ConfigError, r"not the folder of a run.*run_dir="),
        (with_a_broken_config, ConfigError, r"config\.yaml: cannot be read"),
        (
            with_a_strangers_config,
            ConfigError,
            r"config\.yaml, data\.seed: .* found an interpolation",
        ),
        (with_another_config, ConfigError, r"config\.yaml: is not the configuration of a run"),
        (with_a_wrong_value, ConfigError, r"data\.num_test: expected .*'many'"),
    ],
)
def test_a_folder_that_cannot_be_evaluated_is_left_as_it_is(
    run_dir, spoil, error, message, evaluate
):
    spoil(run_dir)
    before = {path: path.stat().st_mtime_ns for path in run_dir.rglob("*")}

    with pytest.raises(error, match=message):
        evaluate(f"run_dir={run_dir}")
    assert {path: path.stat().st_mtime_ns for path in run_dir.rglob("*")} == before


def test_an_against_file_that_cannot_be_compared(run_dir, tmp_path, evaluate):
    trained = tmp_path / "metrics.json"
    shutil.copy(run_dir / "metrics.json", trained)

    with pytest.raises(InputDataError, match=r"the two evaluations have other metrics"):
        evaluate(f"run_dir={run_dir}", f"against={trained}")
    trained.write_text("not json")
    with pytest.raises(InputDataError, match="the file holds no metrics"):
        evaluate(f"run_dir={run_dir}", f"against={trained}")
    with pytest.raises(ConfigError, match="tolerance"):
        evaluate(f"run_dir={run_dir}", "tolerance=-1")


def test_predictions_with_a_missing_target_are_refused(run_dir, tmp_path, evaluate):
    import pyarrow as pa
    import pyarrow.parquet as pq

    evaluate(f"run_dir={run_dir}")
    predictions = pq.read_table(run_dir / "predictions.parquet")
    targets = predictions["targets"].to_pylist()
    targets[5] = []
    place = predictions.schema.get_field_index("targets")
    spoiled = predictions.set_column(place, "targets", pa.array(targets))
    pq.write_table(spoiled, run_dir / "predictions.parquet")

    with pytest.raises(InputDataError, match="row 5: a query has no target"):
        evaluate(f"run_dir={run_dir}", f"against={run_dir}/metrics.json")


def test_a_fall_names_every_metric(run_dir, evaluate):
    evaluate(f"run_dir={run_dir}")
    metrics = json.loads((run_dir / "metrics.json").read_text())
    (run_dir / "predictions.parquet").unlink()
    better = {n: v + 0.3 if n.startswith("test/decoder/recall") else v for n, v in metrics.items()}
    (run_dir / "better.json").write_text(json.dumps(better))

    with pytest.raises(RegressionError, match=r"(?s)6 of 20 .*recall@1 fell.*recall@100 fell"):
        evaluate(f"run_dir={run_dir}", f"against={run_dir}/better.json")


def test_a_run_of_an_earlier_version_is_evaluated(run_dir, evaluate):
    trained = json.loads((run_dir / "metrics.json").read_text())
    path = run_dir / "config.yaml"
    moved = {"training.sources.denoise": "data.denoise", "encoder.text": "embeddings.text"}
    config = path.read_text()
    for now, earlier in moved.items():
        assert now in config
        config = config.replace(now, earlier)
    path.write_text(config)
    evaluate(f"run_dir={run_dir}")

    metrics = json.loads((run_dir / "metrics.json").read_text())
    assert {name: metrics[name] for name in trained} == pytest.approx(trained)
