"""A FAISS index: made, written, read, and asked for the vectors near a query."""

from __future__ import annotations

import re
from importlib import import_module
from typing import TYPE_CHECKING, Any, Self

from lightweight_decoder.errors import BankError, ConfigError, MissingDependencyError

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from lightweight_decoder.datatypes import FloatArray, IntArray

GRAPH_FACTORY = "HNSW32,SQ8"
"""A graph with 32 neighbors of each node, and the vectors in 8 bits a dimension."""

ADVICE = "Delete the file and the one beside it to have the index built again"
_GRAPH_EXPANSION = 200  # nodes looked at to find neighbors while a graph is built
_ROWS_AT_ONCE = 65_536
_MOST_TRAINING_ROWS = 65_536


class FaissIndex:
    """A FAISS index of any kind; ``efforts`` are how hard it can look, least first, one or more."""

    def __init__(self, index: Any) -> None:  # noqa: ANN401 - FAISS has no types
        self._index = index
        self._knob, self.efforts = _knob(index)

    @classmethod
    def build(cls, factory: str, vectors: Tensor) -> Self:
        """Train an index on an even sample of (n, d) unit vectors, and add all of them.

        Raises:
            ConfigError: If FAISS does not know the factory, or it does not go with the vectors.
        """
        faiss, (num_vectors, dim) = import_faiss(), vectors.shape
        try:
            index = faiss.index_factory(dim, factory, faiss.METRIC_INNER_PRODUCT)
            if _is_graph(factory):
                parameters = faiss.ParameterSpace()
                parameters.set_index_parameter(index, "efConstruction", _GRAPH_EXPANSION)
            step = -(-num_vectors // _MOST_TRAINING_ROWS)
            index.train(vectors[::step].float().numpy())
            for start in range(0, num_vectors, _ROWS_AT_ONCE):
                index.add(vectors[start : start + _ROWS_AT_ONCE].float().numpy())
        except (RuntimeError, AssertionError) as error:
            raise ConfigError.unexpected(
                "search.factory",
                f"what faiss.index_factory takes for {num_vectors} x {dim}",
                f"{factory!r} ({_last_line(error)})",
                summary="FAISS cannot build this index",
            ) from error
        return cls(index)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read an index that was written; parts that FAISS can map are mapped.

        Raises:
            BankError: If FAISS cannot read the file.
        """
        faiss = import_faiss()
        try:
            return cls(faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC))
        except RuntimeError as error:
            raise BankError.unreadable(path, _last_line(error), advice=ADVICE) from error

    def write(self, path: Path) -> None:
        """Write it in FAISS's own format."""
        import_faiss().write_index(self._index, str(path))

    def set_effort(self, effort: int) -> None:
        """Choose how many lists or nodes are visited, where the index has such a choice."""
        if self._knob:
            import_faiss().ParameterSpace().set_index_parameter(self._index, self._knob, effort)

    def list_vectors(self, queries: FloatArray, length: int) -> IntArray:
        """List (q, length) int64 rows near unit queries (q, d)."""
        rows: IntArray = self._index.search(queries, length)[1]
        return rows


def description_of(factory: str) -> str:
    """Return all that shapes an index; another description means another index."""
    return f"faiss {factory} {_GRAPH_EXPANSION}" if _is_graph(factory) else f"faiss {factory}"


def file_name_of(factory: str) -> str:
    """Return the name of an index's file."""
    words = description_of(factory).removeprefix("faiss ")
    return f"{re.sub(r'[^A-Za-z0-9]+', '-', words)}.faiss"


def default_factory(dim: int) -> str:
    """4-bit codes of three dimensions each, zeros added up to a multiple of three.

    FAISS scans 64 codes at a time: 324 ms for 2,048 queries and 148,730 codes of 384 dimensions on
    2 cores of an AMD EPYC (Zen 4), where its usual 32 take 436 ms and 128 take 425 ms.
    """
    codes = -(-dim // 3)
    padding = "" if dim % 3 == 0 else f"Pad{3 * codes},"
    return f"{padding}PQ{codes}x4fs_64"


def import_faiss() -> Any:  # noqa: ANN401 - FAISS has no types
    """Import FAISS when it is asked for.

    Raises:
        MissingDependencyError: If it is not installed.
    """
    try:
        return import_module("faiss")
    except ImportError as error:
        purpose = "search=faiss and search=hnsw"
        raise MissingDependencyError("faiss", extra="ann", purpose=purpose) from error


def _is_graph(factory: str) -> bool:
    """Say whether all vectors are in one graph."""
    return re.search(r"(^|,)HNSW\d+", factory) is not None


def _knob(index: Any) -> tuple[str | None, tuple[int, ...]]:  # noqa: ANN401 - FAISS has no types
    """Return what decides how hard an index looks, and the values to try."""
    faiss = import_faiss()
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
