"""Exact search: what goes beyond the contract of every backend."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lightweight_decoder.bank import PhraseBank
from lightweight_decoder.errors import BankError, EmbeddingError
from lightweight_decoder.search import ExactSearch
from lightweight_decoder.search.kernels.int8_pass import is_available
from lightweight_decoder.search.order import unit_queries

needs_int8 = pytest.mark.skipif(not is_available(), reason="no instructions for int8")


def unit(seed, *shape):
    rows = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(rows, dim=1)


def assert_same(found, expected):
    assert torch.equal(found.phrase_ids, expected.phrase_ids)
    assert torch.equal(found.vector_ids, expected.vector_ids)
    torch.testing.assert_close(found.values, expected.values, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_mapped_bank_is_searched_like_its_arrays(tmp_path, dtype):
    texts = [f"phrase {i % 170}" for i in range(300)]
    bank = PhraseBank.build(tmp_path / "bank", texts, unit(0, 300, 12), dtype=dtype)
    found = ExactSearch(bank, max_block_bytes=3000).search(unit(1, 5, 12), 4)
    assert_same(found, ExactSearch.over(bank.vectors, bank.owners).search(unit(1, 5, 12), 4))
    cosines = bank.gather(found.vector_ids) @ unit(1, 5, 12)[:, :, None]
    torch.testing.assert_close(found.values, cosines.squeeze(2))


@pytest.mark.parametrize("num_phrases", [2000, 700])
def test_float32_with_repairs_gives_what_float64_gives(num_phrases):
    vectors = unit(0, 2000, 48)
    vectors[1000:1400] = vectors[:400]  # ties, in other blocks and at most cuts
    search = ExactSearch.over(vectors, torch.arange(2000) % num_phrases, max_block_bytes=50_000)
    queries = vectors[:64].double() + 0.05 * unit(1, 64, 48)
    queries /= queries.norm(dim=1, keepdim=True)
    expected = search._search_float64(queries, 9, None)
    found = search.search(queries, 9)
    assert torch.equal(found.phrase_ids, expected.phrases)
    assert torch.equal(found.vector_ids, expected.vectors)
    torch.testing.assert_close(found.values, expected.values, rtol=0, atol=1e-6)


def test_a_row_whose_cut_falls_into_ties_is_searched_again(monkeypatch):
    vectors = unit(0, 600, 8)
    vectors[100:400] = vectors[0]
    search = ExactSearch.over(vectors)
    searched_again = []
    original = search._search_float64

    def record(queries, k, excluded):
        searched_again.append(len(queries))
        return original(queries, k, excluded)

    monkeypatch.setattr(search, "_search_float64", record)
    found = search.search(torch.stack([vectors[0], -vectors[0]]), 5)
    assert found.phrase_ids[0].tolist() == [0, 100, 101, 102, 103]
    assert searched_again == [1]  # the second query has no ties at its cut


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_queries_of_other_dtypes(dtype):
    search = ExactSearch.over(unit(0, 300, 12))
    queries = unit(1, 5, 12).to(dtype)
    assert_same(search.search(queries, 4), search.search(queries.double(), 4))
    assert search.search(queries, 4).values.dtype == torch.float32


def test_queries_are_not_changed_and_carry_no_gradient():
    queries = (3 * unit(1, 5, 12)).requires_grad_()
    before = queries.detach().clone()
    found = ExactSearch.over(unit(0, 300, 12)).search(queries, 4)
    assert not found.values.requires_grad
    assert torch.equal(queries.detach(), before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("quantized", [False, pytest.param(True, marks=needs_int8)])
def test_surroundings_do_not_reach_search(surroundings, quantized, dtype):
    uneven = 0.98 ** torch.arange(64)  # makes int8 rotate them
    vectors = torch.nn.functional.normalize(unit(0, 3000, 64) * uneven).to(dtype)
    queries = vectors[:40].double() + 0.05 * unit(1, 40, 64)
    expected = ExactSearch.over(vectors)._search_float64(unit_queries(queries), 4, None)
    with surroundings():
        found = ExactSearch.over(vectors, quantized=quantized).search(queries, 4)
        among = ExactSearch.over(vectors).search_among(queries, found.vector_ids.flip(1), 4)
    for each in (found, among):
        assert each.values.dtype == torch.float32
        assert torch.equal(each.phrase_ids, expected.phrases)
        torch.testing.assert_close(each.values, expected.values, rtol=0, atol=1e-6)


def test_phrases_without_vectors_are_not_found():
    search = ExactSearch.over(unit(0, 3, 4), np.array([5, 1, 5]), num_phrases=7)
    found = search.search(unit(1, 2, 4), 7)
    assert found.phrase_ids.shape == (2, 7)
    assert found.phrase_ids.sort(dim=1).values.tolist() == [[-1, -1, -1, -1, -1, 1, 5]] * 2


@pytest.mark.parametrize(
    ("value", "found"), [(0.0, "length 0"), (np.nan, "length nan"), (9.0, "length 18")]
)
def test_arrays_whose_rows_are_not_of_unit_length_are_refused(value, found):
    vectors = unit(0, 3, 4)
    vectors[1] = value
    with pytest.raises(EmbeddingError, match=rf"row 1: .*found {found}"):
        ExactSearch.over(vectors)


@pytest.mark.parametrize("owner", [-1, 3])
def test_owners_that_are_no_phrases_are_refused(owner):
    with pytest.raises(BankError, match=rf"row 1: .*phrase id from 0 to 2, found {owner}"):
        ExactSearch.over(unit(0, 3, 4), torch.tensor([0, owner, 2]), num_phrases=3)


@pytest.mark.parametrize("shape", [(4, 1), (3,), ()])
def test_exclusions_of_another_number_are_refused(shape):
    search = ExactSearch.over(unit(0, 3, 4))
    with pytest.raises(EmbeddingError, match=r"expected \(2, w\), found"):
        search.search(unit(1, 2, 4), 1, exclude_vectors=torch.zeros(shape, dtype=torch.int64))
