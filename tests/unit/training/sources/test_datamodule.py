from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import LambdaCallback

from lightweight_decoder.bank import BankRows, PhraseBank, write_bank
from lightweight_decoder.decoder.phrase_bank_decoder import PhraseBankDecoder
from lightweight_decoder.decoder.splits import SPLIT_NAMES, Split, no_own_vectors, pad_ids
from lightweight_decoder.errors import ConfigError
from lightweight_decoder.rerank import QueryAdapter
from lightweight_decoder.training.module import DecoderModule
from lightweight_decoder.training.run import build_trainer, fit_and_test
from lightweight_decoder.training.sources.datamodule import DecoderDataModule
from lightweight_decoder.training.sources.denoise import Denoise
from lightweight_decoder.training.sources.labelled_text import LabelledText
from lightweight_decoder.training.sources.pairs import Pairs
from lightweight_decoder.training.sources.reverse_dictionary import ReverseDictionary


def built(folder, rows, **options):
    write_bank(folder, rows, **options)
    return PhraseBank.open(folder)


SIZES = {"train": 23, "val": 7, "calib": 6, "test": 5}


class NumberedSource:
    """Query i of a split is the vector (i, i); its target is phrase i."""

    def __init__(self):
        self.num_prepared = 0

    def prepare(self):
        self.num_prepared += 1

    def split(self, name):
        numbers = np.arange(SIZES[name])
        return Split(
            name=name,
            queries=np.stack([numbers, numbers], axis=1).astype(np.float32),
            targets=numbers[:, None],
            own_vectors=pad_ids([[int(i), int(i) + 1][: 1 + i % 2] for i in numbers]),
            texts=None,
        )


class Recorder(LightningModule):
    """Learns nothing, and writes down which queries each epoch brings, in their order."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.orders = {}

    def training_step(self, batch):
        self.orders.setdefault(self.current_epoch, []).extend(batch.query_ids.tolist())
        return self.weight + 0 * batch.queries.sum()

    def validation_step(self, batch):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(epochs, folder, ckpt_path=None, seed=0):
    def save(trainer, _):
        trainer.save_checkpoint(folder / "last.ckpt")

    module = Recorder()
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        callbacks=[LambdaCallback(on_train_epoch_end=save)],
    )
    data = DecoderDataModule(NumberedSource(), batch_size=4, seed=seed)
    trainer.fit(module, datamodule=data, ckpt_path=ckpt_path)
    return module.orders


@pytest.fixture
def data():
    return DecoderDataModule(NumberedSource(), batch_size=4, eval_batch_size=3)


@pytest.mark.parametrize("num_workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_batch_is_rows_of_the_split(num_workers):
    data = DecoderDataModule(NumberedSource(), batch_size=4, num_workers=num_workers)
    split, seen = data.split("train"), []
    for batch in data.train_dataloader():
        rows = batch.query_ids.numpy()
        np.testing.assert_array_equal(batch.queries.numpy(), split.queries[rows])
        np.testing.assert_array_equal(batch.targets.numpy(), split.targets[rows])
        np.testing.assert_array_equal(batch.own_vectors.numpy(), split.own_vectors[rows])
        seen.append(rows)
    assert [len(rows) for rows in seen] == [4, 4, 4, 4, 4, 3]
    assert sorted(np.concatenate(seen).tolist()) == list(range(23))


def test_only_training_queries_are_shuffled(data):
    for name, loader in {
        "val": data.val_dataloader(),
        "test": data.test_dataloader(),
    }.items():
        ids = torch.cat([batch.query_ids for batch in loader])
        assert ids.tolist() == list(range(SIZES[name]))
    ids = torch.cat([batch.query_ids for batch in data.train_dataloader()])
    assert ids.tolist() != list(range(23))


@pytest.fixture
def uninterrupted(tmp_path):
    return fit(4, tmp_path / "uninterrupted")


def test_each_epoch_has_an_order_of_its_own(uninterrupted):
    assert [sorted(order) for order in uninterrupted.values()] == [list(range(23))] * 4
    assert len({tuple(order) for order in uninterrupted.values()}) == 4


def test_a_resumed_run_sees_the_order_of_an_uninterrupted_one(uninterrupted, tmp_path):
    fit(2, tmp_path / "stopped")
    resumed = fit(4, tmp_path / "stopped", ckpt_path=tmp_path / "stopped" / "last.ckpt")
    assert resumed == {epoch: uninterrupted[epoch] for epoch in (2, 3)}


def test_the_order_follows_from_the_seed(uninterrupted, tmp_path):
    assert fit(1, tmp_path / "again")[0] == uninterrupted[0]
    assert fit(1, tmp_path / "other", seed=1)[0] != uninterrupted[0]


def test_a_source_is_prepared_once(data):
    data.prepare_data()
    data.prepare_data()
    assert data.source.num_prepared == 1


@pytest.fixture
def opened(monkeypatch):
    """Paths of the banks that were opened, one entry each time."""
    paths, plain_open = [], PhraseBank.open

    def counting(path):
        paths.append(str(path))
        return plain_open(path)

    monkeypatch.setattr(PhraseBank, "open", counting)
    return paths


@pytest.fixture
def vector_bank(tmp_path):
    vectors = np.random.default_rng(0).standard_normal((50, 16)).astype(np.float32)
    rows = BankRows([f"phrase {i}" for i in range(50)], vectors)
    return built(tmp_path / "vectors", [rows]).path


@pytest.fixture
def make_source(encoder, wordnet_folder, vector_bank, tmp_path):
    def make(kind):
        encoded = {"encoder": encoder, "bank_root": tmp_path / "banks"}
        if kind == "labelled_text":
            rows = [f"text {i} {i % 3}.,label_{i % 3}" for i in range(60)]
            (tmp_path / "train.csv").write_text("\n".join(["text,label", *rows, rows[0]]) + "\n")
            return LabelledText(train=tmp_path / "train.csv", num_out_of_bank=1, **encoded)
        if kind == "reverse_dictionary":
            sizes = {"num_test": 1, "num_val": 1, "num_calib": 1}
            return ReverseDictionary(
                wordnet=wordnet_folder, size="full", bank_definitions=True, **sizes, **encoded
            )
        if kind == "denoise":
            return Denoise(bank=vector_bank, num_train=60, num_val=20, num_calib=20, num_test=20)
        queries = np.random.default_rng(1).standard_normal((40, 16)).astype(np.float32)
        np.save(tmp_path / "q.npy", queries)
        lines = [f"phrase {i}\n" for i in range(40)]
        (tmp_path / "t.txt").write_text("".join(lines))
        return Pairs(queries=tmp_path / "q.npy", targets=tmp_path / "t.txt", bank=vector_bank)

    return make


def query_texts(source):
    """Texts that some split asks with."""
    splits = [source.split(name) for name in SPLIT_NAMES]
    splits += [split.out_of_bank for split in splits if split.out_of_bank is not None]
    return {text for split in splits for text in split.texts or ()}


KINDS = ["labelled_text", "reverse_dictionary", "denoise", "pairs"]


@pytest.mark.parametrize("kind", KINDS)
def test_each_text_is_encoded_once_and_the_bank_opened_once(make_source, encoder, opened, kind):
    source = make_source(kind)
    source.prepare()
    splits = [source.split(name) for name in SPLIT_NAMES]

    assert len(opened) == 1
    assert source.bank is source.bank
    assert len(encoder.encoded) == len(set(encoder.encoded))
    for split in splits:
        for text, query in zip(split.texts or (), split.queries, strict=False):
            assert text in encoder.encoded
            np.testing.assert_array_equal(query, encoder.vector(text))


@pytest.mark.parametrize("kind", KINDS)
def test_what_one_process_prepared_another_opens(make_source, encoder, kind):
    first = make_source(kind)
    first.prepare()
    encoder.encoded.clear()
    second = make_source(kind)  # as in a process that Lightning starts for another device

    for name in SPLIT_NAMES:
        one, other = first.split(name), second.split(name)
        np.testing.assert_array_equal(one.queries, other.queries)
        np.testing.assert_array_equal(one.targets, other.targets)
        np.testing.assert_array_equal(one.own_vectors, other.own_vectors)
    assert first.bank.fingerprint == second.bank.fingerprint
    texts = {text for name in SPLIT_NAMES for text in first.split(name).texts or ()}
    assert set(encoder.encoded) <= texts | set(
        getattr(first.split("test").out_of_bank, "texts", ())
    )


def test_a_whole_run_does_each_slow_thing_once(make_source, encoder, opened, tmp_path):
    data = DecoderDataModule(make_source("labelled_text"), batch_size=8)
    data.prepare_data()  # as a command does, before it knows the widths of the decoder
    decoder = PhraseBankDecoder(data.bank, adapter=QueryAdapter(query_dim=16, bank_dim=16))
    trainer = build_trainer(
        tmp_path / "run",
        trackers=(),
        accelerator="cpu",
        max_epochs=2,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
    )

    metrics = fit_and_test(trainer, DecoderModule(decoder=decoder), data)

    assert metrics["test/decoder/num_queries"] > 0
    assert len(opened) == 1
    assert len(encoder.encoded) == len(set(encoder.encoded))
    assert set(encoder.encoded) == query_texts(data.source) | {"label 0", "label 1"}


@pytest.mark.parametrize(
    ("name", "least"), [("batch_size", 1), ("eval_batch_size", 1), ("num_workers", 0)]
)
def test_a_number_below_the_least_is_refused(name, least):
    with pytest.raises(ConfigError, match=rf"batches\.{name}: .*at least {least}, found"):
        DecoderDataModule(NumberedSource(), **{name: least - 1})


def test_ids_are_padded_to_the_widest_row():
    assert pad_ids([[1, 2], [], [3]]).tolist() == [[1, 2], [-1, -1], [3, -1]]
    assert pad_ids([]).shape == (0, 0)
    assert no_own_vectors(3).shape == (3, 0)


def test_importing_the_sources_loads_no_lightning():
    code = (
        "import sys, lightweight_decoder, lightweight_decoder.training.sources, "
        "lightweight_decoder.training.sources.reverse_dictionary, "
        "lightweight_decoder.training.sources.labelled_text, "
        "lightweight_decoder.training.sources.pairs, lightweight_decoder.training.sources.denoise;"
        "print(*{'lightning', 'hydra', 'transformers'}.intersection(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
