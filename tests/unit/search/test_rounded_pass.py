from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightweight_decoder.datatypes import NO_ID
from lightweight_decoder.search.rounded_pass import rounded_pass, rounding_error


def unit(seed, rows, dim, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    wide = torch.randn(rows, dim, generator=generator)
    return torch.nn.functional.normalize(wide).to(dtype)


def listed(queries, vectors, length, excluded=None, block_bytes=2**20):
    error = float(rounding_error(vectors).max())
    return rounded_pass(
        queries, vectors, None, length, excluded, vectors_error=error, max_block_bytes=block_bytes
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("block_bytes", [2**20, 20_000])
def test_values_are_the_products_of_the_listed_vectors(dtype, block_bytes):
    queries, vectors = unit(0, 70, 24), unit(1, 3_001, 24, dtype)
    values, ids, _ = listed(queries, vectors, 40, block_bytes=block_bytes)

    exact = queries.double().numpy() @ vectors.double().numpy().T
    np.testing.assert_allclose(values, np.take_along_axis(exact, ids.numpy(), 1), atol=1e-6)
    assert (values[:, :-1] >= values[:, 1:]).all()
    assert all(len(set(row)) == 40 for row in ids.tolist())


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 10**6),
    dim=st.integers(1, 40),
    num_vectors=st.integers(60, 900),
    near=st.sampled_from([0.0, 1e-4, 0.1]),
)
def test_nothing_unseen_is_above_its_bound(seed, dim, num_vectors, near):
    queries, vectors = unit(seed, 5, dim), unit(seed + 1, num_vectors, dim)
    if near:  # all close together: what rounding confuses most
        vectors = torch.nn.functional.normalize(queries[:1] + near * vectors)
    values, ids, unseen = listed(queries, vectors, 20, block_bytes=4_000)

    exact = queries.double().numpy() @ vectors.double().numpy().T
    for row in range(5):
        others = np.delete(exact[row], ids[row].numpy())
        assert others.max() <= unseen[row, 0].item() + 1e-6
    assert values.isfinite().all()


def test_the_bound_is_small_enough_to_settle_ordinary_vectors():
    queries, vectors = unit(0, 100, 64), unit(1, 20_000, 64)
    values, _, unseen = listed(queries, vectors, 96)

    assert (unseen[:, 0] < values[:, 31]).float().mean() > 0.9


def test_vectors_that_are_rounded_already_give_the_same():
    queries, vectors = unit(0, 3, 16), unit(1, 2_000, 16)
    error = float(rounding_error(vectors).max())
    given = rounded_pass(
        queries, vectors, vectors.bfloat16(), 20, None, vectors_error=error, max_block_bytes=2**20
    )

    for found, expected in zip(given, listed(queries, vectors, 20), strict=True):
        assert torch.equal(found, expected)


def test_excluded_vectors_are_not_listed():
    queries, vectors = unit(0, 8, 16), unit(1, 500, 16)
    best = (queries @ vectors.T).topk(3).indices
    excluded = torch.cat([best, torch.full((8, 1), NO_ID)], dim=1)
    _, ids, _ = listed(queries, vectors, 30, excluded)

    assert not (ids[:, :, None] == best[:, None, :]).any()


def test_rows_that_run_out_of_vectors_end_empty():
    queries, vectors = unit(0, 2, 8), unit(1, 40, 8)
    excluded = torch.arange(35).expand(2, -1)
    values, ids, unseen = listed(queries, vectors, 10, excluded)

    assert set(ids[0, :5].tolist()) == {35, 36, 37, 38, 39}
    assert (values[:, 5:] == -torch.inf).all()
    assert (unseen <= values[:, 4:5]).all()


@pytest.mark.parametrize("dim", [1, 7, 384])
def test_rounding_moves_a_row_by_what_numpy_says(dim):
    rows = unit(3, 50, dim)
    exponent = np.floor(np.log2(np.abs(rows.double().numpy())))
    step = 2.0 ** (exponent - 7)  # bfloat16 keeps 8 bits
    rounded = np.round(rows.double().numpy() / step) * step

    expected = np.linalg.norm(rows.double().numpy() - rounded, axis=1)
    np.testing.assert_allclose(rounding_error(rows), expected, atol=1e-7)
