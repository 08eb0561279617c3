"""Approximate search over small banks: recall, files, errors; exactness is in the conformance."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch

from lightweight_decoder.bank import PhraseBank
from lightweight_decoder.datatypes import NO_ID
from lightweight_decoder.errors import (
    BankBuildError,
    BankError,
    ConfigError,
    MissingDependencyError,
)
from lightweight_decoder.search import (
    ApproximateSearch,
    AutoSearch,
    ExactSearch,
    FaissSearch,
    HnswSearch,
)
from lightweight_decoder.search.approximate import Setting
from lightweight_decoder.search.tuning import sample_queries, tune

NUM_VECTORS = 2_000
DIM = 24


def unit(seed, *shape):
    rows = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(rows, dim=1)


def bank_at(folder, seed=0, num_phrases=NUM_VECTORS):
    texts = [f"phrase {i % num_phrases}" for i in range(NUM_VECTORS)]
    return PhraseBank.build(folder, texts, unit(seed, NUM_VECTORS, DIM).numpy())


@pytest.fixture
def bank(tmp_path):
    return bank_at(tmp_path / "bank")


@pytest.fixture(params=[FaissSearch, HnswSearch])
def backend(request):
    pytest.importorskip("faiss")
    return request.param


def recall(search, bank, queries, k, exclude=None):
    found = search.search(queries, k, exclude_vectors=exclude)
    best = ExactSearch(bank).search(queries, k, exclude_vectors=exclude).values[:, -1:]
    return (found.values >= best - 1e-6).double().mean().item()


class ListingOfRows:
    """An index that lists the same rows for all; with little effort from the wrong end."""

    efforts = (1, 2)

    def __init__(self, rows):
        self.rows = rows

    def set_effort(self, effort):
        self.effort = effort

    def list_vectors(self, queries, length):
        listed = np.full((len(queries), length), NO_ID)
        known = self.rows[:: 1 if self.effort == 2 else -1][:length]
        listed[:, : len(known)] = known
        return listed


@pytest.mark.parametrize("num_phrases", [NUM_VECTORS, 700])
def test_finds_the_share_that_was_asked_for(tmp_path, backend, num_phrases):
    bank = bank_at(tmp_path / "bank", num_phrases=num_phrases)
    search = backend(bank, target_recall=0.98)
    exclude = torch.arange(200)[:, None]
    queries = torch.from_numpy(bank.vectors[:200])
    for k in (1, 10, 30):
        assert recall(search, bank, queries, k, exclude) > 0.94
    assert recall(search, bank, queries, 500) == 1  # so many are searched for exactly


def test_values_are_those_of_exact_search(bank, backend):
    queries = unit(1, 50, DIM)
    found = backend(bank, target_recall=0.9).search(queries, 5)
    cosines = bank.gather(found.vector_ids) @ queries[:, :, None]
    torch.testing.assert_close(found.values, cosines.squeeze(2), rtol=0, atol=2e-6)
    assert found.kind == "cosine"


def test_one_query_is_answered_as_in_a_batch(bank, backend):
    search, queries = backend(bank, target_recall=0.9), unit(1, 4, DIM)
    alone = search.search(queries[2:3], 5)
    assert alone.phrase_ids.tolist() == search.search(queries, 5).phrase_ids[2:3].tolist()


def test_an_index_that_was_kept_is_opened_and_not_built_again(bank, backend, monkeypatch):
    queries = unit(1, 50, DIM)
    first = backend(bank, target_recall=0.9).search(queries, 5)
    monkeypatch.setattr("lightweight_decoder.search.building._make", None)
    assert (
        backend(bank, target_recall=0.9).search(queries, 5).phrase_ids.tolist()
        == first.phrase_ids.tolist()
    )
    assert sorted(path.name for path in bank.path.iterdir()) == [
        "manifest.json",
        "owners.npy",
        "phrases.arrow",
        "vectors.npy",
    ]


@pytest.mark.slow
def test_another_target_is_tuned_for_without_building(bank, backend, monkeypatch, tmp_path):
    backend(bank, target_recall=0.5)
    monkeypatch.setattr("lightweight_decoder.search.building.writing", None)
    backend(bank, target_recall=0.95)
    (record,) = (tmp_path / "bank.search").glob("*.json")
    kept = json.loads(record.read_text())
    assert kept["target_recall"] == 0.95
    assert min(kept["setting"]["recalls"]) >= 0.95


def test_an_index_of_another_bank_is_refused(bank, backend, tmp_path):
    backend(bank, target_recall=0.9)
    other = bank_at(tmp_path / "other", seed=5)
    with pytest.raises(BankError, match="another bank: expected fingerprint"):
        backend(other, folder=str(tmp_path / "bank.search"))


def test_a_damaged_index_is_refused(bank, backend, tmp_path):
    backend(bank, target_recall=0.9)
    (index,) = (p for p in (tmp_path / "bank.search").iterdir() if p.suffix == ".faiss")
    content = bytearray(index.read_bytes())
    content[len(content) // 2] ^= 1
    index.write_bytes(content)
    with pytest.raises(BankError, match=r"not what was written: expected .* bytes"):
        backend(bank, target_recall=0.9)


def test_a_damaged_record_is_refused(bank, backend, tmp_path):
    backend(bank, target_recall=0.9)
    (record,) = (tmp_path / "bank.search").glob("*.json")
    record.write_text(record.read_text().replace('"bank_fingerprint"', '"bank"'))
    with pytest.raises(BankError, match=r"bank_fingerprint.*Field required"):
        backend(bank, target_recall=0.9)


def test_a_folder_that_cannot_be_made_is_named(bank, backend, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BankBuildError, match=r"file.*search\.folder=DIR"):
        backend(bank, folder=str(tmp_path / "file" / "below"))


@pytest.mark.parametrize("target", [0, 1.5, float("nan")])
def test_a_target_that_is_no_share_is_refused(bank, backend, target):
    with pytest.raises(ConfigError, match=r"search\.target_recall: .*at most 1, found"):
        backend(bank, target_recall=target)


def test_a_missing_library_is_named(bank, monkeypatch, backend):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingDependencyError, match=r"lightweight-decoder\[ann\]"):
        backend(bank)


@pytest.mark.slow
def test_a_graph_is_made_as_asked(bank, tmp_path):
    faiss = pytest.importorskip("faiss")
    HnswSearch(bank, connectivity=7, expansion=33, target_recall=0.9)
    (path,) = (tmp_path / "bank.search").glob("*.faiss")
    graph = faiss.read_index(str(path))
    assert graph.hnsw.nb_neighbors(1) == 7
    assert graph.hnsw.efConstruction == 33
    HnswSearch(bank, connectivity=7, expansion=34, target_recall=0.9)
    assert len(list((tmp_path / "bank.search").glob("*.faiss"))) == 2


def test_a_factory_that_faiss_does_not_know_is_refused(bank):
    pytest.importorskip("faiss")
    with pytest.raises(ConfigError, match=r"search\.factory: .*found 'Magic7'"):
        FaissSearch(bank, factory="Magic7")


@pytest.mark.parametrize("factory", ["IVF16,Flat", "HNSW8", "IVF8,PQ12x4fs,Refine(SQfp16)"])
def test_other_factories_are_tuned_too(bank, factory):
    pytest.importorskip("faiss")
    search = FaissSearch(bank, factory=factory, target_recall=0.97)
    assert recall(search, bank, unit(1, 300, DIM), 10) > 0.95


def test_few_vectors_are_searched_exactly(single_bank, backend):
    queries = unit(1, 5, 16)
    found = backend(single_bank).search(queries, 3)
    assert torch.equal(found.values, ExactSearch(single_bank).search(queries, 3).values)
    assert not single_bank.path.with_name("single.search").exists()


def test_a_row_with_too_few_phrases_is_searched_exactly(bank):
    exact = ExactSearch(bank)
    setting = Setting(effort=1, ks=(10,), list_lengths=(10,))
    search = ApproximateSearch(exact, ListingOfRows(np.arange(2)), setting)
    found = search.search(unit(1, 3, DIM), 4)
    assert found.phrase_ids.tolist() == exact.search(unit(1, 3, DIM), 4).phrase_ids.tolist()


def test_tuning_takes_the_least_effort_that_suffices(bank):
    exact = ExactSearch(bank)
    queries = torch.from_numpy(bank.vectors[:1]).repeat(3, 1)
    best = exact.search(queries[:1], NUM_VECTORS).vector_ids[0].numpy()
    listing = ListingOfRows(np.concatenate([best[5:15], best[:5], best[15:]]))
    setting = tune(exact, listing, queries, 1.0)
    assert setting.effort == 2
    assert setting.list_lengths == (15, 100)
    assert setting.recalls == (1.0, 1.0)


def test_samples_are_unit_rows_that_are_not_in_the_bank():
    vectors = unit(0, 300, DIM)
    samples = sample_queries(vectors, num=100)
    torch.testing.assert_close(samples.norm(dim=1), torch.ones(100))
    assert (samples @ vectors.T).max() < 0.999
    assert torch.equal(samples, sample_queries(vectors, num=100))


@pytest.mark.slow
@pytest.mark.parametrize("slowest_first", [False, True])
@pytest.mark.parametrize("with_graph", [False, True])
def test_auto_takes_the_fastest_and_says_why(bank, monkeypatch, caplog, with_graph, slowest_first):
    pytest.importorskip("faiss")
    if with_graph:
        HnswSearch(bank, target_recall=0.8)
    times = iter([3.0, 2.0, 1.0] if slowest_first else [1.0, 2.0, 3.0])
    monkeypatch.setattr("lightweight_decoder.search.auto.seconds_of", lambda *_: next(times))
    with caplog.at_level("INFO"):
        search = AutoSearch(bank, batch_size=8, target_recall=0.9)
    fastest = "HnswSearch" if with_graph else "FaissSearch"
    picked = fastest if slowest_first else "ExactSearch"
    assert type(search.picked).__name__ == picked
    assert f"search=auto picked {picked}" in caplog.text
    assert ("by HnswSearch" in caplog.text) == with_graph
    queries = unit(1, 5, DIM)
    found = search.search(queries, 3)
    torch.testing.assert_close(found.values, search.picked.search(queries, 3).values)


def test_auto_passes_over_what_misses_the_recall(bank, monkeypatch, caplog):
    pytest.importorskip("faiss")
    monkeypatch.setattr("lightweight_decoder.search.auto.FaissSearch.recall", 0.8)
    times = iter([2.0, 1.0])
    monkeypatch.setattr("lightweight_decoder.search.auto.seconds_of", lambda *_: next(times))
    with caplog.at_level("INFO"):
        assert isinstance(AutoSearch(bank, target_recall=0.9).picked, ExactSearch)
    assert "1000.0 ms at recall 0.8 by FaissSearch" in caplog.text


def test_auto_without_faiss_searches_exactly(bank, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with caplog.at_level("INFO"):
        assert isinstance(AutoSearch(bank).picked, ExactSearch)
    assert "faiss, which is not installed" in caplog.text


def test_auto_searches_exactly_where_everything_must_be_found(bank):
    assert isinstance(AutoSearch(bank, target_recall=1.0).picked, ExactSearch)
