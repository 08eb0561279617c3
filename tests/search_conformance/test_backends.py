"""What every search backend must do, compared with an independent float64 computation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lightweight_decoder.datatypes import NO_ID
from lightweight_decoder.errors import ConfigError, EmbeddingError


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def some_owners(seed, num_vectors, num_phrases):
    """Give every phrase a vector and scatter the others over the phrases."""
    rng = np.random.default_rng(seed)
    others = rng.integers(num_phrases, size=num_vectors - num_phrases)
    return rng.permutation(np.concatenate([np.arange(num_phrases), others]))


@pytest.mark.parametrize("k", [1, 5, 300, 1000], ids="k={}".format)
def test_random_vectors(make_table, assert_finds, k):
    assert_finds(make_table(normal(0, 300, 24)), normal(1, 7, 24), k)


@pytest.mark.parametrize("k", [1, 4, 60, 100], ids="k={}".format)
def test_many_vectors_of_a_phrase_scattered_over_the_bank(make_table, assert_finds, k):
    table = make_table(normal(0, 500, 8), some_owners(2, 500, 60))
    assert_finds(table, normal(1, 6, 8), k)


def test_one_phrase_owns_the_best_half_of_the_bank(make_table, assert_finds):
    queries = normal(0, 3, 8)
    near = queries[0] + 0.1 * normal(1, 200, 8)
    vectors = np.concatenate([near, normal(2, 200, 8)])
    owners = np.concatenate([np.full(200, 150), np.arange(200)])
    assert_finds(make_table(vectors, owners), queries, 5)


@pytest.mark.parametrize("num_phrases", [400, 37])
def test_all_values_equal(make_table, assert_finds, num_phrases):
    table = make_table(np.tile(normal(0, 1, 16), (400, 1)), some_owners(1, 400, num_phrases))
    assert_finds(table, normal(2, 4, 16), 10)


@pytest.mark.parametrize("num_queries", [1, 2, 33])
def test_duplicated_vectors(make_table, assert_finds, num_queries):
    distinct = normal(0, 40, 16)
    vectors = distinct[np.random.default_rng(1).integers(40, size=403)]
    assert_finds(make_table(vectors), distinct[:num_queries] + 0.1, 12)


def test_queries_of_huge_and_tiny_magnitude(make_table, assert_finds):
    queries = normal(0, 5, 16)
    queries[1] *= 3e37
    queries[3] *= 1e-38
    assert_finds(make_table(normal(1, 300, 16)), queries, 6)


@pytest.mark.parametrize("num_vectors", [1, 200])
@pytest.mark.parametrize("k", [1, 3, 200, 201])
def test_one_dimension(make_table, assert_finds, num_vectors, k):
    signs = np.where(normal(0, num_vectors, 1) > 0, 1, -1)
    assert_finds(make_table(signs), np.array([[2.0], [-0.5]], dtype=np.float32), k)


@pytest.mark.parametrize("num_phrases", [300, 90])
def test_float16_vectors(make_table, assert_finds, num_phrases):
    table = make_table(normal(0, 300, 20), some_owners(3, 300, num_phrases), dtype=np.float16)
    assert_finds(table, normal(1, 9, 20), 7)


@pytest.mark.parametrize("num_phrases", [300, 90])
def test_excluded_vectors_do_not_count(make_table, assert_finds, num_phrases):
    vectors = normal(0, 300, 12)
    table = make_table(vectors, some_owners(4, 300, num_phrases))
    exclude = np.full((20, 3), NO_ID)
    exclude[:15, 0] = np.arange(15)  # the first queries are themselves vectors of the bank
    exclude[5:12, 2] = 299
    assert_finds(table, vectors[:20], 6, exclude)


@pytest.mark.parametrize("k", [2, 5, 9])
def test_a_phrase_without_vectors_left_is_not_found(make_table, make_backend, assert_finds, k):
    table = make_table(normal(0, 9, 4), [0, 0, 1, 2, 2, 2, 3, 4, 4])
    exclude = np.array([[0, 1, NO_ID, NO_ID], [3, 4, 5, 6], [NO_ID] * 4])
    assert_finds(table, normal(1, 3, 4), k, exclude)
    found = make_backend(table).search(
        torch.from_numpy(normal(1, 3, 4)), 5, exclude_vectors=torch.from_numpy(exclude)
    )
    assert found.phrase_ids[1, 3:].tolist() == [NO_ID, NO_ID]
    assert found.vector_ids[1, 3:].tolist() == [NO_ID, NO_ID]
    assert found.values[1, 3:].tolist() == [-np.inf, -np.inf]


def test_every_vector_excluded(make_table, make_backend):
    backend = make_backend(make_table(normal(0, 200, 4)))
    everything = torch.arange(200)[None]
    found = backend.search(torch.ones(1, 4), 3, exclude_vectors=everything)
    assert found.phrase_ids.tolist() == [[NO_ID] * 3]
    assert found.values.tolist() == [[-np.inf] * 3]


@pytest.mark.parametrize("excluded", [None, torch.empty(0, 2, dtype=torch.int64)])
@pytest.mark.parametrize("num_vectors", [20, 80, 200])
def test_no_queries(make_table, make_backend, num_vectors, excluded):
    backend = make_backend(make_table(normal(0, num_vectors, 4), np.arange(num_vectors) // 2))
    found = backend.search(torch.empty(0, 4), 3, exclude_vectors=excluded)
    assert found.phrase_ids.shape == found.vector_ids.shape == found.values.shape == (0, 3)


def test_one_query_is_answered_as_in_a_batch(make_table, make_backend):
    backend = make_backend(make_table(normal(0, 400, 32)))
    queries = torch.from_numpy(normal(1, 20, 32))
    batch = backend.search(queries, 9)
    for row in range(20):
        alone = backend.search(queries[row : row + 1], 9)
        assert torch.equal(alone.phrase_ids[0], batch.phrase_ids[row])
        torch.testing.assert_close(alone.values[0], batch.values[row], rtol=0, atol=2e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_query_that_is_not_finite_is_refused(make_table, make_one_of_its_kind, bad):
    queries = torch.ones(4, 6)
    queries[2, 5] = bad
    backend = make_one_of_its_kind(make_table(normal(0, 10, 6)))
    with pytest.raises(EmbeddingError, match=rf"row 2: .*found {bad} in column 5"):
        backend.search(queries, 3)


def test_a_query_of_zeros_is_refused(make_table, make_one_of_its_kind):
    queries = torch.ones(4, 6)
    queries[3] = 0
    backend = make_one_of_its_kind(make_table(normal(0, 10, 6)))
    with pytest.raises(EmbeddingError, match=r"row 3: .*found only zeros"):
        backend.search(queries, 3)


@pytest.mark.parametrize("shape", [(2, 5), (6,), (1, 1, 6)])
def test_a_query_of_another_width_is_refused(make_table, make_one_of_its_kind, shape):
    backend = make_one_of_its_kind(make_table(normal(0, 10, 6)))
    found = str(shape).replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(EmbeddingError, match=rf"expected \(q, 6\), found {found}"):
        backend.search(torch.ones(shape), 3)


def test_k_below_one_is_refused(make_table, make_one_of_its_kind):
    with pytest.raises(ConfigError, match=r"k: .*expected at least 1, found 0"):
        make_one_of_its_kind(make_table(normal(0, 10, 6))).search(torch.ones(1, 6), 0)


@st.composite
def integer_problems(draw):
    """Small whole numbers in few dimensions make ties, exact and almost, plentiful."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    num_vectors = draw(st.integers(1, 250))
    dim = draw(st.integers(1, 6))
    largest = draw(st.integers(1, 3))
    num_phrases = draw(st.one_of(st.just(num_vectors), st.integers(1, num_vectors)))
    owners = rng.permutation(
        np.concatenate(
            [np.arange(num_phrases), rng.integers(num_phrases, size=num_vectors - num_phrases)]
        )
    )
    vectors = rng.integers(-largest, largest + 1, size=(num_vectors, dim))
    vectors[~vectors.any(axis=1)] = 1
    queries = rng.integers(-largest, largest + 1, size=(draw(st.integers(1, 4)), dim))
    queries[~queries.any(axis=1)] = 1
    exclude = rng.integers(-1, num_vectors, size=(len(queries), draw(st.integers(0, 4))))
    dtype = draw(st.sampled_from([np.float32, np.float16]))
    k = draw(st.integers(1, num_phrases + 2))
    return vectors, owners, dtype, queries.astype(np.float32), k, exclude


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(problem=integer_problems())
def test_ties_everywhere(make_table, assert_finds, problem):
    vectors, owners, dtype, queries, k, exclude = problem
    assert_finds(make_table(vectors, owners, dtype), queries, k, exclude)
