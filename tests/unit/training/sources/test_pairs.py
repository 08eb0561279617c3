from __future__ import annotations

import numpy as np
import pytest

from lightweight_decoder.bank import PhraseBank
from lightweight_decoder.errors import BankError, EmbeddingError, InputDataError
from lightweight_decoder.training.sources.pairs import Pairs
from lightweight_decoder.vectors.preprocessing import PCA

PHRASES = ["road", "café au lait", "turkey", "highway"]
COUNT = 40


@pytest.fixture
def bank_folder(tmp_path):
    vectors = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)
    PhraseBank.build(tmp_path / "bank", PHRASES, vectors)
    return tmp_path / "bank"


@pytest.fixture
def make_source(bank_folder, tmp_path):
    def make(queries=None, texts=None, **changes):
        if queries is None:
            queries = np.random.default_rng(1).standard_normal((COUNT, 9)).astype(np.float32)
        texts = [PHRASES[i % 4] for i in range(COUNT)] if texts is None else texts
        np.save(tmp_path / "queries.npy", queries)
        (tmp_path / "targets.txt").write_text("".join(f"{text}\n" for text in texts))
        arguments = {
            "queries": tmp_path / "queries.npy",
            "targets": tmp_path / "targets.txt",
            "bank": bank_folder,
            **changes,
        }
        return Pairs(**arguments)

    return make


def test_every_query_keeps_its_target(make_source, tmp_path):
    source = make_source()
    source.prepare()
    queries = np.load(tmp_path / "queries.npy")
    seen = []
    for name, size in {"train": 28, "val": 4, "calib": 4, "test": 4}.items():
        split = source.split(name)
        assert split.queries.shape == (size, 9)  # wider than the bank's 6
        assert split.own_vectors.shape == (size, 0)
        assert split.texts is None
        for query, target in zip(split.queries, split.targets, strict=True):
            row = np.flatnonzero((queries == query).all(axis=1)).item()
            assert target.tolist() == [row % 4]
            seen.append(row)
    assert sorted(seen) == list(range(COUNT))


def test_splits_follow_from_the_seed(make_source):
    first, again, other = (make_source(seed=s).split("test").queries for s in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_targets_may_be_a_column_of_a_table(make_source, tmp_path):
    rows = "".join(f'{i},"{PHRASES[i % 4]}"\n' for i in range(COUNT))
    (tmp_path / "targets.csv").write_text(f"id,word\n{rows}")
    source = make_source(targets=tmp_path / "targets.csv", target_column="word")
    np.testing.assert_array_equal(source.split("val").targets, make_source().split("val").targets)


def test_targets_are_found_however_they_are_spelled_in_unicode(make_source):
    texts = ["cafe\u0301  au lait"] * COUNT
    assert (make_source(texts=texts).split("train").targets == 1).all()


def test_a_target_that_is_not_in_the_bank_is_named(make_source):
    texts = ["road"] * 17 + ["lane"] + ["road"] * 22
    with pytest.raises(InputDataError, match=r"targets\.txt, row 17: .*not in the bank.*'lane'"):
        make_source(texts=texts).prepare()


def test_other_numbers_of_queries_and_targets_are_refused(make_source):
    with pytest.raises(InputDataError, match=r"queries\.npy: .*expected 41 rows.*found 40 rows"):
        make_source(texts=["road"] * 41).prepare()


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0])
def test_a_query_without_a_direction_is_named(make_source, bad):
    queries = np.random.default_rng(1).standard_normal((COUNT, 9)).astype(np.float32)
    queries[23] = bad
    with pytest.raises(InputDataError, match=r"queries\.npy, row 23"):
        make_source(queries=queries).prepare()


def test_a_missing_bank_is_refused(make_source, tmp_path):
    with pytest.raises(BankError, match="absent"):
        make_source(bank=tmp_path / "absent").prepare()


@pytest.mark.parametrize("name", ["queries.npy", "targets.txt"])
def test_a_missing_file_is_refused(make_source, tmp_path, name):
    source = make_source()
    (tmp_path / name).unlink()
    with pytest.raises(InputDataError, match=name):
        source.prepare()


@pytest.fixture
def reduced_bank(tmp_path):
    """A bank of 6 coordinates reduced to 3."""
    vectors = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)
    return PhraseBank.build(tmp_path / "reduced", PHRASES, vectors, preprocessing=[PCA(dim=3)])


def test_queries_of_the_banks_input_go_through_its_preprocessing(make_source, reduced_bank):
    queries = np.random.default_rng(1).standard_normal((COUNT, 6)).astype(np.float32)
    source = make_source(queries, bank=reduced_bank.path)
    source.prepare()
    given = {row.tobytes() for row in reduced_bank.preprocess(queries)}
    assert {row.tobytes() for row in source.split("train").queries} <= given


def test_queries_of_another_width_stay_as_they_are(make_source, reduced_bank):
    queries = np.random.default_rng(1).standard_normal((COUNT, 5)).astype(np.float32)
    source = make_source(queries, bank=reduced_bank.path)
    assert {tuple(row) for row in source.split("train").queries} <= {tuple(row) for row in queries}


def test_queries_of_the_width_behind_the_preprocessing_are_refused(make_source, reduced_bank):
    queries = np.random.default_rng(1).standard_normal((COUNT, 3)).astype(np.float32)
    with pytest.raises(EmbeddingError, match=r"expected \(q, 6\), .*found \(40, 3\)"):
        make_source(queries, bank=reduced_bank.path).prepare()
