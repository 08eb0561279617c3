from __future__ import annotations

import numpy as np
import pytest
import torch

from lightweight_decoder.datatypes import NO_ID, Candidates
from lightweight_decoder.rerank import (
    CandidateScorer,
    agreement,
    hubness,
    is_right,
    phrase_features,
    phrase_sums,
)


def unit(rows):
    rows = np.asarray(rows, dtype=np.float64)
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def targets_for(bank, num_queries):
    """Two right phrases for every other query, one for the rest."""
    targets = np.random.default_rng(5).integers(bank.num_phrases, size=(num_queries, 2))
    targets[1::2, 1] = NO_ID
    return targets


def expected_hubness(bank, queries, targets, neighbors):
    values = np.full(bank.num_phrases, -np.inf)
    for vector, owner in zip(bank.vectors.astype(np.float64), bank.owners, strict=True):
        others = [q for q, right in zip(queries, targets, strict=True) if owner not in right]
        nearest = sorted((float(vector @ q) for q in others), reverse=True)[:neighbors]
        values[owner] = max(values[owner], np.mean(nearest))
    return values - values.mean()


@pytest.mark.parametrize(("num_queries", "neighbors"), [(60, 10), (30, 3), (12, 12), (12, 100)])
def test_hubness_leaves_a_phrases_own_queries_out(tiny_bank, num_queries, neighbors):
    queries = unit(np.random.default_rng(4).normal(size=(num_queries, 16)))
    targets = targets_for(tiny_bank, num_queries)
    hub = hubness(
        tiny_bank,
        torch.from_numpy(queries).float(),
        torch.from_numpy(targets),
        neighbors=neighbors,
    )
    expected = expected_hubness(tiny_bank, queries, targets, neighbors)
    np.testing.assert_allclose(hub, expected, atol=1e-6)


def test_hubness_of_a_phrase_that_is_right_for_every_query_is_finite(single_bank):
    queries = torch.from_numpy(unit(np.random.default_rng(4).normal(size=(6, 16)))).float()
    hub = hubness(single_bank, queries, torch.full((6, 1), 7))
    assert torch.isfinite(hub).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_surroundings_do_not_change_hubness(tiny_bank, surroundings, dtype):
    queries = torch.from_numpy(unit(np.random.default_rng(4).normal(size=(60, 16)))).to(dtype)
    targets = targets_for(tiny_bank, 60)
    with surroundings():
        hub = hubness(tiny_bank, queries, torch.from_numpy(targets))
    assert hub.dtype == torch.float32
    expected = expected_hubness(tiny_bank, unit(queries.double().numpy()), targets, 10)
    np.testing.assert_allclose(hub, expected, atol=1e-6)


def test_own_queries_change_nothing(single_bank):
    """What a phrase was trained on must not show in its hubness."""
    random = np.random.default_rng(4)
    queries = torch.from_numpy(unit(random.normal(size=(50, 16)))).float()
    targets = torch.from_numpy(random.integers(1, 40, size=(50, 1)))
    before = hubness(single_bank, queries, targets)
    own = torch.from_numpy(single_bank.vectors[:1]).repeat(5, 1)
    after = hubness(
        single_bank, torch.cat([queries, own]), torch.cat([targets, torch.zeros(5, 1).long()])
    )
    shift = (after - before)[0]  # only through the mean of all
    moved_others = (after - before)[1:]
    assert (moved_others >= shift - 1e-6).all()
    assert moved_others.max() > shift + 1e-3


def test_features_are_standardized_logs(tiny_bank):
    features = phrase_features(tiny_bank)
    texts = tiny_bank.texts(np.arange(200))
    columns = [
        np.log1p(np.arange(200.0) ** 2),
        np.log([len(text) for text in texts]),
        np.log([len(text.split()) for text in texts]),
        np.array([text[0] == "P" for text in texts], dtype=float),
        np.log([3.0 if i % 5 == 0 else 1.0 for i in range(200)]),
    ]
    expected = np.stack([(c - c.mean()) / c.std() for c in columns], axis=1)
    assert features.dtype == torch.float32
    np.testing.assert_allclose(features, expected, atol=1e-4)


def test_constant_features_are_zero(single_bank):
    features = phrase_features(single_bank)
    assert (features[:, [0, 2, 3, 4]] == 0).all()  # only the lengths differ
    assert features[:, 1].std() > 0


def test_sums_of_vectors(tiny_bank, single_bank):
    expected = np.zeros((200, 16))
    np.add.at(expected, tiny_bank.owners, tiny_bank.vectors.astype(np.float64))
    np.testing.assert_allclose(phrase_sums(tiny_bank), expected, atol=1e-6)
    assert phrase_sums(single_bank) is None


def test_agreement_is_the_cosine_with_all_vectors_but_the_querys_own(tiny_bank, queries):
    adapted = torch.from_numpy(unit(queries)).float()[:4]
    ids = torch.tensor([[0, 1, 5], [10, 5, 2], [0, 5, 10], [15, 3, 0]])
    own = torch.tensor([[0, NO_ID], [200 + 3, 5], [NO_ID, NO_ID], [15, 0]])
    owners = torch.from_numpy(tiny_bank.owners)[own].masked_fill(own == NO_ID, NO_ID)
    counts = (owners[:, :, None] == ids[:, None]).float()
    found = agreement(
        adapted,
        torch.zeros(4, 3, 16),
        phrase_sums(tiny_bank)[ids],
        tiny_bank.gather(own),
        counts,
    )
    for q in range(4):
        for k in range(3):
            rows = [
                row
                for row in np.flatnonzero(tiny_bank.owners == int(ids[q, k]))
                if row not in own[q].tolist()
            ]
            together = tiny_bank.vectors[rows].astype(np.float64).sum(axis=0)
            cosine = together @ adapted[q].double().numpy() / np.linalg.norm(together)
            assert found[q, k].item() == pytest.approx(cosine, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_surroundings_do_not_change_agreement(tiny_bank, queries, surroundings, dtype):
    adapted = torch.from_numpy(unit(queries)).to(dtype)
    ids = torch.arange(40).expand(30, -1)
    own = torch.randint(280, (30, 2), generator=torch.Generator().manual_seed(0))
    found = Candidates(
        phrase_ids=ids, vector_ids=ids, values=torch.zeros(30, 40).float(), kind="cosine"
    )
    with surroundings():
        vectors = tiny_bank.gather(ids)
        values = CandidateScorer(tiny_bank).agreement(adapted, vectors, found, own)
    assert values.dtype == torch.float32
    for q, row in enumerate(own.tolist()):
        for k in range(40):
            rows = [v for v in np.flatnonzero(tiny_bank.owners == k) if v not in row]
            together = tiny_bank.vectors[rows].astype(np.float64).sum(axis=0)
            expected = together @ adapted[q].double().numpy() / (np.linalg.norm(together) or 1)
            assert values[q, k].item() == pytest.approx(expected, abs=2e-6)


def test_agreement_of_single_vectors_is_their_cosine(single_bank, queries):
    adapted = torch.from_numpy(unit(queries)).float()
    vectors = torch.from_numpy(single_bank.vectors[:6]).expand(30, 6, 16)
    expected = adapted.numpy() @ single_bank.vectors[:6].T
    np.testing.assert_allclose(agreement(adapted, vectors, None), expected, atol=1e-6)


def test_is_right():
    targets = torch.tensor([[3, 5], [4, NO_ID]])
    ids = torch.tensor([[5, 3, 4, NO_ID], [3, 4, NO_ID, 5]])
    expected = torch.tensor([[True, True, False, False], [False, True, False, False]])
    assert torch.equal(is_right(ids, targets), expected)
    assert torch.equal(is_right(ids[0], targets)[0], expected[0])
    assert is_right(ids, torch.empty(2, 0, dtype=torch.int64)).sum() == 0
