from __future__ import annotations

import numpy as np
import pytest
import torch

from lightweight_decoder.bank import PhraseBank
from lightweight_decoder.datatypes import NO_ID
from lightweight_decoder.decoder.phrase_bank_decoder import PhraseBankDecoder
from lightweight_decoder.decoder.splits import Split, no_own_vectors
from lightweight_decoder.errors import ConfigError
from lightweight_decoder.rerank import PhraseClassifier, QueryAdapter
from lightweight_decoder.training.cross_fitting import fit_classifier

NUM_LABELS, DIM = 24, 16


def draw(count, *, seed, middles=None):
    """Queries of labels, around a middle each; the labels are at random where there are none."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % NUM_LABELS
    noise = random.normal(size=(count, DIM))
    queries = noise if middles is None else middles[labels] + 0.6 * noise
    return queries.astype(np.float32), labels


@pytest.fixture
def middles():
    return np.random.default_rng(7).normal(size=(NUM_LABELS, DIM))


def make_decoder(queries, labels):
    """A decoder whose bank holds a random name for each label, and all queries as examples."""
    names = np.random.default_rng(8).normal(size=(NUM_LABELS, DIM))
    texts = [f"label {label}" for label in [*range(NUM_LABELS), *labels]]
    bank = PhraseBank.from_texts(texts, np.concatenate([names, queries]))
    classifier = PhraseClassifier(query_dim=DIM, bank_dim=DIM, num_phrases=bank.num_phrases)
    return PhraseBankDecoder(bank, reranker=classifier)


def split_of(queries, labels, *, in_bank=True):
    own = NUM_LABELS + np.arange(len(labels))[:, None]
    return Split(
        name="train",
        queries=queries,
        targets=labels[:, None],
        own_vectors=own if in_bank else no_own_vectors(len(labels)),
        texts=None,
    )


def fitted(queries, labels, **options):
    decoder = make_decoder(queries, labels)
    split = split_of(queries, labels)
    return decoder, fit_classifier(decoder, decoder.reranker, [split], **options)


def first_right(decoder, queries, labels):
    return (decoder.decode(queries, top_k=1).phrase_ids[:, 0] == labels).mean()


def test_what_is_held_out_is_as_new_queries_are(middles):
    decoder, found = fitted(*draw(480, seed=0, middles=middles))
    new = draw(2_400, seed=1, middles=middles)
    assert 0.6 < found["recall@1"] < 0.99
    assert found["recall@1"] == pytest.approx(first_right(decoder, *new), abs=0.06)
    answered = decoder.decode(new[0], top_k=1)
    right = answered.phrase_ids[:, 0] == new[1]
    assert answered.confidence.mean() == pytest.approx(right.mean(), abs=0.05)


def test_no_query_is_judged_by_what_was_fitted_to_it():
    queries, labels = draw(480, seed=0)  # nothing to learn: all that could be right is remembered
    decoder, found = fitted(queries, labels)
    assert found["recall@1"] < 0.09
    for part, remembered in ((0, 0.12), (1, 0.99)):  # class logit, nearest example
        decoder.reranker.shares.copy_(torch.eye(3)[part])
        assert first_right(decoder, queries, labels) > remembered


def test_it_is_not_below_its_parts(middles):
    queries, labels = draw(480, seed=0, middles=middles)
    decoder, _ = fitted(queries, labels)
    new = draw(2_400, seed=1, middles=middles)
    mixed, shares = first_right(decoder, *new), decoder.reranker.shares.clone()
    assert (shares >= 0).all()
    for alone in torch.eye(3):
        decoder.reranker.shares.copy_(alone)
        assert mixed >= first_right(decoder, *new) - 0.01


def test_queries_that_own_no_vector_are_examples_too(middles):
    queries, labels = draw(480, seed=0, middles=middles)
    decoder = make_decoder(queries[:0], labels[:0])
    new = draw(2_400, seed=1, middles=middles)
    before = first_right(decoder, *new)
    split = split_of(queries, labels, in_bank=False)
    found = fit_classifier(decoder, decoder.reranker, [split])
    assert before < 0.15
    assert first_right(decoder, *new) == pytest.approx(found["recall@1"], abs=0.06)


def test_several_right_phrases_are_all_learned(middles):
    queries, labels = draw(480, seed=0, middles=middles)
    decoder = make_decoder(queries[:0], labels[:0])
    other = (labels + 1) % NUM_LABELS
    targets = np.stack([np.minimum(labels, other), np.maximum(labels, other)], axis=1)
    targets[::2] = np.stack([labels[::2], np.full(240, NO_ID)], axis=1)
    split = Split("train", queries, targets, no_own_vectors(480), None)
    fit_classifier(decoder, decoder.reranker, [split])
    answers = decoder.decode(queries[1::2], top_k=2).phrase_ids
    both = np.sort(answers, axis=1) == targets[1::2]
    assert both.all(axis=1).mean() > 0.5


def test_held_out_labels_teach_what_no_phrase_answers(middles):
    queries, labels = draw(2_400, seed=0, middles=middles)
    is_known = labels < NUM_LABELS - 4
    known = (queries[is_known], labels[is_known])
    decoder, _ = fitted(*known)
    new, asked = draw(2_400, seed=1, middles=middles)
    confidence = decoder.decode(new, top_k=1).confidence
    inside = asked < NUM_LABELS - 4
    pairs = confidence[inside][:, None] > confidence[~inside][None, :]
    assert pairs.mean() > 0.8
    right = decoder.decode(new[inside], top_k=1).phrase_ids[:, 0] == asked[inside]
    assert confidence[inside].mean() == pytest.approx(right.mean(), abs=0.03)


def test_a_seed_decides_everything(middles):
    drawn = draw(240, seed=0, middles=middles)
    (one, _), (same, _), (other, _) = (fitted(*drawn, seed=seed) for seed in (0, 0, 1))
    assert one.calibration == same.calibration != other.calibration
    torch.testing.assert_close(one.reranker.shares, same.reranker.shares, rtol=0, atol=0)


def test_a_fitted_decoder_is_saved_and_read(middles, tmp_path):
    queries, labels = draw(240, seed=0, middles=middles)
    decoder, _ = fitted(queries, labels)
    decoder.save(tmp_path / "decoder.ckpt")
    again = PhraseBankDecoder.from_checkpoint(tmp_path / "decoder.ckpt", bank=decoder.bank)
    expected, found = (each.decode(queries, top_k=8) for each in (decoder, again))
    np.testing.assert_array_equal(found.phrase_ids, expected.phrase_ids)
    np.testing.assert_array_equal(found.values, expected.values)
    np.testing.assert_array_equal(found.confidence, expected.confidence)


def test_what_cannot_be_fitted_is_refused(middles, monkeypatch):
    queries, labels = draw(240, seed=0, middles=middles)
    split, decoder = split_of(queries, labels), make_decoder(queries, labels)
    with pytest.raises(ConfigError, match="a classifier cannot read the queries"):
        fit_classifier(decoder, decoder.reranker, [split_of(queries[:, :8], labels)])
    monkeypatch.setattr("lightweight_decoder.training.cross_fitting._MOST_LOGITS", 12_095)
    with pytest.raises(ConfigError, match=r"up to 12,095, found 12,096"):
        fit_classifier(decoder, decoder.reranker, [split])
    decoder.adapter = QueryAdapter(query_dim=DIM, bank_dim=DIM)
    with pytest.raises(ConfigError, match=r"rerank\.adapter: .* null beside a classifier"):
        fit_classifier(decoder, decoder.reranker, [split])
