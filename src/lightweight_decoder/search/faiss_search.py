"""Approximate search with FAISS."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightweight_decoder.search.approximate import lowest_recall
from lightweight_decoder.search.faiss_index import default_factory, import_faiss
from lightweight_decoder.search.index_files import approximate_search

if TYPE_CHECKING:
    from torch import Tensor

    from lightweight_decoder.datatypes import Candidates
    from lightweight_decoder.search.contract import VectorTable


class FaissSearch:
    """Lists vectors with a FAISS index, then compares them exactly.

    A :class:`~lightweight_decoder.search.SearchBackend`. The index and how it is to be used for
    ``target_recall`` are kept in files beside the bank.

    ``search=hnsw`` is ``GRAPH_FACTORY``, a graph of neighbors (Malkov and Yashunin,
    https://arxiv.org/abs/1603.09320). Building it takes a minute or more where the default takes
    seconds, and with 150,000 vectors that one is three to four times as fast at the same target. Of
    the libraries FAISS gave the most queries/s and the smallest file. 148,730 x 384 of WordNet, 32
    neighbors, 200 nodes while building, 256 while searching, lists of 30 compared exactly (recall
    of the ten best 0.9991 to 0.9994), 2,048 definitions, 2 cores of an AMD EPYC (Zen 4); searches
    are of one run, the graphs were built while the machine did other work too:

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

    Args:
        bank: The bank, or anything else with ``vectors``, ``owners`` and ``num_phrases``, whose
            index is kept in memory only.
        factory: What to build, in the language of ``faiss.index_factory``. By default 4-bit product
            quantization with fast scanning, one code for three dimensions: about as fast as
            one for two in a third less space (148,730 x 384 of WordNet); inverted lists before it
            (IVF512) reached a recall of 0.985 with 128 lists visited.
        target_recall: Share of the exact answer to be found, measured for 10 and 100 phrases on
            samples made from the bank, in (0, 1].
        folder: Where to keep the files; None: ``BANK.search``, beside the bank's folder.

    Raises:
        MissingDependencyError: If FAISS is not installed.
        ConfigError: If FAISS does not know the factory, or the target is no share.
        BankError: If the files are damaged or belong to another bank.
        BankBuildError: If they cannot be written.
    """

    def __init__(
        self,
        bank: VectorTable,
        *,
        factory: str | None = None,
        target_recall: float = 0.999,
        folder: str | None = None,
    ) -> None:
        import_faiss()
        self._factory = factory or default_factory(bank.vectors.shape[1])
        self._search = approximate_search(
            bank, self._factory, target_recall=target_recall, folder=folder
        )

    def __repr__(self) -> str:
        return f"FaissSearch({self._factory!r})"

    @property
    def recall(self) -> float | None:
        """The lowest index recall that was measured; None where everything is compared."""
        return lowest_recall(self._search)

    def search(
        self, queries: Tensor, k: int, *, exclude_vectors: Tensor | None = None
    ) -> Candidates:
        """Find the k best phrases for each query; see :class:`SearchBackend` for the contract."""
        return self._search.search(queries, k, exclude_vectors=exclude_vectors)
