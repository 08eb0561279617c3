from __future__ import annotations

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
