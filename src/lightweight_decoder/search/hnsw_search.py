"""Approximate search in a graph of neighbors (HNSW), with usearch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from lightweight_decoder.datatypes import NO_ID, Candidates, FloatArray, IntArray
from lightweight_decoder.errors import BankError, MissingDependencyError
from lightweight_decoder.search.building import approximate_search

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from lightweight_decoder.search.exact import VectorTable

_ROWS_AT_ONCE = 65_536


class HnswSearch:
    """Lists vectors by walking a graph of neighbors, then compares them exactly.

    A :class:`~lightweight_decoder.search.SearchBackend`. The graph, with the vectors in bfloat16,
    and how it is to be used for ``target_recall`` are kept in files beside the bank; the graph is
    mapped. Malkov and Yashunin, https://arxiv.org/abs/1603.09320.

    Args:
        bank: The bank, or anything else with ``vectors``, ``owners`` and ``num_phrases``, whose
            graph is kept in memory only.
        connectivity: Neighbors of a node (M of the paper), at least 2.
        expansion: Nodes looked at to find them while building (efConstruction).
        target_recall: Share of the exact answer to be found, measured for 10 and 100 phrases on
            samples made from the bank, in (0, 1].
        folder: Where to keep the files; None: ``BANK.search``, beside the bank's folder.

    Raises:
        MissingDependencyError: If usearch is not installed.
        ConfigError: If the target is no share.
        BankError: If the files are damaged or belong to another bank.
        BankBuildError: If they cannot be written.
    """

    def __init__(
        self,
        bank: VectorTable,
        *,
        connectivity: int = 16,
        expansion: int = 128,
        target_recall: float = 0.999,
        folder: str | None = None,
    ) -> None:
        library = HnswLibrary(connectivity, expansion)
        self._search = approximate_search(bank, library, target_recall=target_recall, folder=folder)

    def search(
        self, queries: Tensor, k: int, *, exclude_vectors: Tensor | None = None
    ) -> Candidates:
        """Find the k best phrases for each query; see :class:`SearchBackend` for the contract."""
        return self._search.search(queries, k, exclude_vectors=exclude_vectors)


class HnswIndex:
    """A graph; an :class:`~lightweight_decoder.search.approximate.Index`."""

    efforts: ClassVar[tuple[int, ...]] = (32, 64, 128, 256, 512, 1024)

    def __init__(self, graph: Any) -> None:  # noqa: ANN401 - usearch has no types
        self.graph = graph

    def set_effort(self, effort: int) -> None:
        """Choose how many nodes are kept while walking."""
        self.graph.expansion_search = effort

    def list_vectors(self, queries: FloatArray, length: int) -> IntArray:
        """List (q, length) int64 rows near unit queries (q, d), or ``NO_ID``."""
        matches = self.graph.search(queries, length)
        keys = np.asarray(matches.keys).reshape(len(queries), -1).astype(np.int64)
        if len(queries) > 1:
            missing = np.arange(keys.shape[1]) >= np.asarray(matches.counts)[:, None]
            keys[missing] = NO_ID
        return keys


class HnswLibrary:
    """How usearch makes, writes and reads a graph."""

    def __init__(self, connectivity: int, expansion: int) -> None:
        self._usearch = _usearch()
        self._options = {"connectivity": connectivity, "expansion_add": expansion}
        self.file_name = f"hnsw-{connectivity}-{expansion}.usearch"
        self.description = f"usearch hnsw bf16 {connectivity} {expansion}"

    def build(self, vectors: Tensor) -> HnswIndex:
        """Add all vectors to a graph."""
        num_vectors, dim = vectors.shape
        graph = self._usearch.Index(ndim=dim, metric="ip", dtype="bf16", **self._options)
        for start in range(0, num_vectors, _ROWS_AT_ONCE):
            rows = vectors[start : start + _ROWS_AT_ONCE].float().numpy()
            graph.add(np.arange(start, start + len(rows)), rows)
        return HnswIndex(graph)

    def write(self, index: HnswIndex, path: Path) -> None:
        """Write a graph in usearch's own format."""
        index.graph.save(str(path))

    def read(self, path: Path) -> HnswIndex:
        """Map a graph."""
        graph = self._usearch.Index.restore(str(path), view=True)
        if graph is None:
            raise BankError(
                "usearch cannot read the index",
                where=path,
                advice="Delete the file and the one beside it to have the index built again",
            )
        return HnswIndex(graph)


def _usearch() -> Any:  # noqa: ANN401 - usearch has no types
    """Import usearch when it is asked for."""
    try:
        return import_module("usearch.index")
    except ImportError as error:
        raise MissingDependencyError("usearch", extra="ann", purpose="search=hnsw") from error
