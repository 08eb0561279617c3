"""Approximate search over small banks: recall, files, errors; exactness is in the conformance."""

from __future__ import annotations

import functools
import json
import shutil
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
)
from lightweight_decoder.search.approximate import Setting, sample_queries, tune
from lightweight_decoder.search.faiss_index import GRAPH_FACTORY

NUM_VECTORS = 2_000
DIM = 24


def unit(seed, *shape):
    rows = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(rows, dim=1)


def bank_at(folder, seed=0, num_phrases=NUM_VECTORS):
    texts = [f"phrase {i % num_phrases}" for i in range(NUM_VECTORS)]
    return PhraseBank.build(folder, texts, unit(seed, NUM_VECTORS, DIM).numpy(), overwrite=True)


@pytest.fixture
def bank(tmp_path):
    return bank_at(tmp_path / "bank")


@pytest.fixture(params=[None, GRAPH_FACTORY], ids=["codes", "graph"])
def backend(request):
    pytest.importorskip("faiss")
    return functools.partial(FaissSearch, factory=request.param)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder with a bank and, beside it, both indexes, for a recall of 0.9."""
    pytest.importorskip("faiss")
    folder = tmp_path_factory.mktemp("built")
    for factory in (None, GRAPH_FACTORY):
        FaissSearch(bank_at(folder / "bank"), factory=factory, target_recall=0.9)
    return folder


@pytest.fixture
def indexed(built, tmp_path):
    """The same bank and indexes, to be changed."""
    return PhraseBank.open(shutil.copytree(built, tmp_path / "copy") / "bank")


def index_files(bank, backend, suffix):
    """The files of one of the two."""
    is_graph = backend.keywords["factory"] is not None
    files = bank.path.with_name("bank.search").glob(f"*.faiss{suffix}")
    return [path for path in files if path.name.startswith("HNSW") == is_graph]


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


def test_finds_the_share_that_was_asked_for(tmp_path, backend):
    bank = bank_at(tmp_path / "bank", num_phrases=700)
    search = backend(bank, target_recall=0.98)
    exclude = torch.arange(200)[:, None]
    queries = torch.from_numpy(bank.vectors[:200])
    for k in (1, 10, 30):
        assert recall(search, bank, queries, k, exclude) > 0.94
    assert recall(search, bank, queries, 500) == 1  # so many are searched for exactly


def test_values_are_those_of_exact_search(indexed, backend):
    queries = unit(1, 50, DIM)
    search = backend(indexed, target_recall=0.9)
    found = search.search(queries, 5)
    cosines = indexed.gather(found.vector_ids) @ queries[:, :, None]
    torch.testing.assert_close(found.values, cosines.squeeze(2), rtol=0, atol=2e-6)
    assert found.kind == "cosine"
    alone = search.search(queries[2:3], 5)
    assert alone.phrase_ids.tolist() == found.phrase_ids[2:3].tolist()


def test_an_index_that_was_kept_is_opened_and_not_built_again(indexed, backend, monkeypatch):
    monkeypatch.setattr("lightweight_decoder.search.faiss_search._make", None)
    queries = unit(1, 50, DIM)
    assert recall(backend(indexed, target_recall=0.9), indexed, queries, 5) > 0.85
    assert sorted(path.name for path in indexed.path.iterdir()) == [
        "manifest.json",
        "owners.npy",
        "phrases.arrow",
        "vectors.npy",
    ]


@pytest.mark.slow
def test_another_target_is_tuned_for_without_building(indexed, backend, monkeypatch):
    monkeypatch.setattr("lightweight_decoder.search.faiss_index.FaissIndex.build", None)
    backend(indexed, target_recall=0.95)
    (record,) = index_files(indexed, backend, ".json")
    kept = json.loads(record.read_text())
    assert kept["target_recall"] == 0.95
    assert min(kept["setting"]["recalls"]) >= 0.95


def test_an_index_of_another_bank_is_refused(indexed, backend, tmp_path):
    other = bank_at(tmp_path / "other", seed=5)
    with pytest.raises(BankError, match="another bank: expected fingerprint"):
        backend(other, folder=str(indexed.path.with_name("bank.search")))


def test_a_damaged_index_is_refused(indexed, backend):
    (index,) = index_files(indexed, backend, "")
    content = bytearray(index.read_bytes())
    content[len(content) // 2] ^= 1
    index.write_bytes(content)
    with pytest.raises(BankError, match=r"not what was written: expected .* bytes"):
        backend(indexed, target_recall=0.9)


def test_a_damaged_record_is_refused(indexed, backend):
    (record,) = index_files(indexed, backend, ".json")
    record.write_text(record.read_text().replace('"bank_fingerprint"', '"bank"'))
    with pytest.raises(BankError, match=r"bank_fingerprint.*Field required"):
        backend(indexed, target_recall=0.9)


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


def test_a_graph_is_made_with_care_and_kept_under_the_name_that_it_always_had(built):
    faiss = pytest.importorskip("faiss")
    path = built / "bank.search" / "HNSW32-SQ8-200.faiss"
    graph = faiss.read_index(str(path))
    assert graph.hnsw.nb_neighbors(1) == 32
    assert graph.hnsw.efConstruction == 200
    record = json.loads(path.with_name(f"{path.name}.json").read_text())
    assert record["description"] == "faiss HNSW32,SQ8 200"


def test_a_factory_that_faiss_does_not_know_is_refused(bank):
    pytest.importorskip("faiss")
    with pytest.raises(ConfigError, match=r"search\.factory: .*found 'Magic7'"):
        FaissSearch(bank, factory="Magic7")


@pytest.mark.parametrize(
    "factory",
    [
        pytest.param("IVF16,Flat", marks=pytest.mark.slow),
        pytest.param("HNSW8", marks=pytest.mark.slow),
        "IVF8,PQ12x4fs,Refine(SQfp16)",
    ],
)
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


@pytest.mark.parametrize("slowest_first", [False, True])
@pytest.mark.parametrize("with_graph", [False, True])
def test_auto_takes_the_fastest_and_says_why(
    indexed, monkeypatch, caplog, with_graph, slowest_first
):
    if not with_graph:
        for path in indexed.path.with_name("bank.search").glob("HNSW*"):
            path.unlink()
    times = iter([3.0, 2.0, 1.0] if slowest_first else [1.0, 2.0, 3.0])
    monkeypatch.setattr("lightweight_decoder.search.auto.seconds_of", lambda *_: next(times))
    with caplog.at_level("INFO"):
        search = AutoSearch(indexed, batch_size=8, target_recall=0.9)
    fastest = f"FaissSearch({GRAPH_FACTORY if with_graph else 'PQ8x4fs_64'!r})"
    picked = fastest if slowest_first else f"ExactSearch({NUM_VECTORS} x {DIM})"
    assert repr(search.picked) == picked
    assert f"search=auto picked {picked}: 8 queries take" in caplog.text
    assert (f"by FaissSearch({GRAPH_FACTORY!r})" in caplog.text) == with_graph
    queries = unit(1, 5, DIM)
    found = search.search(queries, 3)
    torch.testing.assert_close(found.values, search.picked.search(queries, 3).values)


def test_auto_passes_over_what_misses_the_recall(indexed, monkeypatch, caplog):
    monkeypatch.setattr("lightweight_decoder.search.auto.FaissSearch.recall", 0.8)
    times = iter([2.0, 1.0, 0.5])
    monkeypatch.setattr("lightweight_decoder.search.auto.seconds_of", lambda *_: next(times))
    with caplog.at_level("INFO"):
        assert isinstance(AutoSearch(indexed, target_recall=0.9).picked, ExactSearch)
    assert "1000.0 ms at recall 0.8 by FaissSearch" in caplog.text


def test_auto_without_faiss_searches_exactly(bank, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with caplog.at_level("INFO"):
        assert isinstance(AutoSearch(bank).picked, ExactSearch)
    assert "faiss, which is not installed" in caplog.text


def test_auto_searches_exactly_where_everything_must_be_found(bank):
    assert isinstance(AutoSearch(bank, target_recall=1.0).picked, ExactSearch)
