"""Ranks are the places at which search returns phrases, in whatever surroundings."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightweight_decoder.bank import PhraseBank
from lightweight_decoder.datatypes import NO_ID
from lightweight_decoder.errors import BankError, EmbeddingError
from lightweight_decoder.search import ExactSearch, phrase_ranks
from lightweight_decoder.search import ranks as module

CHANGES = {
    "random": lambda rng, n, d: rng.normal(size=(n, d)),
    "integers": lambda rng, n, d: rng.integers(-2, 3, size=(n, d)) + np.eye(n, d),
    "duplicates": lambda rng, n, d: rng.normal(size=(n // 8, d))[rng.integers(n // 8, size=n)],
}


class Problem:
    """A bank, queries that lie near its vectors, and vectors that do not count for them."""

    def __init__(self, folder, kind, dtype, *, n, d, q, vectors_per_phrase=1):
        rng = np.random.default_rng(0)
        vectors = CHANGES[kind](rng, n, d).astype(np.float32)
        texts = [f"phrase {i % (n // vectors_per_phrase)}" for i in range(n)]
        self.bank = PhraseBank.build(folder, texts, vectors, dtype=dtype)
        near = vectors[rng.integers(n, size=q)]
        far = rng.integers(-2, 3, size=(q, d)) + np.eye(q, d)
        self.queries = torch.from_numpy(np.where(np.arange(q)[:, None] % 2, near, far)).float()
        excluded = rng.integers(NO_ID, n, size=(q, 3))
        excluded[: q // 4, 0] = np.arange(q // 4)
        self.excluded = torch.from_numpy(excluded)


def places_by_definition(bank, queries, excluded):
    """The place (q, p) of every phrase, in float64 with NumPy; 0 where no vector of it counts."""
    places = np.zeros((len(queries), bank.num_phrases), dtype=np.int64)
    vectors = np.asarray(bank.vectors, dtype=np.float64)
    for row, query in enumerate(queries.double().numpy()):
        scaled = query / np.abs(query).max()
        cosines = vectors @ (scaled / np.linalg.norm(scaled))
        values = (np.round(cosines * 2.0**30) / 2.0**30).astype(np.float32)
        values[[vector for vector in excluded[row].tolist() if vector != NO_ID]] = -np.inf
        best = np.full(bank.num_phrases, -np.inf, dtype=np.float32)
        np.maximum.at(best, bank.owners, values)
        order = np.lexsort((np.arange(bank.num_phrases), -best))
        order = order[best[order] > -np.inf]
        places[row, order] = np.arange(1, len(order) + 1)
    return places


def places_by_search(bank, queries, excluded):
    """The same from a search for everything."""
    found = ExactSearch(bank).search(queries, bank.num_phrases, exclude_vectors=excluded)
    places = np.zeros((len(queries), bank.num_phrases + 1), dtype=np.int64)
    ranks = np.broadcast_to(np.arange(1, bank.num_phrases + 1), found.phrase_ids.shape)
    np.put_along_axis(places, found.phrase_ids.numpy(), ranks, axis=1)
    return places[:, :-1]  # the last column is that of NO_ID


def assert_ranks_are_places(problem, context=contextlib.nullcontext, query_dtype=torch.float32):
    bank, excluded = problem.bank, problem.excluded
    queries = problem.queries.to(query_dtype)
    targets = torch.arange(bank.num_phrases).expand(len(queries), -1)
    with context():
        ranks = phrase_ranks(bank, queries, targets, exclude_vectors=excluded)
        places = places_by_search(bank, queries, excluded)
        first = ExactSearch(bank).search(queries, 5, exclude_vectors=excluded).phrase_ids
    np.testing.assert_array_equal(ranks, places)
    np.testing.assert_array_equal(ranks, places_by_definition(bank, queries, excluded))
    assert torch.equal(ranks.gather(1, first), torch.arange(1, 6).expand(len(queries), -1))


@pytest.fixture(scope="module")
def make_problem(tmp_path_factory):
    """Make a problem, each once."""
    made = {}

    def make(*arguments, **sizes):
        key = (arguments, *sizes.items())
        if key not in made:
            made[key] = Problem(tmp_path_factory.mktemp("ranks") / "bank", *arguments, **sizes)
        return made[key]

    return make


@pytest.mark.parametrize("vectors_per_phrase", [1, 3])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("kind", CHANGES)
def test_ranks_are_the_places_of_search(make_problem, kind, dtype, vectors_per_phrase):
    sizes = {"n": 600, "d": 12, "q": 24, "vectors_per_phrase": vectors_per_phrase}
    assert_ranks_are_places(make_problem(kind, dtype, **sizes))


@pytest.mark.parametrize("kind", CHANGES)
def test_surroundings_do_not_change_ranks(make_problem, kind, surroundings):
    problem = make_problem(kind, "float32", n=600, d=12, q=24, vectors_per_phrase=3)
    assert_ranks_are_places(problem, surroundings)


@pytest.mark.parametrize("query_dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_queries_may_have_any_dtype(make_problem, query_dtype):
    problem = make_problem("integers", "float32", n=600, d=12, q=24, vectors_per_phrase=3)
    assert_ranks_are_places(problem, query_dtype=query_dtype)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("vectors_per_phrase", [1, 4])
@pytest.mark.parametrize(
    "size", [("integers", 12, 1_000), ("random", 384, 300), ("duplicates", 384, 300)]
)
def test_ranks_in_larger_banks(make_problem, all_surroundings, size, vectors_per_phrase, dtype):
    kind, d, q = size
    problem = make_problem(kind, dtype, n=5_000, d=d, q=q, vectors_per_phrase=vectors_per_phrase)
    bank, excluded, queries = problem.bank, problem.excluded, problem.queries
    targets = torch.randint(bank.num_phrases, (q, 2), generator=torch.Generator().manual_seed(0))
    places = places_by_definition(bank, queries, excluded)
    np.testing.assert_array_equal(places, places_by_search(bank, queries, excluded))
    for name, context in all_surroundings.items():
        with context():
            ranks = phrase_ranks(bank, queries, targets, exclude_vectors=excluded)
        expected = np.take_along_axis(places, targets.numpy(), axis=1)
        np.testing.assert_array_equal(ranks, expected, err_msg=name)


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(16, 90), st.integers(1, 5)),
    kind=st.sampled_from(sorted(CHANGES)),
    dtype=st.sampled_from(["float32", "float16"]),
)
def test_any_small_bank(tmp_path_factory, seed, shape, kind, dtype):
    rng, (n, d) = np.random.default_rng(seed), shape
    close = rng.choice([0.0, 1e-7, 1e-5])
    vectors = CHANGES[kind](rng, n, d).astype(np.float32)
    vectors[~vectors.any(axis=1)] = 1
    texts = [f"phrase {i}" for i in rng.integers(n, size=n)]
    folder = tmp_path_factory.mktemp("any") / "bank"
    bank = PhraseBank.build(folder, texts, vectors, dtype=dtype)
    queries = torch.from_numpy(vectors[:7] + close * rng.normal(size=(7, d)))
    excluded = torch.from_numpy(rng.integers(NO_ID, n, size=(7, 2)))
    targets = torch.arange(bank.num_phrases).expand(7, -1)
    ranks = phrase_ranks(bank, queries, targets, exclude_vectors=excluded)
    np.testing.assert_array_equal(ranks, places_by_definition(bank, queries, excluded))
    np.testing.assert_array_equal(ranks, places_by_search(bank, queries, excluded))


def test_targets_that_are_missing_or_left_without_vectors_have_rank_0(tiny_bank, queries):
    targets = torch.tensor([[0, 5, NO_ID]] * 30)
    owned = torch.from_numpy(tiny_bank.vector_ids_of([0])).expand(30, -1)
    ranks = phrase_ranks(tiny_bank, queries, targets, exclude_vectors=owned)
    assert owned.shape[1] == 3
    assert (ranks[:, 0] == 0).all()
    assert (ranks[:, 1] > 0).all()
    assert (ranks[:, 2] == 0).all()


@pytest.mark.parametrize("excluded", [(30, 0), (30, 2)])
def test_nothing_to_exclude_is_like_no_exclusion(tiny_bank, queries, excluded):
    targets = torch.arange(200).expand(30, -1)
    nothing = torch.full(excluded, NO_ID)
    found = phrase_ranks(tiny_bank, queries, targets, exclude_vectors=nothing)
    assert torch.equal(found, phrase_ranks(tiny_bank, queries, targets))


@pytest.mark.parametrize("shape", [(0, 3), (30, 0)])
def test_nothing_to_rank(tiny_bank, queries, shape):
    targets = torch.zeros(shape, dtype=torch.int64)
    assert phrase_ranks(tiny_bank, queries[: shape[0]], targets).shape == shape


def test_blocks_of_queries_vectors_and_targets_change_nothing(make_problem, monkeypatch):
    problem = make_problem("integers", "float32", n=600, d=12, q=24, vectors_per_phrase=3)
    blocks = module.converted_blocks
    monkeypatch.setattr(module, "_MAX_BYTES", 4 * 200 * 7)
    monkeypatch.setattr(module, "_TARGETS_AT_ONCE", 3)
    monkeypatch.setattr(module, "_PHRASES_AT_ONCE", 5)
    small = {"max_bytes": 12 * 4 * 33}
    monkeypatch.setattr(module, "converted_blocks", lambda *args, **_: blocks(*args, **small))
    assert_ranks_are_places(problem)


@pytest.mark.parametrize("target", [-2, 200])
def test_a_target_that_is_no_phrase_is_refused(tiny_bank, queries, target):
    expected = rf"targets: .*expected a phrase id from 0 to 199, found {target}"
    with pytest.raises(BankError, match=expected):
        phrase_ranks(tiny_bank, queries[:1], torch.tensor([[3, target]]))


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_a_query_without_a_direction_is_refused(tiny_bank, queries, value):
    queries[2] = value
    with pytest.raises(EmbeddingError, match="row 2"):
        phrase_ranks(tiny_bank, queries, torch.zeros(30, 1, dtype=torch.int64))


def test_queries_of_another_width_are_refused(tiny_bank):
    with pytest.raises(EmbeddingError, match=r"expected \(q, 16\), found \(2, 5\)"):
        phrase_ranks(tiny_bank, torch.ones(2, 5), torch.zeros(2, 1, dtype=torch.int64))


@pytest.mark.gpu
@pytest.mark.parametrize("kind", CHANGES)
def test_ranks_of_queries_on_a_gpu(make_problem, kind):
    problem = make_problem(kind, "float32", n=600, d=12, q=24, vectors_per_phrase=3)
    targets = torch.arange(problem.bank.num_phrases).expand(24, -1).cuda()
    ranks = phrase_ranks(
        problem.bank, problem.queries.cuda(), targets, exclude_vectors=problem.excluded.cuda()
    )
    assert ranks.device.type == "cuda"
    expected = places_by_definition(problem.bank, problem.queries, problem.excluded)
    np.testing.assert_array_equal(ranks.cpu(), expected)
