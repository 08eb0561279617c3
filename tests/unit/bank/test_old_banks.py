"""Banks that version 0.1 (25a78af) wrote: read with the values and the fingerprints they had."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from lightweight_decoder.bank import EncoderInfo, PhraseBank
from lightweight_decoder.vectors.preprocessing import L2, PCA, Center

FINGERPRINTS = {
    "plain": "61a6d690161ba707a253a978f9ed356c2f8367a1801e9c6241edc599e9b64391",
    "preprocessed": "dbba804139af01e6d54494f12ed352d5d204129a29c7a16763d683214b1fbde3",
}
VECTORS = np.array(
    [[3, 4, 0, 0], [0, 1, 0, 0], [0, 0, -2, 0], [1, 1, 1, 1], [0, 0, 5, 12]], np.float32
)


@pytest.fixture(params=FINGERPRINTS)
def old_bank(request, tmp_path):
    """A copy of an old bank."""
    written = Path(__file__).with_name("banks_of_0_1") / request.param
    return PhraseBank.open(shutil.copytree(written, tmp_path / request.param))


def test_content(old_bank):
    old_bank.verify()
    assert old_bank.fingerprint == FINGERPRINTS[old_bank.path.name]
    assert old_bank.texts(range(4)) == ["red", "green", "deep blue sea", "café"]
    assert old_bank.owners.tolist() == [0, 1, 2, 0, 3]
    assert old_bank.find(["cafe\u0301"]).tolist() == [3]


def test_plain_values():
    bank = PhraseBank.open(Path(__file__).with_name("banks_of_0_1") / "plain")
    unit = VECTORS / np.linalg.norm(VECTORS, axis=1, keepdims=True)
    np.testing.assert_array_equal(bank.vectors, unit.astype(np.float16))
    assert bank.manifest.encoder == EncoderInfo("some-model", "0123")
    assert bank.column("frequency").tolist() == [5, 4, 3, 1]
    assert bank.column("source").tolist() == ["a", None, "c", "e"]


def test_preprocessing():
    bank = PhraseBank.open(Path(__file__).with_name("banks_of_0_1") / "preprocessed")
    assert bank.preprocessing.steps == (L2(), Center(), PCA(dim=2))
    processed = bank.preprocess(VECTORS)
    unit = processed / np.linalg.norm(processed, axis=1, keepdims=True)
    np.testing.assert_allclose(unit, bank.vectors, atol=1e-6)
    np.testing.assert_allclose(processed[2], [-1.0717791, -0.37652895], atol=1e-7)
