from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightweight_decoder.datatypes import NO_ID
from lightweight_decoder.search import ExactSearch
from lightweight_decoder.search.kernels import int8_pass as module
from lightweight_decoder.search.kernels.int8_pass import (
    ERROR_COLUMNS,
    Int8Block,
    Int8Pass,
    Int8Vectors,
    int8_pass,
    is_available,
)

pytestmark = pytest.mark.skipif(not is_available(), reason="no instructions for int8")


def unit(seed, rows, dim, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    wide = torch.randn(rows, dim, generator=generator)
    return torch.nn.functional.normalize(wide).to(dtype)


def rounded_vectors(vectors, block_bytes=2**20, copy_bytes=2**22):
    return Int8Vectors(vectors, max_block_bytes=block_bytes, max_copy_bytes=copy_bytes)


def listed(queries, vectors, length, excluded=None, **sizes):
    return int8_pass(queries, rounded_vectors(vectors, **sizes), length, excluded)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("block_bytes", [2**20, 20_000])
def test_the_best_are_among_those_listed(dtype, block_bytes):
    queries, vectors = unit(0, 70, 24), unit(1, 3_001, 24, dtype)
    values, ids, _ = listed(queries, vectors, 40, block_bytes=block_bytes)

    best = np.argsort(-queries.double().numpy() @ vectors.double().numpy().T)[:, :20]
    assert all(set(row) >= set(wanted) for row, wanted in zip(ids.tolist(), best, strict=True))
    assert all(len(set(row)) == 40 for row in ids.tolist())
    assert values is None


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 10**6),
    dim=st.integers(1, 40),
    num_vectors=st.integers(60, 900),
    near=st.sampled_from([0.0, 1e-4, 0.1]),
    few_scores=st.sampled_from([0, module._FEW_SCORES]),
)
def test_nothing_unseen_is_above_its_bound(seed, dim, num_vectors, near, few_scores):
    queries, vectors = unit(seed, 5, dim), unit(seed + 1, num_vectors, dim)
    if near:  # all close together: what rounding confuses most
        vectors = torch.nn.functional.normalize(queries[:1] + near * vectors)
    with mock.patch.object(module, "_FEW_SCORES", few_scores):
        _, ids, unseen = listed(queries, vectors, 20, block_bytes=4_000)

    exact = queries.double().numpy() @ vectors.double().numpy().T
    for row in range(5):
        others = np.delete(exact[row], ids[row].numpy())
        assert others.max() <= unseen[row, 0].item() + 1e-6
    assert (ids != NO_ID).all()


def uneven(seed, rows, dim):
    """Unit rows with most of their length in the first entries, as a PCA gives them."""
    return torch.nn.functional.normalize(unit(seed, rows, dim) * 0.99 ** torch.arange(dim))


@pytest.mark.parametrize("rows", [unit, uneven])
def test_the_bound_is_small_enough_to_settle_ordinary_vectors(rows):
    queries, vectors = rows(0, 100, 64), rows(1, 20_000, 64)
    _, _, unseen = listed(queries, vectors, 96)

    kth = (queries @ vectors.T).topk(32).values[:, -1]
    assert (unseen[:, 0] < kth).float().mean() > 0.9


def test_vectors_that_are_too_many_to_keep_give_the_same():
    queries, vectors = unit(0, 3, 16), unit(1, 2_000, 16)
    expected = listed(queries, vectors, 20)

    found = listed(queries, vectors, 20, copy_bytes=2_000 * 16 - 1)
    assert torch.equal(found.vectors, expected.vectors)
    assert torch.equal(found.unseen, expected.unseen)


def test_a_copy_is_kept_for_the_next_search():
    int8 = rounded_vectors(unit(0, 100, 8), copy_bytes=100 * 8)
    assert [int8.pay(1) for _ in range(9)] == [False] * 8 + [True]

    first = int8.blocks()
    assert int8.blocks() is first
    assert int8.pay(1)


def test_many_queries_pay_at_once_even_where_no_copy_is_kept():
    int8 = rounded_vectors(unit(0, 100, 8), copy_bytes=100 * 8 - 1)

    assert int8.pay(1_000)
    assert not int8.pay(300)
    assert not any(int8.pay(1) for _ in range(20))


def test_more_is_listed_where_too_little_is_settled():
    int8 = rounded_vectors(unit(0, 100, 8))
    int8.learn(7, 7)
    assert int8.surplus == 2  # seven queries say little
    int8.learn(993, 118)
    assert int8.surplus == 2
    int8.learn(8, 8)
    assert int8.surplus == 4
    int8.learn(8, 1)
    assert int8.surplus == 4  # counted anew
    int8.learn(100, 100)
    assert int8.surplus == 8


def test_what_was_learned_long_ago_does_not_count():
    int8 = rounded_vectors(unit(0, 100, 8))
    for _ in range(100):
        int8.learn(1_000, 0)
    int8.learn(500, 500)
    assert int8.surplus == 4


def test_rounding_is_given_up_where_the_longest_lists_settle_less_than_half():
    int8 = rounded_vectors(unit(0, 100, 8))
    int8.blocks()
    int8.learn(100, 100)
    int8.learn(100, 100)
    int8.learn(100, 50)
    assert int8.pay(1_000)
    int8.learn(100, 51)
    assert not int8.pay(1_000)
    assert int8._kept is None
    kept = int8.blocks()  # asked for all the same
    int8.learn(100, 100)
    assert int8.blocks() is kept


@pytest.mark.parametrize(("copy_bytes", "is_kept"), [(900 * 16, True), (900 * 16 - 1, False)])
def test_exact_search_keeps_a_copy_as_large_as_it_may_be(copy_bytes, is_kept):
    search = ExactSearch.over(unit(0, 900, 16), max_copy_bytes=copy_bytes)
    search.search(unit(1, 800, 16), 4)
    (int8,) = {each._vectors for each in search._kernels.passes if isinstance(each, Int8Pass)}
    assert (int8._kept is not None) == is_kept


def test_vectors_that_are_much_alike_are_searched_in_one_pass_before_long(monkeypatch):
    vectors = torch.nn.functional.normalize(unit(0, 1, 64) + 0.2 * unit(1, 20_000, 64))
    search = ExactSearch.over(vectors, quantized=True)
    calls = []
    monkeypatch.setattr(module, "int8_pass", lambda *a: calls.append(a) or int8_pass(*a))
    queries = unit(2, 40, 64)
    found = [search.search(query[None], 4).vector_ids for query in queries]
    assert len(calls) > 45
    calls.clear()
    again = [search.search(query[None], 4).vector_ids for query in queries]
    assert len(calls) < 44
    assert all(torch.equal(*pair) for pair in zip(found, again, strict=True))


def test_only_uneven_vectors_are_rotated():
    assert rounded_vectors(unit(0, 900, 384)).rotation is None

    int8 = rounded_vectors(uneven(0, 900, 384))
    np.testing.assert_allclose(int8.rotation @ int8.rotation.T, np.eye(384), atol=1e-5)
    (block,) = int8.blocks()
    assert block.error < 0.8 * Int8Block.of(0, int8.vectors).error


def test_excluded_vectors_are_not_listed():
    queries, vectors = unit(0, 8, 16), unit(1, 500, 16)
    best = (queries @ vectors.T).topk(3).indices
    excluded = torch.cat([best, torch.full((8, 1), NO_ID)], dim=1)
    _, ids, _ = listed(queries, vectors, 30, excluded)

    assert not (ids[:, :, None] == best[:, None, :]).any()


def test_rows_that_run_out_of_vectors_end_empty():
    queries, vectors = unit(0, 2, 8), unit(1, 40, 8)
    excluded = torch.arange(35).expand(2, -1)
    _, ids, unseen = listed(queries, vectors, 10, excluded)

    assert all(sorted(row) == [NO_ID] * 5 + [35, 36, 37, 38, 39] for row in ids.tolist())
    assert (unseen == -torch.inf).all()


@pytest.mark.parametrize("dim", [1, 7, 384])
def test_products_and_error_are_what_numpy_says(dim):
    rows, queries = unit(3, 50, dim), unit(4, 5, dim)

    def rounded(values):
        scale = np.abs(values).max(axis=1, keepdims=True) / 127
        return np.round(values / scale), scale

    steps, scale = rounded(rows.double().numpy())
    query_steps, _ = rounded(queries.double().numpy())
    block = Int8Block.of(0, rows)
    moved = np.linalg.norm(rows.double().numpy() - steps * scale, axis=1)
    np.testing.assert_allclose(block.error, moved.max(), atol=1e-6)

    for length in (0, 100):
        wide = np.pad(query_steps, [(0, 0), (0, ERROR_COLUMNS)])
        wide[:, -1] = length
        found = block.products(torch.from_numpy(wide + 128).to(torch.uint8))
        errors = length * scale * np.ceil(np.round(moved[:, None] / scale, 4))
        np.testing.assert_allclose(
            found.float(), query_steps @ (steps * scale).T + errors.T, rtol=2**-8
        )
