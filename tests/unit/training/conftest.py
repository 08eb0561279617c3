"""A small task that training can learn, and short runs on it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lightweight_decoder.bank import PhraseBank
from lightweight_decoder.datatypes import NO_ID
from lightweight_decoder.decoder.phrase_bank_decoder import PhraseBankDecoder
from lightweight_decoder.decoder.splits import Split
from lightweight_decoder.rerank import ListwiseReranker, QueryAdapter
from lightweight_decoder.training.module import DecoderModule
from lightweight_decoder.training.run import build_trainer
from lightweight_decoder.training.sources.datamodule import DecoderDataModule

SIZES = {"train": 160, "val": 60, "calib": 60, "test": 60}
MAX_EPOCHS = 3
NEVER_ASKED_FOR = 20  # the bank's first phrases, for which no query asks


class TurnedVectors:
    """Queries are bank vectors turned by a matrix, with noise; every third one's own is hidden."""

    def __init__(self, bank, *, query_dim=16, without=None):
        self._sizes = {name: 0 if name == without else size for name, size in SIZES.items()}
        self._path = bank.path
        random = np.random.default_rng(0)
        self._turn = np.eye(16)[:, :query_dim] if query_dim < 16 else np.eye(16, query_dim)
        self._turn = self._turn + 0.4 * random.normal(size=self._turn.shape)

    def prepare(self):
        pass

    @property
    def bank(self):
        return PhraseBank.open(self._path)

    def split(self, name):
        bank, size = self.bank, self._sizes[name]
        random = np.random.default_rng(list(SIZES).index(name) + 1)
        asked = np.flatnonzero(bank.owners >= NEVER_ASKED_FOR)
        rows = random.choice(asked, size)
        noise = 0.15 * random.normal(size=(size, 16))
        targets = np.full((size, 2), NO_ID)
        targets[:, 0] = bank.owners[rows]
        own = np.full((size, 1), NO_ID)
        several = np.isin(bank.owners[rows], np.flatnonzero(np.bincount(bank.owners) > 1))
        own[several, 0] = rows[several]
        return Split(
            name=name,
            queries=((bank.vectors[rows] + noise) @ self._turn).astype(np.float32),
            targets=targets,
            own_vectors=own,
            texts=None,
        )


def make_decoder(bank, *, query_dim=16):
    torch.manual_seed(0)
    return PhraseBankDecoder(
        bank,
        adapter=QueryAdapter(query_dim=query_dim, bank_dim=16),
        reranker=ListwiseReranker(
            query_dim=query_dim,
            bank_dim=16,
            num_phrases=bank.num_phrases,
            num_candidates=24,
            rank_dim=8,
            hidden_dim=12,
        ),
    )


class Run:
    """A trainer, its module and its data, made the same way every time."""

    def __init__(self, folder, bank, *, query_dim=16, without=None, trackers=(), seed=0, **trainer):
        self.folder = folder
        self.decoder = make_decoder(bank, query_dim=query_dim)
        self.module = DecoderModule(
            decoder=self.decoder, lr=5e-3, num_negatives=64, num_mined=120, seed=seed
        )
        self.data = DecoderDataModule(
            TurnedVectors(bank, query_dim=query_dim, without=without), batch_size=32, seed=seed
        )
        usual = {
            "accelerator": "cpu",
            "devices": 1,
            "max_epochs": MAX_EPOCHS,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "log_every_n_steps": 1,
        }
        self.trainer = build_trainer(folder, trackers=trackers, **usual | trainer)

    @property
    def best(self):
        return self.folder / "checkpoints" / "best.ckpt"

    @property
    def last(self):
        return self.folder / "checkpoints" / "last.ckpt"


@pytest.fixture(scope="session")
def make_run(tiny_bank):
    def make_run(folder, bank=tiny_bank, **options):
        return Run(folder, bank, **options)

    return make_run
