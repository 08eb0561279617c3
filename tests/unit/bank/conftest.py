"""Small banks, and a way to alter them without the checksums giving it away."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from lightweight_decoder.bank import FileInfo, PhraseBank
from lightweight_decoder.bank.manifest import read_manifest, write_manifest

TEXTS = ["red", "green", "blue", "red", "deep  blue sea", "green", "red"]


@pytest.fixture
def texts():
    """Seven texts, four of them different."""
    return list(TEXTS)


@pytest.fixture
def vectors():
    """Seven vectors of different lengths."""
    return np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32) * 3


@pytest.fixture
def bank(tmp_path, texts, vectors):
    """A bank of four phrases and seven vectors, with metadata, in ``tmp_path / "bank"``."""
    metadata = {"frequency": [7, 6, 5, 4, 3, 2, 1], "source": list("abcdefg")}
    return PhraseBank.build(tmp_path / "bank", texts, vectors, metadata=metadata)


@pytest.fixture
def reseal():
    """Make a bank's manifest agree with its files again, as a careful forger would."""

    def reseal(folder, **changes) -> None:
        files = {}
        for name in ("vectors.npy", "owners.npy", "phrases.arrow"):
            content = (folder / name).read_bytes()
            files[name] = FileInfo(len(content), hashlib.sha256(content).hexdigest())
        write_manifest(folder, replace(read_manifest(folder), files=files, **changes))

    return reseal
