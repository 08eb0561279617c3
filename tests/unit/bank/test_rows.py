"""Rows on their way into a bank: which are dropped, how vectors are stored, what is reported."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightweight_decoder.bank import BankRows, BuildReport, PhraseBank, write_bank
from lightweight_decoder.bank.phrases import is_storable, normalize_text, normalize_texts
from lightweight_decoder.bank.rows import choose_dtype
from lightweight_decoder.errors import BankBuildError


@given(st.lists(st.text(st.sampled_from("ab \t\n\x1c\x85\u00a0\u0301é\ud800"), max_size=5)))
def test_texts_are_normalized_as_one_by_one(texts):
    def one(text):
        key = normalize_text(text)
        return key if key and is_storable(key) else None

    assert normalize_texts(texts) == [one(text) for text in texts]


def test_bad_rows_are_dropped_and_counted(tmp_path):
    vectors = np.ones((8, 3))
    vectors[1, 2], vectors[2, 0], vectors[3], vectors[4, 1] = np.nan, np.inf, 0, -np.inf
    texts = ["a", "b", "c", "d", "e", " ", "f", "a"]
    blocks = [BankRows(texts[:4], vectors[:4], {"n": [0, 1, 2, 3]})]
    blocks += [BankRows(texts[4:], vectors[4:], {"n": [4, 5, 6, 7]})]
    report = write_bank(tmp_path / "bank", blocks, on_bad_row="drop")
    bank = PhraseBank.open(tmp_path / "bank")
    assert bank.texts(range(2)) == ["a", "f"]
    assert bank.owners.tolist() == [0, 1, 0]
    assert bank.column("n").tolist() == [0, 6]
    assert report == BuildReport(
        num_rows=8,
        num_phrases=2,
        num_vectors=3,
        dim=3,
        dtype="float32",
        dropped={
            "vector with NaN or infinite numbers": 3,
            "vector of zeros only": 1,
            "text empty, blank or not valid Unicode": 1,
        },
    )
    assert report.num_repeated == 1


def test_a_bank_of_dropped_rows_only_is_refused(tmp_path):
    with pytest.raises(BankBuildError, match="expected at least one row, found none"):
        write_bank(tmp_path / "bank", [BankRows(["a"], np.zeros((1, 3)))], on_bad_row="drop")
    assert list(tmp_path.iterdir()) == []


def test_float16_vectors_of_unit_length_stay_as_they_are(tmp_path):
    rng = np.random.default_rng(0)
    unit = rng.normal(size=(500, 64))
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    stored = unit.astype(np.float16)
    stored[::7] *= 3
    bank = PhraseBank.build(
        tmp_path / "bank", [str(i) for i in range(500)], stored, dtype="float16"
    )
    expected = stored.astype(np.float64)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    expected[np.arange(500) % 7 != 0] = stored[np.arange(500) % 7 != 0]
    np.testing.assert_allclose(bank.vectors, expected, rtol=2.0**-11, atol=2.0**-24)
    kept = np.arange(500) % 7 != 0
    np.testing.assert_array_equal(bank.vectors[kept], stored[kept])


def test_float32_vectors_near_unit_length_are_scaled_before_they_are_rounded(tmp_path):
    vector = np.array([[0.6, 0.8]], dtype=np.float32) * np.float32(1.0004)
    bank = PhraseBank.build(tmp_path / "bank", ["a"], vector, dtype="float16")
    np.testing.assert_array_equal(bank.vectors, np.array([[0.6, 0.8]], dtype=np.float16))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_vector_without_direction_is_named_among_good_ones(tmp_path, dtype):
    vectors = np.eye(4, dtype=np.float16)
    vectors[2, 2] = 0
    blocks = [BankRows(["x"], vectors[:1]), BankRows(list("abcd"), vectors)]
    with pytest.raises(BankBuildError, match=r"row 3: .*found only zeros"):
        write_bank(tmp_path / "bank", blocks, dtype=dtype)


@pytest.mark.parametrize(
    ("dtype", "total", "expected"),
    [
        ("auto", None, "float32"),
        ("auto", 2**30 // (4 * 384), "float32"),
        ("auto", 2**30 // (4 * 384) + 1, "float16"),
        ("float32", 10**9, "float32"),
        ("float16", 1, "float16"),
    ],
)
def test_large_banks_are_stored_in_half_the_size(dtype, total, expected):
    assert choose_dtype(dtype, 384, total) == expected
