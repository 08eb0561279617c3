from __future__ import annotations

import inspect
import os
import shutil
import subprocess
import sys
import textwrap
from typing import ForwardRef

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from pydantic import TypeAdapter, ValidationError

from lightweight_decoder.datatypes import NO_ID
from lightweight_decoder.decoder.calibration import Calibration
from lightweight_decoder.decoder.phrase_bank_decoder import PhraseBankDecoder
from lightweight_decoder.errors import CheckpointError
from lightweight_decoder.rerank import is_right
from lightweight_decoder.training.mining import CandidateMiner
from lightweight_decoder.training.module import DecoderModule
from lightweight_decoder.training.run import fit_and_test
from lightweight_decoder.training.sources.datamodule import Batch
from lightweight_decoder.training.tracking import open_trackers

pytestmark = [
    pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
]


@pytest.fixture(scope="module")
def trained(make_run, tmp_path_factory):
    """An uninterrupted run of three epochs, and its test metrics."""
    run = make_run(tmp_path_factory.mktemp("runs") / "whole")
    run.metrics = fit_and_test(run.trainer, run.module, run.data)
    return run


def whole_split(split):
    return Batch(
        torch.from_numpy(split.queries),
        torch.from_numpy(split.targets),
        torch.from_numpy(split.own_vectors),
        torch.arange(len(split)),
    )


@pytest.fixture
def mining(make_run, tmp_path):
    """A module that has mined, and all its training queries as one batch."""
    run = make_run(tmp_path)
    split = run.data.split("train")
    miner = CandidateMiner(
        run.decoder, split, num_listed=24, num_mined=120, device=torch.device("cpu")
    )
    miner.mine(seed=3)
    run.module._miner = miner
    run.module.eval()
    return run, miner, whole_split(split)


def test_mined_candidates_are_those_of_the_search_without_own_vectors(mining):
    run, miner, batch = mining
    adapted = run.decoder.adapt(batch.queries).detach()
    rows, found = miner.candidates(batch, adapted)
    assert len(rows) == 120
    assert not is_right(found.vector_ids, batch.own_vectors[rows]).any()
    assert (batch.own_vectors[rows] != NO_ID).any()
    expected = run.decoder.search.search(adapted[rows], 24, exclude_vectors=batch.own_vectors[rows])
    assert torch.equal(found.phrase_ids, expected.phrase_ids)
    torch.testing.assert_close(found.values, expected.values)


def test_the_adapter_is_compared_with_phrases_that_are_asked_for(mining):
    run, miner, batch = mining
    vector_ids = miner.shared_negatives(batch, 64, 4)
    phrases = miner.owners(vector_ids)
    asked = batch.targets.unique()
    assert torch.isin(phrases, asked).all()
    assert len(vector_ids.unique()) == len(vector_ids)
    owned = run.decoder.bank.vector_ids_of(asked[asked != NO_ID].numpy())
    assert torch.isin(torch.from_numpy(owned[owned != NO_ID]), vector_ids).all()


def listened_losses(module, batch, monkeypatch):
    """The arguments of every listwise loss of one training step."""
    seen = []
    from lightweight_decoder.rerank import listwise_loss

    def listen(logits, right, counts):
        seen.append((logits.detach(), right, counts))
        return listwise_loss(logits, right, counts)

    monkeypatch.setattr("lightweight_decoder.training.module.listwise_loss", listen)
    monkeypatch.setattr(module, "log", lambda *_, **__: None)
    module.training_step(batch)
    return seen


def test_what_counts_as_a_negative(mining, monkeypatch):
    run, miner, batch = mining
    torch.manual_seed(0)
    vector_ids = miner.shared_negatives(batch, 1024, 4)
    torch.manual_seed(0)
    adapter, reranker = listened_losses(run.module, batch, monkeypatch)
    asked = batch.targets.unique()

    logits, right, counts = adapter
    owners = miner.owners(torch.arange(run.decoder.bank.num_vectors))
    shared = torch.isin(owners, asked).nonzero().squeeze(1)
    assert torch.isin(vector_ids, shared).all()
    assert (right.sum(dim=1) >= 1).all()
    hidden = logits == -torch.inf
    assert hidden.sum() == (batch.own_vectors != NO_ID).sum()
    assert counts.all()

    rows, found = miner.candidates(batch, run.decoder.adapt(batch.queries).detach())
    logits, right, counts = reranker
    assert torch.equal(right, is_right(found.phrase_ids, batch.targets[rows]))
    never = ~torch.isin(found.phrase_ids, asked)
    assert never.any()
    assert not (counts & never).any()
    assert (counts | never).all()


def test_only_phrases_that_are_asked_for_count(mining):
    run, miner, batch = mining
    _, found = miner.candidates(batch, run.decoder.adapt(batch.queries).detach())
    counted = miner.is_asked_for(found.phrase_ids)
    assert torch.equal(counted, torch.isin(found.phrase_ids, batch.targets.unique()))
    assert not miner.is_asked_for(torch.tensor([NO_ID])).any()


def test_mining_follows_from_its_seed(mining):
    _, miner, _ = mining
    before = miner._vector_ids.clone(), miner._place.clone()
    miner.mine(seed=4)
    assert not torch.equal(miner._place, before[1])
    miner.mine(seed=3)
    assert torch.equal(miner._vector_ids, before[0])
    assert torch.equal(miner._place, before[1])


def test_training_helps(trained):
    metrics = trained.metrics
    assert metrics["test/decoder/num_queries"] == 60
    assert metrics["test/decoder/mrr"] > metrics["test/baseline/mrr"] + 0.02
    for parameter in trained.module.parameters():
        assert torch.isfinite(parameter).all()


def test_the_baseline_is_plain_search(trained):
    batch = whole_split(trained.data.split("test"))
    ranks = (
        PhraseBankDecoder(trained.decoder.bank)
        .ranks(batch.queries, batch.targets, exclude_vectors=batch.own_vectors)[:, 0]
        .numpy()
    )
    expected = np.where(ranks > 0, 1 / np.maximum(ranks, 1), 0).mean()
    assert trained.metrics["test/baseline/mrr"] == pytest.approx(expected, rel=1e-5)


def test_the_same_seed_gives_the_same_run(trained, make_run, tmp_path):
    again = make_run(tmp_path)
    assert fit_and_test(again.trainer, again.module, again.data) == trained.metrics
    for one, other in zip(again.module.parameters(), trained.module.parameters(), strict=True):
        assert torch.equal(one, other)


class Interrupt(Callback):
    """Stops a run, the hard way, as its second epoch begins."""

    def on_train_epoch_start(self, trainer, pl_module):  # noqa: ARG002 - Lightning's
        if trainer.current_epoch == 1:
            raise InterruptedError


@pytest.mark.parametrize("query_dim", [16, 12])
def test_a_resumed_run_ends_like_an_uninterrupted_one(make_run, tmp_path, query_dim):
    whole = make_run(tmp_path / "whole", query_dim=query_dim)
    expected = fit_and_test(whole.trainer, whole.module, whole.data)
    first = make_run(tmp_path / "cut", query_dim=query_dim)
    first.trainer.callbacks.append(Interrupt())
    with pytest.raises(InterruptedError):
        first.trainer.fit(first.module, first.data)
    second = make_run(tmp_path / "cut", query_dim=query_dim)
    found = fit_and_test(second.trainer, second.module, second.data, ckpt_path=first.last)
    assert second.trainer.current_epoch == whole.trainer.current_epoch
    assert found == expected
    for one, other in zip(second.module.parameters(), whole.module.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_checkpoint_gives_the_decoder_that_was_trained(trained):
    torch.load(trained.best, weights_only=True)
    queries = trained.data.split("test").queries
    expected = trained.decoder.decode(queries)
    answer = PhraseBankDecoder.from_checkpoint(trained.best).decode(queries)
    np.testing.assert_array_equal(answer.phrase_ids, expected.phrase_ids)
    np.testing.assert_allclose(answer.values, expected.values, rtol=1e-6)
    np.testing.assert_allclose(answer.confidence, expected.confidence, rtol=1e-6)
    assert answer.texts == expected.texts
    assert 0 < expected.confidence.min() < expected.confidence.max() < 1


def test_only_the_best_and_the_last_checkpoint_stay(trained):
    names = sorted(path.name for path in trained.best.parent.iterdir())
    assert names == ["best.ckpt", "last.ckpt"]


def test_a_moved_bank_has_to_be_named(trained, make_run, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(trained.decoder.bank.path, moved)
    checkpoint = torch.load(trained.best, weights_only=True)
    checkpoint["decoder"]["bank"]["path"] = str(tmp_path / "gone")
    torch.save(checkpoint, tmp_path / "some.ckpt")
    with pytest.raises(CheckpointError, match=r"has moved: .*gone.*Name the bank's new place"):
        PhraseBankDecoder.from_checkpoint(tmp_path / "some.ckpt")
    decoder = PhraseBankDecoder.from_checkpoint(tmp_path / "some.ckpt", bank=moved)
    queries = trained.data.split("test").queries
    expected = trained.decoder.decode(queries).phrase_ids
    np.testing.assert_array_equal(decoder.decode(queries).phrase_ids, expected)


def test_another_bank_is_refused(trained, single_bank):
    with pytest.raises(CheckpointError, match="was trained with another bank: expected a bank"):
        PhraseBankDecoder.from_checkpoint(trained.best, bank=single_bank.path)


@pytest.mark.parametrize("place", [100, 0.5, 0.98])
def test_a_damaged_checkpoint_is_refused(trained, tmp_path, place):
    content = trained.best.read_bytes()
    cut = place if place > 1 else int(place * len(content))
    (tmp_path / "cut.ckpt").write_bytes(content[:cut])
    with pytest.raises(CheckpointError, match=r"cut\.ckpt: cannot be read: expected a checkpoint"):
        PhraseBankDecoder.from_checkpoint(tmp_path / "cut.ckpt")


@pytest.mark.parametrize("version", [0, 99, None])
def test_another_version_is_refused(trained, tmp_path, version):
    checkpoint = torch.load(trained.best, weights_only=True)
    checkpoint["decoder"]["version"] = version
    torch.save(checkpoint, tmp_path / "some.ckpt")
    with pytest.raises(CheckpointError, match=r"another version: expected 2.*Train again"):
        PhraseBankDecoder.from_checkpoint(tmp_path / "some.ckpt")


def drop_weight(checkpoint):
    del checkpoint["state_dict"]["adapter.residual.bias"]


def drop_bank(checkpoint):
    del checkpoint["decoder"]["bank"]


def change_shape(checkpoint):
    checkpoint["decoder"]["reranker"]["hidden_dim"] = 13


def unknown_option(checkpoint):
    checkpoint["decoder"]["adapter"]["depth"] = 2


def drop_weights(checkpoint):
    del checkpoint["state_dict"]


@pytest.mark.parametrize(
    "damage", [drop_weight, drop_bank, change_shape, unknown_option, drop_weights]
)
def test_a_checkpoint_whose_parts_do_not_fit_is_refused(trained, tmp_path, damage):
    checkpoint = torch.load(trained.best, weights_only=True)
    damage(checkpoint)
    torch.save(checkpoint, tmp_path / "some.ckpt")
    with pytest.raises(CheckpointError, match=r"some\.ckpt, key .*: its parts do not fit together"):
        PhraseBankDecoder.from_checkpoint(tmp_path / "some.ckpt")


def test_calibration_hides_own_vectors(trained):
    split = trained.data.split("calib")
    batch = whole_split(split)
    decoder = PhraseBankDecoder.from_checkpoint(trained.best)

    def fitted(hidden):
        found = decoder.candidates(batch.queries, 32, exclude_vectors=hidden)
        similarity = decoder.similarities(batch.queries, found, exclude_vectors=hidden)
        first = found.phrase_ids[:, 0].tolist()
        right = np.array([p in row for p, row in zip(first, split.targets.tolist(), strict=True)])
        return Calibration.fit(found.values.numpy(), right, similarity=similarity.numpy())

    expected, careless = fitted(batch.own_vectors), fitted(None)
    assert decoder.calibration.weights == pytest.approx(expected.weights)
    points, wanted = decoder.calibration.operating_points, expected.operating_points
    assert points.thresholds == pytest.approx(wanted.thresholds)  # sums differ in their last bits
    assert (points.precisions, points.coverages) == (wanted.precisions, wanted.coverages)
    assert decoder.calibration.weights != pytest.approx(careless.weights)


@pytest.mark.parametrize(
    ("name", "bad", "good"),
    [
        ("lr", [0, -1, float("nan"), float("inf")], 1e-9),
        ("weight_decay", [-0.1, float("nan")], 0),
        ("num_negatives", [0], 1),
        ("num_hard_negatives", [-1], 0),
        ("num_listed", [0], 1),
        ("num_mined", [0], 1),
    ],
)
def test_the_signature_says_which_numbers_there_are(name, bad, good):
    annotation = inspect.signature(DecoderModule).parameters[name].annotation
    numbers = TypeAdapter(ForwardRef(annotation, module=DecoderModule.__module__))
    assert numbers.validate_python(good) == good
    for value in bad:
        with pytest.raises(ValidationError):
            numbers.validate_python(value)


def test_metrics_are_written_as_csv(make_run, tmp_path):
    with open_trackers(tmp_path, None) as trackers:
        run = make_run(tmp_path, max_epochs=1, trackers=trackers)
        fit_and_test(run.trainer, run.module, run.data)
    header = (tmp_path / "csv" / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {"train/loss", "val/decoder/mrr", "test/baseline/mrr", "test/decoder/mrr"} <= set(header)


def test_wandb_without_a_login_asks_nothing_and_writes_a_run(tmp_path):
    code = """
    import sys
    from pathlib import Path
    from lightweight_decoder.training.tracking import open_wandb
    with open_wandb(Path(sys.argv[1]), name="a run") as tracker:
        tracker.log_metrics({"val/decoder/mrr": 0.5})
    """
    kept = {k: v for k, v in os.environ.items() if not k.startswith("WANDB")}
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)],
        env=kept | {"HOME": str(tmp_path), "NETRC": str(tmp_path / "netrc")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert "Enter your choice" not in run.stdout + run.stderr
    (folder,) = (tmp_path / "wandb").glob("offline-run-*")
    assert list(folder.glob("*.wandb"))
