"""One list of backends drives every test here: a new backend costs one line in ``BACKENDS``."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch

from lightweight_decoder.datatypes import NO_ID
from lightweight_decoder.search import ApproximateSearch, ExactSearch
from lightweight_decoder.search.approximate import Setting
from lightweight_decoder.search.faiss_index import FaissIndex


class Table(NamedTuple):
    """Unit vectors (n, d), the phrase of each (n,), and how many phrases there are."""

    vectors: np.ndarray
    owners: np.ndarray
    num_phrases: int


def make_table(vectors, owners=None, dtype=np.float32) -> Table:
    """Scale rows to unit length and store them; by default each is a phrase of its own."""
    wide = np.asarray(vectors, dtype=np.float64)
    unit = (wide / np.linalg.norm(wide, axis=1, keepdims=True)).astype(dtype)
    owners = np.arange(len(unit)) if owners is None else np.asarray(owners, dtype=np.int64)
    return Table(unit, owners, int(owners.max()) + 1)


def comparing_everything(table, factory):
    """Search with a FAISS index that lists all vectors, so that none can be missed."""
    pytest.importorskip("faiss")
    index = FaissIndex.build(factory, torch.from_numpy(table.vectors))
    setting = Setting(effort=1, ks=(1,), list_lengths=(10**6,))
    return ApproximateSearch(ExactSearch(table), index, setting)


BACKENDS = {
    "exact": lambda table: ExactSearch.over(*table[:2], num_phrases=table.num_phrases),
    "exact-tiny-blocks": lambda table: ExactSearch(table, max_block_bytes=1),
    "exact-small-blocks": lambda table: ExactSearch(table, max_block_bytes=40_000),
    "exact-int8": lambda table: ExactSearch(table, quantized=True),
    "exact-int8-small-blocks": lambda table: ExactSearch(
        table, quantized=True, max_block_bytes=40_000
    ),
    "faiss-comparing-everything": lambda table: comparing_everything(table, "Flat"),
    "faiss-scalar-comparing-everything": lambda table: comparing_everything(table, "SQ8"),
    "exact-cuda": lambda table: ExactSearch(table, device="cuda"),
}


def marked(names):
    """Say which backends need a GPU."""
    gpu = pytest.mark.gpu
    return [pytest.param(name, marks=gpu if name.endswith("cuda") else ()) for name in names]


@pytest.fixture(params=marked(BACKENDS))
def make_backend(request):
    """Make a backend over a table."""
    return BACKENDS[request.param]


@pytest.fixture(params=marked(["exact", "faiss-comparing-everything", "exact-cuda"]))
def make_one_of_its_kind(request):
    """Make one of those that check queries in their own way: block sizes cannot change that."""
    return BACKENDS[request.param]


@pytest.fixture(name="make_table")
def table_maker():
    """Make a table from vectors of any length."""
    return make_table


class Expected(NamedTuple):
    """What an independent float64 computation finds."""

    phrases: np.ndarray
    vectors: np.ndarray
    values: np.ndarray


def search_in_float64(table, queries, k, exclude=None) -> Expected:
    """Search by the definition, one query and one phrase at a time."""
    columns = min(k, table.num_phrases)
    phrases = np.full((len(queries), columns), NO_ID)
    vectors = np.full((len(queries), columns), NO_ID)
    values = np.full((len(queries), columns), -np.inf, dtype=np.float32)
    for row, query in enumerate(queries.astype(np.float64)):
        unit = query / np.abs(query).max()
        cosines = table.vectors.astype(np.float64) @ (unit / np.linalg.norm(unit))
        # Real ties differ in the last bits of float64; on a grid of 2**-30 they are ties again.
        cosines = (np.round(cosines * 2.0**30) / 2.0**30).astype(np.float32)
        hidden = set() if exclude is None else set(exclude[row].tolist())
        best = {}
        for vector, (phrase, cosine) in enumerate(zip(table.owners, cosines, strict=True)):
            if vector not in hidden and cosine > best.get(phrase, (-np.inf, 0))[0]:
                best[phrase] = (cosine, vector)
        ranked = sorted(best, key=lambda phrase: (-best[phrase][0], phrase))[:columns]
        for column, phrase in enumerate(ranked):
            phrases[row, column] = phrase
            values[row, column], vectors[row, column] = best[phrase]
    return Expected(phrases, vectors, values)


@pytest.fixture
def assert_finds(make_backend):
    """Compare a backend's answer with the float64 computation."""

    def check(table, queries, k, exclude=None) -> None:
        expected = search_in_float64(table, queries, k, exclude)
        found = make_backend(table).search(
            torch.from_numpy(queries),
            k,
            exclude_vectors=None if exclude is None else torch.from_numpy(exclude),
        )
        assert found.kind == "cosine"
        assert found.values.dtype == torch.float32
        np.testing.assert_array_equal(found.phrase_ids.numpy(), expected.phrases)
        np.testing.assert_array_equal(found.vector_ids.numpy(), expected.vectors)
        rounding = (table.vectors.shape[1] + 4) * 2.0**-24
        np.testing.assert_allclose(found.values.numpy(), expected.values, rtol=0, atol=rounding)

    return check
