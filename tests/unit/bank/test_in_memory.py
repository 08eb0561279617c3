"""Banks in memory and from pairs: the same as in a folder, whatever asks."""

from __future__ import annotations

import doctest
import pickle

import numpy as np
import pytest
import torch

from lightweight_decoder.bank import BankRows, EncoderInfo, PhraseBank, phrase_bank, write_bank
from lightweight_decoder.bank.manifest import read_manifest
from lightweight_decoder.decoder.phrase_bank_decoder import PhraseBankDecoder
from lightweight_decoder.encoder import CustomEncoder
from lightweight_decoder.errors import BankBuildError, BankError
from lightweight_decoder.rerank.features import phrase_features, phrase_sums
from lightweight_decoder.search import ExactSearch
from lightweight_decoder.vectors.preprocessing import L2, PCA

METADATA = {"frequency": [7, 6, 5, 4, 3, 2, 1], "source": list("abcdefg")}


class CountingEncoder:
    """Gives each text the vector of its length and its first letter."""

    name, fingerprint, settings, knows_sides = "lengths", "0123", None, False

    def __init__(self):
        self.asked = []

    def encode_phrases(self, texts):
        self.asked += texts
        return np.array([[len(text), ord(text[0]), 1] for text in texts], dtype=np.float32)

    encode_queries = encode_phrases


@pytest.mark.parametrize("preprocessing", [(), (L2(), PCA(dim=3))])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_the_fingerprint_is_that_of_the_folder(tmp_path, texts, vectors, preprocessing, dtype):
    vectors = vectors.astype(dtype)
    options = {"metadata": METADATA, "preprocessing": preprocessing}
    held = PhraseBank.from_texts(texts, vectors, **options)
    built = PhraseBank.build(tmp_path / "bank", texts, vectors, **options)
    stored = "float16" if dtype is np.float16 and not preprocessing else "float32"
    rows = [BankRows(texts, vectors, METADATA)]
    write_bank(tmp_path / "streamed", rows, preprocessing=preprocessing, dtype=stored)
    streamed = PhraseBank.open(tmp_path / "streamed")
    assert held.fingerprint == built.fingerprint == streamed.fingerprint
    assert held.path is None
    assert built.path == tmp_path / "bank"
    for bank in (held, built):
        bank.verify()
        np.testing.assert_array_equal(bank.vectors, streamed.vectors)
        np.testing.assert_array_equal(bank.owners, streamed.owners)
        assert bank.texts(range(4)) == streamed.texts(range(4))
        assert bank.column("source").tolist() == ["a", "b", "c", "e"]
        np.testing.assert_array_equal(
            bank.preprocess(np.ones((2, 5), np.float32)),
            streamed.preprocess(np.ones((2, 5), np.float32)),
        )


def test_everything_that_reads_a_bank_takes_one_in_memory(tmp_path, texts, vectors):
    held = PhraseBank.from_texts(texts, vectors, metadata=METADATA)
    built = PhraseBank.build(tmp_path / "bank", texts, vectors, metadata=METADATA)
    queries = np.random.default_rng(3).normal(size=(9, 5)).astype(np.float32)
    one, other = PhraseBankDecoder(held).decode(queries), PhraseBankDecoder(built).decode(queries)
    assert one.texts == other.texts
    np.testing.assert_array_equal(one.values, other.values)
    assert torch.equal(phrase_features(held), phrase_features(built))
    assert torch.equal(phrase_sums(held), phrase_sums(built))
    ids = torch.tensor([[0, 6], [-1, 2]])
    assert torch.equal(held.gather(ids), built.gather(ids))
    found = ExactSearch(held).search(torch.from_numpy(queries), 2)
    assert torch.equal(found.phrase_ids, torch.from_numpy(other.phrase_ids[:, :2]))
    with pytest.raises(BankError, match=r"bank in memory.*phrase id from 0 to 3, found 4"):
        held.texts([4])


def test_a_bank_in_memory_is_saved_as_it_would_have_been_built(tmp_path, texts, vectors):
    held = PhraseBank.from_texts(texts, vectors, preprocessing=[PCA(dim=2)])
    saved = held.save(tmp_path / "some" / "bank")
    assert saved.fingerprint == held.fingerprint
    saved.verify()
    with pytest.raises(BankBuildError, match="the output exists already"):
        held.save(tmp_path / "some" / "bank")
    other = PhraseBank.from_texts(texts[:2], vectors[:2]).save(saved.path, overwrite=True)
    assert read_manifest(saved.path).fingerprint == other.fingerprint
    assert [path.name for path in (tmp_path / "some").iterdir()] == ["bank"]


def test_a_bank_in_memory_is_pickled_whole(texts, vectors):
    held = PhraseBank.from_texts(texts, vectors, metadata=METADATA, preprocessing=[PCA(dim=2)])
    copied = pickle.loads(pickle.dumps(held))  # noqa: S301, our own bytes
    assert copied.fingerprint == held.fingerprint
    copied.verify()
    np.testing.assert_array_equal(copied.vectors, held.vectors)
    torch.from_numpy(copied.vectors).mul_(1)  # no warning about a read-only array


def test_texts_are_encoded_where_there_are_no_vectors(texts):
    encoder = CountingEncoder()
    bank = PhraseBank.from_texts(texts, encoder=encoder)
    assert encoder.asked == texts
    assert bank.manifest.encoder == EncoderInfo("lengths", "0123")
    expected = CountingEncoder().encode_phrases(texts)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(bank.vectors, expected, atol=1e-6)
    given = PhraseBank.from_texts(texts, CountingEncoder().encode_phrases(texts), encoder=encoder)
    assert given.fingerprint == bank.fingerprint
    assert encoder.asked == texts


def test_any_object_that_encodes_both_sides_makes_a_bank():
    class Lengths:
        def encode_phrases(self, texts):
            return [[len(text), 1] for text in texts]

        def encode_queries(self, texts):
            return [[len(text), 2] for text in texts]

    bank = PhraseBank.from_texts(["a", "bcd"], encoder=Lengths())
    expected = np.array([[1, 1], [3, 1]]) / np.sqrt([[2], [10]])
    np.testing.assert_allclose(bank.vectors, expected, atol=1e-6)
    assert bank.manifest.encoder.name.endswith("Lengths")
    assert bank.manifest.encoder == EncoderInfo.of(CustomEncoder(Lengths()))


def test_a_text_that_cannot_be_a_phrase_is_refused_before_it_is_encoded():
    encoder = CountingEncoder()
    with pytest.raises(BankBuildError, match="row 1: a text cannot be a phrase"):
        PhraseBank.from_texts(["a", " "], encoder=encoder)
    assert encoder.asked == []


@pytest.mark.parametrize("kind", ["list", "float64", "tensor", "bfloat16", "with a gradient"])
def test_any_rows_of_numbers_are_vectors(kind):
    numbers = [[3.0, 4.0], [1.0, 0.0], [0.0, -2.0]]
    given = {
        "list": numbers,
        "float64": np.array(numbers),
        "tensor": torch.tensor(numbers),
        "bfloat16": torch.tensor(numbers, dtype=torch.bfloat16),
        "with a gradient": torch.tensor(numbers, requires_grad=True),
    }[kind]
    bank = PhraseBank.from_texts(np.array(["a", "b", "c"]), given)
    np.testing.assert_allclose(bank.vectors, [[0.6, 0.8], [1, 0], [0, -1]], rtol=1e-6)


@pytest.mark.parametrize(
    ("texts", "vectors", "metadata", "message"),
    [
        (["a"], np.ones((2, 3)), None, "differ in number: expected 2 texts .*, found 1"),
        (["a", "b"], np.ones((2, 3)), {"n": [1]}, "'n' has another length: expected 2 .*, found 1"),
        (["a"], np.ones(3), None, r"another shape: expected \(rows, width\), found \(3,\)"),
        (["a"], [["x"]], None, "not an array of numbers"),
        ([], np.ones((0, 3)), None, "expected at least one row, found none"),
        (["a", "b"], [[1, 2], [np.nan, 0]], None, "row 1: .*found nan in column 0"),
    ],
)
def test_what_does_not_go_together_is_refused(tmp_path, texts, vectors, metadata, message):
    with pytest.raises(BankBuildError, match=message):
        PhraseBank.from_texts(texts, vectors, metadata=metadata)
    with pytest.raises(BankBuildError, match=message):
        PhraseBank.build(tmp_path / "bank", texts, vectors, metadata=metadata)
    assert list(tmp_path.iterdir()) == []


def test_more_rows_than_a_block(tmp_path):
    count = 20_000
    texts = [f"phrase {i % 15_000}" for i in range(count)]
    vectors = np.random.default_rng(0).normal(size=(count, 3))
    bank = PhraseBank.from_texts(texts, vectors, metadata={"row": np.arange(count)})
    assert bank.owners.tolist() == [i % 15_000 for i in range(count)]
    assert bank.column("row", np.array([14_999, 3])).tolist() == [14_999, 3]
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    np.testing.assert_allclose(bank.vectors, unit, atol=1e-6)


def test_a_bank_says_what_it_is(bank, texts, vectors):
    assert repr(bank) == (f'PhraseBank(4 phrases, 7 vectors of width 5, float32, "{bank.path}")')
    many = PhraseBank.from_texts([str(i) for i in range(1_200)], np.eye(1_200, dtype=np.float16))
    assert repr(many) == (
        "PhraseBank(1,200 phrases, 1,200 vectors of width 1200, float16, in memory)"
    )


def test_the_examples_of_the_docstring_hold():
    failed, attempted = doctest.testmod(phrase_bank)
    assert (failed, attempted > 0) == (0, True)
