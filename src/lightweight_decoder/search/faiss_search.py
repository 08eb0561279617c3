"""Approximate search with FAISS."""

from __future__ import annotations

import re
from importlib import import_module
from typing import TYPE_CHECKING, Any

from lightweight_decoder.errors import BankError, ConfigError, MissingDependencyError
from lightweight_decoder.search.approximate import lowest_recall
from lightweight_decoder.search.kept_indexes import ADVICE, approximate_search

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from lightweight_decoder.datatypes import Candidates, FloatArray, IntArray
    from lightweight_decoder.search.contract import VectorTable

GRAPH_FACTORY = "HNSW32,SQ8"
"""A graph with 32 neighbors of each node, and the vectors in 8 bits a dimension."""

_GRAPH_EXPANSION = 200  # nodes looked at to find neighbors while a graph is built
_ROWS_AT_ONCE = 65_536
_MOST_TRAINING_ROWS = 65_536


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
        self._factory = factory or _default_factory(bank.vectors.shape[1])
        self._search = approximate_search(
            bank, FaissLibrary(self._factory), target_recall=target_recall, folder=folder
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


class FaissIndex:
    """A FAISS index of any kind; an :class:`~lightweight_decoder.search.approximate.Index`."""

    def __init__(self, index: Any) -> None:  # noqa: ANN401 - FAISS has no types
        self.index = index
        self._knob, self.efforts = _knob(index)

    def set_effort(self, effort: int) -> None:
        """Choose how many lists or nodes are visited, where the index has such a choice."""
        if self._knob:
            _faiss().ParameterSpace().set_index_parameter(self.index, self._knob, effort)

    def list_vectors(self, queries: FloatArray, length: int) -> IntArray:
        """List (q, length) int64 rows near unit queries (q, d)."""
        rows: IntArray = self.index.search(queries, length)[1]
        return rows


class FaissLibrary:
    """How FAISS makes, writes and reads an index.

    Args:
        factory: Which, in the language of ``faiss.index_factory``.
    """

    def __init__(self, factory: str) -> None:
        self._faiss = _faiss()
        self._factory = factory
        words = [factory, str(_GRAPH_EXPANSION)] if "HNSW" in factory else [factory]
        self.file_name = f"{re.sub(r'[^A-Za-z0-9]+', '-', '-'.join(words))}.faiss"
        self.description = " ".join(["faiss", *words])

    def build(self, vectors: Tensor) -> FaissIndex:
        """Train an index on an even sample of the vectors, and add all of them."""
        num_vectors, dim = vectors.shape
        try:
            index = self._faiss.index_factory(dim, self._factory, self._faiss.METRIC_INNER_PRODUCT)
            if _knob(index)[0] == "efSearch":
                parameters = self._faiss.ParameterSpace()
                parameters.set_index_parameter(index, "efConstruction", _GRAPH_EXPANSION)
            step = -(-num_vectors // _MOST_TRAINING_ROWS)
            index.train(vectors[::step].float().numpy())
            for start in range(0, num_vectors, _ROWS_AT_ONCE):
                index.add(vectors[start : start + _ROWS_AT_ONCE].float().numpy())
        except (RuntimeError, AssertionError) as error:
            raise ConfigError.unexpected(
                "search.factory",
                f"what faiss.index_factory takes for {num_vectors} x {dim}",
                f"{self._factory!r} ({_last_line(error)})",
                summary="FAISS cannot build this index",
            ) from error
        return FaissIndex(index)

    def write(self, index: FaissIndex, path: Path) -> None:
        """Write an index in FAISS's own format."""
        self._faiss.write_index(index.index, str(path))

    def read(self, path: Path) -> FaissIndex:
        """Read an index; parts that FAISS can map are mapped."""
        try:
            return FaissIndex(self._faiss.read_index(str(path), self._faiss.IO_FLAG_MMAP_IFC))
        except RuntimeError as error:
            raise BankError.unreadable(path, _last_line(error), advice=ADVICE) from error


def _default_factory(dim: int) -> str:
    """4-bit codes of three dimensions each, zeros added up to a multiple of three.

    FAISS scans 64 codes at a time: 324 ms for 2,048 queries and 148,730 codes of 384 dimensions on
    2 cores of an AMD EPYC (Zen 4), where its usual 32 take 436 ms and 128 take 425 ms.
    """
    codes = -(-dim // 3)
    padding = "" if dim % 3 == 0 else f"Pad{3 * codes},"
    return f"{padding}PQ{codes}x4fs_64"


def _knob(index: Any) -> tuple[str | None, tuple[int, ...]]:  # noqa: ANN401 - FAISS has no types
    """Return what decides how hard an index looks, and the values to try."""
    faiss = _faiss()
    inner = faiss.downcast_index(index)
    while hasattr(inner, "base_index") or isinstance(inner, faiss.IndexPreTransform):
        inner = faiss.downcast_index(getattr(inner, "base_index", None) or inner.index)
    if hasattr(inner, "nprobe"):
        return "nprobe", tuple(2**power for power in range(inner.nlist.bit_length()))
    if hasattr(inner, "hnsw"):
        return "efSearch", (16, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)
    return None, (1,)


def _last_line(error: Exception) -> str:
    """Return what FAISS says, without the place in its source."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]


def _faiss() -> Any:  # noqa: ANN401 - FAISS has no types
    """Import FAISS when it is asked for."""
    try:
        return import_module("faiss")
    except ImportError as error:
        raise MissingDependencyError(
            "faiss", extra="ann", purpose="search=faiss and search=hnsw"
        ) from error
