"""The normal forms of texts and vectors."""

from __future__ import annotations

import unicodedata

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightweight_decoder.bank import normalize_text, unit_rows
from lightweight_decoder.errors import BankBuildError, EmbeddingError


@given(st.text())
def test_normal_texts_stay_as_they_are(text):
    once = normalize_text(text)
    assert normalize_text(once) == once
    assert unicodedata.is_normalized("NFC", once)
    assert once == " ".join(once.split(" ")).strip()


def test_spellings_of_one_text():
    assert normalize_text("cafe\u0301\u2003 au\tlait\n") == "café au lait"
    assert normalize_text("Polish") != normalize_text("polish")


@pytest.mark.parametrize("scale", [1, 1e-30, 1e30, 3e37])
def test_unit_rows_of_any_magnitude(scale):
    rows = np.random.default_rng(0).normal(size=(20, 7)) * scale
    expected = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    given_rows = torch.from_numpy(rows.astype(np.float32))
    before = given_rows.clone()
    np.testing.assert_allclose(unit_rows(given_rows), expected, atol=3e-7)
    assert torch.equal(given_rows, before)


def test_the_first_unusable_row_is_named():
    rows = torch.tensor([[1.0, 2.0], [0.0, 0.0], [torch.nan, 1.0]])
    with pytest.raises(EmbeddingError, match=r"row 1: .*found only zeros"):
        unit_rows(rows)
    with pytest.raises(BankBuildError, match=r"row 12: .*found nan in column 0"):
        unit_rows(rows[2:], first_row=12, error=BankBuildError)


def test_no_rows():
    assert unit_rows(torch.empty(0, 3)).shape == (0, 3)
