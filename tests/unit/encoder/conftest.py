from __future__ import annotations

import json
import logging
import shutil
from hashlib import blake2b

import numpy as np
import pytest
import torch

from lightweight_decoder.encoder import TextEncoder

DIM = 8


class FakeModel:
    """Stands in for a loaded model: a vector follows from its text, calls are noted."""

    max_seq_length = 512

    def __init__(self):
        self.batches = []
        self.dtypes = []
        self.fail_after = None
        self.not_finite = None

    @staticmethod
    def vector(text):
        seed = int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")
        return np.random.default_rng(seed).standard_normal(DIM).astype(np.float32)

    @staticmethod
    def tokenizer(texts, **_):
        return {"input_ids": [list(range(2 + text.count(" "))) for text in texts]}

    def encode(self, texts, **_):
        if self.fail_after is not None and len(self.encoded) >= self.fail_after:
            raise KeyboardInterrupt
        self.batches.append(list(texts))
        self.dtypes.append((torch.ones(1, 1) @ torch.ones(1, 1)).dtype)
        vectors = np.stack([self.vector(text) for text in texts])
        if self.not_finite in texts:
            vectors[texts.index(self.not_finite), 3] = np.nan
        return vectors

    @property
    def encoded(self):
        return [text for batch in self.batches for text in batch]


@pytest.fixture(autouse=True)
def _only_warnings(caplog):
    """What is said is compared as a whole; tests before these may have left another level."""
    caplog.set_level(logging.WARNING)


@pytest.fixture
def model_folder(tmp_path):
    folder = tmp_path / "tiny-model"
    (folder / "1_Pooling").mkdir(parents=True)
    (folder / "config.json").write_text('{"hidden_size": 8}')
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    (folder / "model.safetensors").write_bytes(bytes(range(256)))
    (folder / "README.md").write_text("about")
    return folder


@pytest.fixture
def make_encoder(model_folder, tmp_path):
    """Build encoders over the tiny folder; their model is fake, and counts what it encodes."""

    def make(**changes):
        arguments = {"cache_dir": tmp_path / "cache", "show_progress": False, **changes}
        encoder = TextEncoder(model=str(model_folder), **arguments)
        encoder.__dict__["_model"] = FakeModel()  # where the cached property would put it
        return encoder

    return make


@pytest.fixture(scope="session")
def trained_folder(tmp_path_factory):
    """A sentence-transformers model of random weights: 32 wide, 24 tokens, MiniLM's tokenizer."""
    return make_model(tmp_path_factory.mktemp("models") / "tiny", seed=0)


def make_model(folder, *, seed):
    """Save a tiny BERT with pooling as sentence-transformers does."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling
    from transformers import AutoTokenizer, BertConfig, BertModel

    torch.manual_seed(seed)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    bert = BertModel(BertConfig(**sizes, intermediate_size=48, max_position_embeddings=64))
    parts = folder.with_name(f"{folder.name}-parts")
    bert.save_pretrained(parts)
    AutoTokenizer.from_pretrained(TextEncoder().folder).save_pretrained(parts)
    transformer = Transformer(str(parts), max_seq_length=24)
    SentenceTransformer(modules=[transformer, Pooling(32)], device="cpu").save(str(folder))
    return folder


@pytest.fixture
def model_copy(trained_folder, tmp_path):
    """Copy the tiny model, with changes to its config_sentence_transformers.json."""

    def copy(name="copy", **config):
        folder = tmp_path / name
        shutil.copytree(trained_folder, folder)
        path = folder / "config_sentence_transformers.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | config))
        return folder

    return copy


@pytest.fixture
def loaded():
    """Load a folder with sentence-transformers itself."""

    def load(folder, **options):
        from sentence_transformers import SentenceTransformer

        return SentenceTransformer(str(folder), device="cpu", local_files_only=True, **options)

    return load
