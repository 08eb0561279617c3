from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from lightweight_decoder.bank import PhraseBank
from lightweight_decoder.datatypes import NO_ID
from lightweight_decoder.decoder.splits import SPLIT_NAMES
from lightweight_decoder.errors import BankError, ConfigError
from lightweight_decoder.training.sources import reverse_dictionary
from lightweight_decoder.training.sources.reverse_dictionary import (
    ReverseDictionary,
    merge_entries,
    read_wordnet,
)
from lightweight_decoder.vectors.preprocessing import Center

SIZES = {"num_test": 1, "num_val": 1, "num_calib": 1}


@pytest.fixture
def make_source(encoder, tmp_path, wordnet_folder):
    def make(**changes):
        arguments = {
            "encoder": encoder,
            "bank_root": tmp_path / "banks",
            "wordnet": wordnet_folder,
            "size": "full",
            **SIZES,
            **changes,
        }
        return ReverseDictionary(**arguments)

    return make


def of_row(ids):
    return [int(i) for i in ids if i != NO_ID]


def test_the_bank_has_every_phrase_by_falling_use(make_source, encoder):
    source = make_source()
    source.prepare()
    bank = source.bank
    texts = bank.texts(range(bank.num_phrases))
    assert texts[:5] == ["run", "road", "highway", "afraid", "Turkey"]
    assert sorted(texts[7:]) == ["fast", "main", "main road", "thoroughfare", "turkey"]
    np.testing.assert_allclose(bank.vectors[2], encoder.unit_vector("highway"), atol=1e-6)


def test_the_bank_says_what_it_knows_of_a_phrase(make_source):
    source = make_source()
    source.prepare()
    bank = source.bank
    (row,) = bank.find(["Republic of Turkey"])
    assert {name: bank.column(name)[row] for name in bank.column_names} == {
        "frequency": 2,
        "num_senses": 1,
        "parts_of_speech": "n",
        "num_words": 3,
    }
    assert bank.column("frequency").dtype == np.int64
    assert bank.manifest.encoder.name == "hashing"


def test_small_keeps_the_most_used_phrases_and_what_defines_them(make_source, monkeypatch):
    monkeypatch.setattr(reverse_dictionary, "SMALL_NUM_PHRASES", 6)
    source = make_source(size="small")
    source.prepare()
    bank = source.bank
    texts = bank.texts(range(bank.num_phrases))
    assert texts == ["run", "road", "highway", "afraid", "Turkey", "Republic of Turkey"]
    for name in SPLIT_NAMES:
        split = source.split(name)
        assert all(of_row(row) for row in split.targets)


def test_synsets_with_one_definition_are_one_entry(wordnet_folder):
    synsets = read_wordnet(wordnet_folder)
    phrases = frozenset(phrase for synset in synsets for phrase in synset.phrases)
    entries = {e.definition: e.phrases for e in merge_entries(synsets, phrases)}
    assert len(entries) == 8
    assert entries["an open way for travel"] == ("road", "thoroughfare")


def test_targets_are_the_phrases_of_the_definition(make_source, encoder, wordnet_folder):
    expected = {}
    for synset in read_wordnet(wordnet_folder):
        expected.setdefault(synset.definition, set()).update(synset.phrases)
    source = make_source()
    source.prepare()
    bank, texts = source.bank, []
    for name in SPLIT_NAMES:
        split = source.split(name)
        texts += split.texts
        for i, text in enumerate(split.texts):
            assert set(bank.texts(of_row(split.targets[i]))) == expected[text]
            np.testing.assert_array_equal(split.queries[i], encoder.vector(text))
        assert split.own_vectors.shape == (len(split), 0)
    assert sorted(texts) == sorted(expected)  # nothing shares a phrase here, so nothing is lost


def test_definitions_in_the_bank_are_hidden_from_their_own_queries(make_source):
    source = make_source(bank_definitions=True)
    source.prepare()
    bank, split = source.bank, source.split("train")
    num_texts = {"a major road": 3}  # the definition and two examples, for each of two phrases
    for i, text in enumerate(split.texts):
        targets, own = of_row(split.targets[i]), of_row(split.own_vectors[i])
        assert sorted(bank.owners[own]) == targets  # one for every phrase of the definition
        query = split.queries[i] / np.linalg.norm(split.queries[i])
        equal = np.flatnonzero(bank.vectors @ query > 1 - 1e-5)
        assert equal.tolist() == own
        for phrase in targets:
            owned = of_row(bank.vector_ids_of([phrase])[0])
            assert len(owned) == 1 + num_texts.get(text, 2 if text == "move fast" else 1)


def test_only_training_definitions_join_the_bank(make_source, encoder):
    source = make_source(bank_definitions=True)
    source.prepare()
    bank = source.bank
    for name in ("val", "calib", "test"):
        split = source.split(name)
        assert split.own_vectors.shape == (len(split), 0)
        queries = split.queries / np.linalg.norm(split.queries, axis=1, keepdims=True)
        assert (bank.vectors @ queries.T).max() < 1 - 1e-3


def test_a_bank_is_built_once(make_source, encoder, tmp_path):
    make_source().prepare()
    encoder.encoded.clear()
    make_source().prepare()
    assert "highway" not in encoder.encoded
    assert len(list((tmp_path / "banks").iterdir())) == 1


@pytest.mark.parametrize("change", ["encoder", "bank_definitions"])
def test_another_content_is_another_bank(make_source, other_encoder, tmp_path, change):
    make_source().prepare()
    make_source(**{change: other_encoder if change == "encoder" else True}).prepare()
    assert len(list((tmp_path / "banks").iterdir())) == 2


def test_another_seed_is_the_same_bank_with_other_splits(make_source, tmp_path):
    splits = []
    for seed in range(6):
        source = make_source(seed=seed)
        source.prepare()
        splits.append(source.split("test").texts[0])
    assert len(list((tmp_path / "banks").iterdir())) == 1
    assert len(set(splits)) > 1


def test_a_damaged_bank_is_built_again(make_source, tmp_path, caplog):
    make_source().prepare()
    (folder,) = (tmp_path / "banks").iterdir()
    (folder / "vectors.npy").write_bytes(b"cut")
    source = make_source()
    with pytest.raises(BankError):
        _ = source.bank
    source.prepare()
    assert "building a cached bank again" in caplog.text
    source.bank.verify()


def test_a_bank_that_has_moved_is_opened_where_it_is(make_source, tmp_path):
    make_source().prepare()
    (folder,) = (tmp_path / "banks").iterdir()
    folder.rename(tmp_path / "moved")
    source = make_source(bank=tmp_path / "moved")
    source.prepare()

    assert source.bank.path == tmp_path / "moved"
    assert not list((tmp_path / "banks").iterdir())


def test_a_bank_with_preprocessing_is_not_the_one_that_was_planned(make_source, tmp_path):
    make_source().prepare()
    bank = make_source().bank
    texts = bank.texts(bank.owners)
    PhraseBank.build(tmp_path / "other", texts, bank.vectors, preprocessing=[Center()])
    with pytest.raises(BankError, match="the bank has preprocessing, the data makes one without"):
        make_source(bank=tmp_path / "other").prepare()


def test_splits_that_are_too_large_are_refused(make_source):
    with pytest.raises(ConfigError, match="too large"):
        make_source(num_test=100).prepare()


def test_the_default_task_has_the_size_it_is_known_for(
    real_wordnet, encoder, tmp_path, monkeypatch
):
    monkeypatch.setattr(reverse_dictionary, "read_wordnet", lambda _: real_wordnet)
    plan = ReverseDictionary(encoder=encoder, bank_root=tmp_path)._plan
    assert plan.num_phrases == len(plan.encoded.phrases) == 20_000
    assert min(plan.encoded.metadata["frequency"].values()) >= 1
    assert {name: len(plan.entries[name]) for name in ("val", "calib", "test")} == dict.fromkeys(
        ("val", "calib", "test"), 2_000
    )
    assert 27_000 < len(plan.entries["train"]) < 29_000


def test_an_unknown_size_is_refused(make_source):
    with pytest.raises(ConfigError, match=r"data\.size: .*small or full, found medium"):
        make_source(size="medium")


def test_nothing_depends_on_the_order_of_sets(wordnet_folder, tmp_path):
    code = (
        "import sys; from pathlib import Path; from types import SimpleNamespace\n"
        "from lightweight_decoder.training.sources.reverse_dictionary import ReverseDictionary\n"
        "encoder = SimpleNamespace(fingerprint='0' * 64)\n"
        "plan = ReverseDictionary(encoder=encoder, bank_root=Path('banks'), size='full',\n"
        "    bank_definitions=True, num_test=2, num_val=1, num_calib=1,\n"
        "    wordnet=Path(sys.argv[1]))._plan\n"
        "print(plan.entries, plan.encoded.folder)\n"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code, str(wordnet_folder)],
            env={**os.environ, "PYTHONHASHSEED": str(hash_seed)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in (1, 2)
    }
    assert len(found) == 1
