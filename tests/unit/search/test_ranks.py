from __future__ import annotations

import numpy as np
import pytest
import torch

from lightweight_decoder.bank import PhraseBank
from lightweight_decoder.datatypes import NO_ID
from lightweight_decoder.search import ExactSearch, phrase_ranks
from lightweight_decoder.search import ranks as ranks_module


def expected_ranks(bank, queries, targets, excluded=None):
    """The definition, in float64, one query at a time."""
    vectors, owners = bank.vectors.astype(np.float64), bank.owners
    ranks = np.zeros(targets.shape, dtype=np.int64)
    for row, query in enumerate(queries.double().numpy()):
        cosines = vectors @ query / np.linalg.norm(query)
        hidden = set() if excluded is None else set(excluded[row].tolist()) - {NO_ID}
        best = [
            max((cosines[v] for v in np.flatnonzero(owners == p) if v not in hidden), default=None)
            for p in range(bank.num_phrases)
        ]
        there = [p for p in range(bank.num_phrases) if best[p] is not None]
        order = sorted(there, key=lambda p: (-best[p], p))
        places = {phrase: place for place, phrase in enumerate(order, start=1)}
        ranks[row] = [places.get(int(target), 0) for target in targets[row]]
    return ranks


def random_targets(num_queries):
    targets = np.random.default_rng(3).integers(200, size=(num_queries, 4))
    targets[::3, 2:] = NO_ID
    targets[1, :] = NO_ID
    return torch.from_numpy(targets)


def hidden_vectors(bank, targets):
    """Every vector of the first target, one of the second's, and some others."""
    hidden = np.full((len(targets), 6), NO_ID)
    hidden[:, :3] = np.pad(
        bank.vector_ids_of(targets[:, 0].numpy()), ((0, 0), (0, 2)), constant_values=NO_ID
    )[:, :3]
    hidden[:, 3] = bank.vector_ids_of(targets[:, 1].numpy())[:, 0]
    hidden[:, 4] = np.arange(len(targets)) + 100
    return torch.from_numpy(hidden)


def test_ranks_of_all_phrases_of_a_bank(tiny_bank, queries):
    targets = torch.arange(200).expand(30, 200)
    found = phrase_ranks(tiny_bank, queries, targets)
    np.testing.assert_array_equal(found, expected_ranks(tiny_bank, queries, targets))


def test_excluded_vectors_do_not_count(tiny_bank, queries):
    targets = random_targets(30)
    hidden = hidden_vectors(tiny_bank, targets)
    found = phrase_ranks(tiny_bank, queries, targets, exclude_vectors=hidden)
    np.testing.assert_array_equal(found, expected_ranks(tiny_bank, queries, targets, hidden))
    assert (found[:, 0] == 0).all()
    assert (found[:, 1] > 0).any()  # of several vectors, the others still count
    assert (found[targets == NO_ID] == 0).all()


def test_nothing_to_exclude_is_like_no_exclusion(tiny_bank, queries):
    targets = random_targets(30)
    none = torch.empty(30, 0, dtype=torch.int64)
    filled = torch.full((30, 2), NO_ID)
    expected = phrase_ranks(tiny_bank, queries, targets)
    for excluded in (none, filled):
        found = phrase_ranks(tiny_bank, queries, targets, exclude_vectors=excluded)
        assert torch.equal(found, expected)


def test_blocks_of_queries_and_vectors_change_nothing(tiny_bank, queries, monkeypatch):
    targets = random_targets(30)
    hidden = hidden_vectors(tiny_bank, targets)
    expected = phrase_ranks(tiny_bank, queries, targets, exclude_vectors=hidden)
    blocks = ranks_module._blocks

    def small_blocks(bank, num_queries, device):
        for first, vectors, owners in blocks(bank, num_queries, device):
            for start in range(0, len(vectors), 33):
                rows = slice(start, start + 33)
                yield first + start, vectors[rows], owners[rows]

    monkeypatch.setattr(ranks_module, "_MAX_BYTES", 4 * 200 * 7)
    monkeypatch.setattr(ranks_module, "_blocks", small_blocks)
    found = phrase_ranks(tiny_bank, queries, targets, exclude_vectors=hidden)
    assert torch.equal(found, expected)


def test_agrees_with_the_search(tiny_bank, queries):
    found = ExactSearch(tiny_bank).search(queries, 200)
    ranks = phrase_ranks(tiny_bank, queries, found.phrase_ids)
    assert torch.equal(ranks, torch.arange(1, 201).expand(30, 200))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_ties_fall_to_the_lower_phrase(tmp_path, dtype):
    vectors = np.random.default_rng(0).normal(size=(20, 16)).astype(np.float32)
    texts = [f"word {i}" for i in range(60)]
    bank = PhraseBank.build(tmp_path / "bank", texts, np.tile(vectors, (3, 1)), dtype=dtype)
    queries = torch.from_numpy(vectors[:5])
    targets = torch.arange(5)[:, None] + torch.tensor([0, 20, 40])
    assert phrase_ranks(bank, queries, targets).tolist() == [[1, 2, 3]] * 5
