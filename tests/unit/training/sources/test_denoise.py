from __future__ import annotations

import numpy as np
import pytest

from lightweight_decoder.bank import PhraseBank
from lightweight_decoder.decoder.splits import SPLIT_NAMES
from lightweight_decoder.errors import BankError, ConfigError
from lightweight_decoder.training.sources.denoise import Denoise

SIZES = {"num_train": 60, "num_val": 20, "num_calib": 10, "num_test": 10}


@pytest.fixture
def bank_folder(tmp_path):
    vectors = np.random.default_rng(0).standard_normal((120, 64)).astype(np.float32)
    texts = [f"phrase {i % 50}" for i in range(120)]  # several vectors a phrase
    PhraseBank.build(tmp_path / "bank", texts, vectors)
    return tmp_path / "bank"


def sources_of(split, bank):
    """Find the vector that each query came from: with little noise, the nearest."""
    return np.argmax(split.queries @ bank.vectors.T, axis=1)


def test_targets_own_the_vectors_that_were_disturbed(bank_folder):
    source = Denoise(bank=bank_folder, noise=0.1, **SIZES)
    source.prepare()
    bank, seen = source.bank, []
    for name in SPLIT_NAMES:
        split = source.split(name)
        rows = sources_of(split, bank)
        np.testing.assert_array_equal(split.targets[:, 0], bank.owners[rows])
        assert split.own_vectors.shape == (len(split), 0)
        seen += rows.tolist()
    assert len(seen) == len(set(seen)) == 100  # no vector is in two splits


@pytest.mark.parametrize("noise", [0.1, 0.5])
def test_the_noise_has_the_length_asked_for(bank_folder, noise):
    source = Denoise(bank=bank_folder, noise=noise, num_train=5_000)
    split, bank = source.split("train"), source.bank
    added = split.queries - bank.vectors[sources_of(split, bank)]
    assert np.sqrt((added**2).sum(axis=1).mean()) == pytest.approx(noise, rel=0.02)
    assert abs(added.mean()) < 0.001


def test_a_small_bank_is_used_again_with_other_noise(bank_folder):
    source = Denoise(bank=bank_folder, num_train=300, num_val=20, num_calib=10, num_test=10)
    split = source.split("train")
    assert len(np.unique(split.queries, axis=0)) == 300


def test_everything_follows_from_the_seed(bank_folder):
    first, again, other = (
        Denoise(bank=bank_folder, seed=seed, **SIZES).split("val").queries for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("noise", [0, -1, float("inf"), float("nan")])
def test_a_noise_out_of_range_is_refused(bank_folder, noise):
    with pytest.raises(ConfigError, match=r"data\.noise"):
        Denoise(bank=bank_folder, noise=noise)


def test_an_empty_split_is_refused(bank_folder):
    with pytest.raises(ConfigError, match=r"data\.num_val: .*at least 1, found 0"):
        Denoise(bank=bank_folder, num_val=0)


def test_a_missing_bank_is_refused(tmp_path):
    with pytest.raises(BankError, match="absent"):
        Denoise(bank=tmp_path / "absent").prepare()
