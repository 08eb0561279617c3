from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from lightweight_decoder.decoder.phrase_bank_decoder import PhraseBankDecoder
from lightweight_decoder.rerank import PhraseClassifier

NUM_PHRASES, DIM = 7, 12


@pytest.fixture
def examples():
    """Noisy examples of a few phrases, of any length: (m, d) and (m,)."""
    random = np.random.default_rng(0)
    middles = random.normal(size=(NUM_PHRASES, DIM))
    phrases = np.repeat(np.arange(NUM_PHRASES), np.arange(3, 3 + NUM_PHRASES))
    vectors = middles[phrases] + random.normal(size=(len(phrases), DIM))
    return torch.tensor(vectors, dtype=torch.float32), torch.tensor(phrases)


def make_classifier(num_phrases=NUM_PHRASES, dim=DIM, **options):
    return PhraseClassifier(query_dim=dim, bank_dim=dim, num_phrases=num_phrases, **options)


def all_phrases(num_queries):
    return torch.arange(NUM_PHRASES).expand(num_queries, -1)


def unit(vectors):
    return (vectors / vectors.norm(dim=1, keepdim=True)).numpy()


@pytest.mark.parametrize("penalty", [0.03, 0.5])
def test_it_is_the_logistic_regression_of_scikit_learn(examples, penalty):
    vectors, phrases = examples
    classifier = make_classifier(penalty=penalty)
    classifier.fit(vectors, phrases)
    theirs = LogisticRegression(C=1 / penalty, tol=1e-8, max_iter=10_000)
    theirs.fit(unit(vectors).astype(np.float64), phrases)
    new = torch.randn(50, DIM, generator=torch.Generator().manual_seed(1))
    found = classifier.class_logits(new, all_phrases(len(new))).softmax(dim=1)
    np.testing.assert_allclose(found, theirs.predict_proba(unit(new)), atol=0.01)


def test_absent_phrases_are_no_classes(examples):
    vectors, phrases = examples
    absent = torch.tensor([False, True, False, False, True, False, False])
    kept = ~absent[phrases]
    classifier = make_classifier()
    classifier.fit(vectors[kept], phrases[kept], absent=absent)
    theirs = LogisticRegression(C=1 / 0.03, tol=1e-8, max_iter=10_000)
    theirs.fit(unit(vectors[kept]).astype(np.float64), phrases[kept])
    present = (~absent).nonzero().T.expand(len(vectors), -1)
    found = classifier.class_logits(vectors, present).softmax(dim=1)
    np.testing.assert_allclose(found, theirs.predict_proba(unit(vectors)), atol=0.01)
    assert not classifier.weight[absent].any()


def test_a_logit_is_the_weighted_sum_of_what_is_known():
    torch.manual_seed(0)
    classifier = make_classifier()
    classifier.weight.normal_()
    classifier.bias.normal_()
    classifier.shares.copy_(torch.tensor([0.5, 3.0, 2.0]))
    queries = torch.randn(4, DIM)
    phrase_ids = torch.tensor([[2, 5, -1], [0, 1, 6], [3, 2, 1], [4, 0, -1]])
    values = torch.rand(4, 3).masked_fill(phrase_ids < 0, -torch.inf)
    cosines, lengths = torch.rand(4, 3), queries.norm(dim=1, keepdim=True)
    found = classifier(queries, queries, phrase_ids, None, values, cosines * lengths, None)
    for row, column in np.ndindex(4, 3):
        phrase = phrase_ids[row, column]
        direction = queries[row] / queries[row].norm()
        logit = classifier.weight[phrase] @ direction + classifier.bias[phrase]
        expected = 0.5 * logit + 3 * values[row, column] + 2 * cosines[row, column]
        torch.testing.assert_close(found[row, column], expected)


def test_a_new_classifier_ranks_as_the_search_does(tiny_bank, queries):
    classifier = make_classifier(tiny_bank.num_phrases, tiny_bank.dim, num_candidates=24)
    decoder = PhraseBankDecoder(tiny_bank, reranker=classifier)
    expected = PhraseBankDecoder(tiny_bank).decode(queries, top_k=40)
    np.testing.assert_array_equal(decoder.decode(queries, top_k=40).phrase_ids, expected.phrase_ids)


def test_ranks_are_places_in_the_answer(tiny_bank, queries):
    torch.manual_seed(0)
    classifier = make_classifier(tiny_bank.num_phrases, tiny_bank.dim, num_candidates=24)
    classifier.weight.normal_()
    classifier.shares.copy_(torch.tensor([1.0, 2.0, 0.5]))
    decoder = PhraseBankDecoder(tiny_bank, reranker=classifier)
    asked = torch.as_tensor(queries)
    places = decoder.decode(queries, top_k=tiny_bank.num_phrases).phrase_ids
    targets = torch.from_numpy(places[:, [0, 5, 23, 24, 100]].copy())
    expected = torch.tensor([1, 6, 24, 25, 101]).expand(len(asked), -1)
    torch.testing.assert_close(decoder.ranks(asked, targets), expected)
