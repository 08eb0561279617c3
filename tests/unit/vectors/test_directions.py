"""Rows with a direction: converted, recognized, scaled, and refused by their number."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lightweight_decoder.errors import BankBuildError, EmbeddingError, InputDataError
from lightweight_decoder.vectors.directions import (
    has_direction,
    refuse_directionless,
    rows_of_other_length,
    to_float32,
    unit_rows,
)


def exact_unit(row):
    """A row at unit length, by fractions and Python's own square root of a number near 1."""
    largest = max(abs(Fraction(float(x))) for x in row)
    scaled = [Fraction(float(x)) / largest for x in row]
    length = float(sum(x * x for x in scaled)) ** 0.5
    return [float(x) / length for x in scaled]


@pytest.mark.parametrize("scale", [1, 1e-30, 1e30, 3e37])
def test_unit_rows_of_any_magnitude(scale):
    rows = np.random.default_rng(0).normal(size=(20, 7)) * scale
    expected = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    given_rows = torch.from_numpy(rows.astype(np.float32))
    before = given_rows.clone()
    np.testing.assert_allclose(unit_rows(given_rows), expected, atol=3e-7)
    assert torch.equal(given_rows, before)


FLOATS = {
    np.float32: st.floats(width=32, allow_nan=False, allow_infinity=False, allow_subnormal=True),
    np.float64: st.floats(allow_nan=False, allow_infinity=False, allow_subnormal=True),
}


@settings(deadline=None)
@given(st.data(), st.sampled_from([np.float32, np.float64]))
def test_any_finite_row_comes_out_as_fractions_give_it(data, dtype):
    rows = data.draw(hnp.arrays(dtype, (3, 4), elements=FLOATS[dtype]))
    directed = rows.any(axis=1)
    np.testing.assert_array_equal(has_direction(to_float32(rows)), directed)
    expected = [exact_unit(row) for row in rows[directed]]
    through_float32 = unit_rows(torch.from_numpy(to_float32(rows)[directed]))
    np.testing.assert_allclose(through_float32, np.reshape(expected, (-1, 4)), atol=3e-7)
    exact = unit_rows(torch.from_numpy(rows[directed]))
    np.testing.assert_allclose(exact, np.reshape(expected, (-1, 4)), atol=3e-7)


def test_rows_that_float32_holds_are_only_rounded():
    rows = np.random.default_rng(0).normal(size=(50, 8)) * 10.0 ** np.arange(-25, 25)[:, None]
    np.testing.assert_array_equal(to_float32(rows), rows.astype(np.float32))
    stored = to_float32(rows.astype(np.float32))
    np.testing.assert_array_equal(to_float32(stored.astype(">f4")), stored)
    half = np.arange(-6, 6, dtype=np.float16).reshape(3, 4)
    np.testing.assert_array_equal(to_float32(half), half.astype(np.float32))


def test_what_is_not_finite_stays_so():
    rows = np.array([[np.nan, 1e300], [np.inf, 1], [0, 0], [1e300, -1e300]])
    converted = to_float32(rows)
    assert has_direction(converted).tolist() == [False, False, False, True]
    assert np.isnan(converted[0, 0])
    assert converted[1].tolist() == [np.inf, 1]


def test_the_first_unusable_row_is_named():
    rows = torch.tensor([[1.0, 2.0], [0.0, 0.0], [torch.nan, 1.0]])
    with pytest.raises(EmbeddingError, match=r"^row 1: .*found only zeros"):
        unit_rows(rows)
    with pytest.raises(BankBuildError, match=r"row 12: .*found nan in column 0"):
        unit_rows(rows[2:], rows=[12], error=BankBuildError)
    with pytest.raises(EmbeddingError, match=r"row 2: .*found nan in column 0"):
        unit_rows(torch.stack([rows[0], rows[0], rows[2]]).bfloat16())
    with pytest.raises(InputDataError, match=r"^f.npy, row 8: a vector has no direction after it:"):
        refuse_directionless(
            rows.numpy(),
            rows=range(7, 10),
            error=InputDataError,
            where=Path("f.npy"),
            after="after it",
        )
    refuse_directionless(rows[:1].numpy())


def test_no_rows():
    assert unit_rows(torch.empty(0, 3)).shape == (0, 3)
    assert to_float32(np.empty((0, 3))).shape == (0, 3)


def test_rows_of_other_length_are_listed():
    rows = torch.eye(4, dtype=torch.float16)
    rows[1, 1], rows[3, 0] = 1.25, torch.nan
    (first, length), (second, unknown) = rows_of_other_length(rows)
    assert (first, length, second) == (1, 1.25, 3)
    assert np.isnan(unknown)
    assert list(rows_of_other_length(rows[1:2], tolerance=0.25)) == []
