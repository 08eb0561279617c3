"""Searches for few queries in one go, compared with the search by the definition.

On a GPU these run with ``-m gpu``; ``test_triton_interpreter.py`` runs them on the CPU.
"""

from __future__ import annotations

import os

import pytest
import torch

from lightweight_decoder.datatypes import NO_ID
from lightweight_decoder.errors import EmbeddingError
from lightweight_decoder.search import ExactSearch
from lightweight_decoder.search.kernels import FewQueriesSearch
from lightweight_decoder.search.kernels.group_maxima import Roundings, choice_error
from lightweight_decoder.vectors.directions import unit_rows

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
needs_kernels = pytest.mark.gpu if not INTERPRETED else lambda test: test


def normal(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def make_search(vectors, owners=None):
    return ExactSearch.over(unit_rows(vectors), owners, device=DEVICE)


def find_few(search, queries, k, excluded=None):
    """Search in one go; the call is captured in a CUDA graph when it comes for the second time."""
    excluded = None if excluded is None else excluded.to(DEVICE)
    for _ in range(1 if INTERPRETED else 3):
        given, length = queries.to(DEVICE), search._list_length(k)
        assert search._kernels.few.suits(len(given), length, excluded)
        found = search._search_fast(given, k, length, excluded)
    return found


@pytest.fixture
def searched_again(monkeypatch):
    """How many queries were not settled in one go, for each search."""
    numbers = []
    search_listed = ExactSearch._search_listed

    def counting(self, queries, *rest):
        numbers.append(len(queries))
        return search_listed(self, queries, *rest)

    monkeypatch.setattr(ExactSearch, "_search_listed", counting)
    return numbers


def assert_right(search, queries, k, excluded=None):
    found = find_few(search, queries, k, excluded)
    unit = unit_rows(queries.double()).to(DEVICE)
    excluded = None if excluded is None else excluded.to(DEVICE)
    expected = search._search_float64(unit, k, excluded)
    assert torch.equal(found.phrases, expected.phrases)
    assert torch.equal(found.vectors, expected.vectors)
    torch.testing.assert_close(found.values, expected.values, rtol=0, atol=2e-6)


@needs_kernels
@pytest.mark.parametrize("num_phrases", [None, 400])
@pytest.mark.parametrize("k", [1, 7, 20])
def test_the_best_phrases_are_found(k, num_phrases):
    owners = None
    if num_phrases:
        owners = torch.randint(num_phrases, (900,), generator=torch.Generator().manual_seed(2))
        owners[:num_phrases] = torch.arange(num_phrases)
    assert_right(make_search(normal(0, 900, 20), owners), normal(1, 4, 20), k)


@needs_kernels
@pytest.mark.parametrize("shared", [True, False])
def test_equal_and_close_vectors_stand_as_in_float64(shared):
    vectors = normal(0, 700, 24)
    vectors[500:560] = vectors[:60]  # the same
    vectors[600:660] = vectors[:60] + 1e-7 * normal(3, 60, 24)  # closer than float32 can tell
    owners = torch.arange(700).flip(0) // 2 if shared else None
    assert_right(make_search(vectors, owners), vectors[:5] + 0.3 * normal(1, 5, 24), 9)


@needs_kernels
def test_excluded_vectors_are_passed_over():
    vectors = normal(0, 600, 16)
    excluded = torch.full((6, 3), NO_ID)
    excluded[:5, 1] = torch.arange(5)
    excluded[2, 2] = 77
    assert_right(make_search(vectors, torch.arange(600) // 2), vectors[:6], 5, excluded)


@needs_kernels
def test_rows_end_in_nothing_where_too_few_are_left():
    search = make_search(normal(0, 300, 4))
    everything = torch.arange(299)[None]
    found = find_few(search, torch.ones(1, 4), 3, everything)
    assert found.phrases.tolist() == found.vectors.tolist() == [[299, NO_ID, NO_ID]]
    assert found.values[0, 1:].tolist() == [-torch.inf] * 2


@needs_kernels
def test_only_rows_whose_cut_falls_among_equal_values_are_searched_again(searched_again):
    vectors = normal(0, 600, 8)
    vectors[100:400] = vectors[0]
    search = make_search(vectors)
    queries = torch.cat([vectors[500:502], vectors[:1], vectors[502:503]])
    assert_right(search, queries, 5)
    assert set(searched_again) == {1}
    assert search.search(queries, 5).phrase_ids[2].tolist() == [0, 100, 101, 102, 103]


@needs_kernels
@pytest.mark.parametrize("value", [0.0, torch.nan, torch.inf, -torch.inf])
def test_queries_without_a_direction_are_refused(value, searched_again):
    search = make_search(normal(0, 600, 8))
    queries = normal(1, 3, 8)
    find_few(search, queries, 2)
    assert not searched_again
    queries[1] = value
    with pytest.raises(EmbeddingError, match="row 1"):
        find_few(search, queries, 2)


@needs_kernels
@pytest.mark.parametrize("precision", ["float32", "tf32", "float16"])
def test_queries_are_scaled_as_elsewhere(precision):
    from lightweight_decoder.search.kernels import triton_launch

    queries = normal(0, 5, 21) * torch.tensor([1.0, 3e37, 1e-38, 7.0, 1e-3])[:, None]
    found = triton_launch.scaled(queries.to(DEVICE), precision)
    unit, unit32, left_out, usable = (column.cpu() for column in found)
    expected = unit_rows(queries.double())
    torch.testing.assert_close(unit, expected, rtol=1e-14, atol=0)
    assert torch.equal(unit32, unit.float())
    assert usable.all()
    rounding = choice_error(unit32, 0.0, precision) - choice_error(
        torch.zeros(5, 21), 0.0, precision
    )
    torch.testing.assert_close(1.01 * left_out, rounding, rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize(
    ("num_queries", "vectors", "list_length", "width", "expected"),
    [
        (1, torch.empty(2, 384).bfloat16(), 44, 0, True),
        (64, torch.empty(2, 4), 128, 5, True),
        (0, torch.empty(2, 4), 44, 0, False),
        (65, torch.empty(2, 4), 44, 0, False),
        (1, torch.empty(2, 4), 129, 0, False),
        (1, torch.empty(2, 12).half(), 44, 0, False),
        (1, torch.empty(2, 4), 44, 1000, False),
    ],
)
def test_what_it_suits(num_queries, vectors, list_length, width, expected):
    excluded = torch.empty((num_queries, width), dtype=torch.int64) if width else None
    few = FewQueriesSearch(vectors, None, margin=0.0, roundings=Roundings(vectors, vectors.device))
    assert few.suits(num_queries, list_length, excluded) == expected
