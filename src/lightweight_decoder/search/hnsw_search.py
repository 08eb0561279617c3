"""Approximate search in a graph of neighbors (HNSW), with FAISS."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightweight_decoder.search.approximate import lowest_recall
from lightweight_decoder.search.building import approximate_search
from lightweight_decoder.search.faiss_search import FaissLibrary

if TYPE_CHECKING:
    from torch import Tensor

    from lightweight_decoder.datatypes import Candidates
    from lightweight_decoder.search.vector_table import VectorTable

CONNECTIVITY = 32
EXPANSION = 200


class HnswSearch:
    """Lists vectors by walking a graph of neighbors, then compares them exactly.

    A :class:`~lightweight_decoder.search.SearchBackend`. The graph, with the vectors in 8 bits a
    dimension, and how it is to be used for ``target_recall`` are kept in files beside the bank.
    Malkov and Yashunin, https://arxiv.org/abs/1603.09320.

    Building takes a minute or more where the index of ``FaissSearch`` takes seconds, and with
    150,000 vectors that one is three to four times as fast at the same target. Of the libraries
    FAISS gave the most queries/s and the smallest file. 148,730 x 384 of WordNet, 32
    neighbors, 200 nodes while building, 256 while searching, lists of 30 compared exactly (recall
    of the ten best 0.9991 to 0.9994), 2,048 definitions, 2 cores of an AMD EPYC (Zen 4):

    =======  =======  ======  =======  =========  =========
    library  vectors  file    built    together   one query
    =======  =======  ======  =======  =========  =========
    FAISS    8 bits    98 MB    52 s   3,113 q/s  0.66 ms
    FAISS    bf16     155 MB    65 s   2,629 q/s  0.76 ms
    usearch  bf16     155 MB    88 s   2,073 q/s  1.03 ms
    FAISS    f32      269 MB    87 s   1,844 q/s  1.08 ms
    hnswlib  f32      270 MB    76 s   1,712 q/s  1.06 ms
    usearch  f32      270 MB   138 s     763 q/s  3.51 ms
    =======  =======  ======  =======  =========  =========

    Searches are of one run; the graphs were built while the machine did other work too.

    Args:
        bank: The bank, or anything else with ``vectors``, ``owners`` and ``num_phrases``, whose
            graph is kept in memory only.
        connectivity: Neighbors of a node (M of the paper), at least 2.
        expansion: Nodes looked at to find them while building (efConstruction).
        target_recall: Share of the exact answer to be found, measured for 10 and 100 phrases on
            samples made from the bank, in (0, 1].
        folder: Where to keep the files; None: ``BANK.search``, beside the bank's folder.

    Raises:
        MissingDependencyError: If FAISS is not installed.
        ConfigError: If the target is no share, or FAISS takes no such connectivity.
        BankError: If the files are damaged or belong to another bank.
        BankBuildError: If they cannot be written.
    """

    def __init__(
        self,
        bank: VectorTable,
        *,
        connectivity: int = CONNECTIVITY,
        expansion: int = EXPANSION,
        target_recall: float = 0.999,
        folder: str | None = None,
    ) -> None:
        library = hnsw_library(connectivity, expansion)
        self._search = approximate_search(bank, library, target_recall=target_recall, folder=folder)

    @property
    def recall(self) -> float | None:
        """The lowest index recall that was measured; None where everything is compared."""
        return lowest_recall(self._search)

    def search(
        self, queries: Tensor, k: int, *, exclude_vectors: Tensor | None = None
    ) -> Candidates:
        """Find the k best phrases for each query; see :class:`SearchBackend` for the contract."""
        return self._search.search(queries, k, exclude_vectors=exclude_vectors)


def hnsw_library(connectivity: int = CONNECTIVITY, expansion: int = EXPANSION) -> FaissLibrary:
    """Say how the graph is made, written and read."""
    return FaissLibrary(f"HNSW{connectivity},SQ8", building={"efConstruction": expansion})
