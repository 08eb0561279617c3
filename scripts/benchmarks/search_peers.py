"""Other libraries' searches, as ``search.py`` measures them.

Each maker takes the vectors (n, d) float32 of unit length, a folder to keep its index in, and the
command line. Graphs are built with 200 nodes looked at, usearch's own 128 for 16 neighbors.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable
    from pathlib import Path

UNTIL_SET = 100  # the effort of a search before one is chosen


@dataclass
class Method:
    """One way to search: ``find`` gives (q, k) rows of vectors, or nothing to check (None)."""

    name: str
    find: Callable[[torch.Tensor, int], Any]
    set_effort: Callable[[int], None] | None = None
    build_s: float | None = None
    file_mb: float | None = None


def torch_topk(vectors: np.ndarray, *_: object) -> Method:
    """Multiply and choose in torch."""
    rows = torch.from_numpy(vectors)
    return Method("torch matmul + topk", lambda q, k: (q @ rows.T).topk(k, dim=1).indices)


def bare_product(vectors: np.ndarray, *_: object) -> Method:
    """Multiply only."""
    rows = torch.from_numpy(vectors)

    def multiply(queries: torch.Tensor, _: int) -> None:
        queries @ rows.T

    return Method("bare matmul", multiply)


def faiss_flat(vectors: np.ndarray, *_: object) -> Method:
    """Give FAISS's exact search."""
    import faiss  # noqa: PLC0415 - optional

    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    return Method("FAISS FlatIP", lambda q, k: index.search(q.numpy(), k)[1])


def faiss_graph(connectivity: int) -> Callable[..., Method]:
    """Give FAISS's HNSW over float32 vectors."""

    def make(vectors: np.ndarray, folder: Path, _: argparse.Namespace) -> Method:
        import faiss  # noqa: PLC0415 - optional

        def build(path: Path) -> None:
            graph = faiss.IndexHNSWFlat(vectors.shape[1], connectivity, faiss.METRIC_INNER_PRODUCT)
            graph.hnsw.efConstruction = 200
            graph.add(vectors)
            faiss.write_index(graph, str(path))

        path = folder / f"faiss-{connectivity}-200"
        costs = kept(path, build)
        graph = faiss.read_index(str(path))
        return Method(
            f"FAISS HNSW{connectivity}",
            lambda q, k: graph.search(q.numpy(), k)[1],
            lambda effort: setattr(graph.hnsw, "efSearch", effort),
            *costs,
        )

    return make


def hnswlib_graph(connectivity: int) -> Callable[..., Method]:
    """Give hnswlib."""

    def make(vectors: np.ndarray, folder: Path, arguments: argparse.Namespace) -> Method:
        import hnswlib  # noqa: PLC0415 - optional

        graph = hnswlib.Index("ip", vectors.shape[1])

        def build(path: Path) -> None:
            new = hnswlib.Index("ip", vectors.shape[1])
            new.init_index(len(vectors), M=connectivity, ef_construction=200)
            new.set_num_threads(arguments.threads)
            new.add_items(vectors)
            new.save_index(str(path))

        path = folder / f"hnswlib-{connectivity}-200"
        costs = kept(path, build)
        graph.load_index(str(path))
        graph.set_num_threads(arguments.threads)
        return Method(
            f"hnswlib {connectivity}",
            lambda q, k: graph.knn_query(q.numpy(), k)[0].astype(np.int64),
            graph.set_ef,
            *costs,
        )

    return make


def usearch_graph(connectivity: int, dtype: str) -> Callable[..., Method]:
    """Give usearch; it compares in the type that it keeps."""

    def make(vectors: np.ndarray, folder: Path, arguments: argparse.Namespace) -> Method:
        from usearch.index import Index  # noqa: PLC0415 - optional

        expansion = 200 if connectivity > 16 else 128  # noqa: PLR2004 - the library's own for 16

        def build(path: Path) -> None:
            new = Index(
                ndim=vectors.shape[1],
                metric="ip",
                dtype=dtype,
                connectivity=connectivity,
                expansion_add=expansion,
            )
            new.add(np.arange(len(vectors)), vectors, threads=arguments.threads)
            new.save(str(path))

        path = folder / f"usearch{dtype}-{connectivity}-{expansion}"
        costs = kept(path, build)
        graph = Index.restore(str(path))

        def find(queries: torch.Tensor, k: int) -> np.ndarray:
            keys = graph.search(queries.numpy(), k, threads=arguments.threads).keys
            return np.asarray(keys).reshape(len(queries), k).astype(np.int64)

        def set_effort(effort: int) -> None:
            graph.expansion_search = effort

        return Method(f"usearch {dtype} {connectivity}", find, set_effort, *costs)

    return make


def scann_codes(*, tree: bool) -> Callable[..., Method]:
    """Give ScaNN's anisotropic codes, rescored in float32; the effort is how many are rescored.

    A tree has twice as many leaves as the root of the number of vectors, of which four times the
    effort are searched. The index is made anew each time.
    """

    def make(vectors: np.ndarray, _: Path, arguments: argparse.Namespace) -> Method:
        from scann import scann_ops_pybind  # noqa: PLC0415 - optional

        start = time.perf_counter()
        builder = scann_ops_pybind.builder(vectors, arguments.k, "dot_product")
        if tree:
            builder = builder.tree(
                num_leaves=int(2 * len(vectors) ** 0.5),
                num_leaves_to_search=UNTIL_SET,
                training_sample_size=len(vectors),
            )
        codes = builder.score_ah(2, anisotropic_quantization_threshold=0.2)
        searcher = codes.reorder(UNTIL_SET).set_n_training_threads(arguments.threads).build()
        searcher.set_num_threads(arguments.threads)
        build_s, effort = time.perf_counter() - start, UNTIL_SET

        def set_effort(wanted: int) -> None:
            nonlocal effort
            effort = wanted

        def find(queries: torch.Tensor, k: int) -> np.ndarray:
            settings = (k, effort, 4 * effort if tree else None)
            if len(queries) == 1:
                found = searcher.search(queries[0].numpy(), *(value or -1 for value in settings))
                return found[0][None].astype(np.int64)
            return searcher.search_batched_parallel(queries.numpy(), *settings)[0].astype(np.int64)

        return Method("ScaNN tree" if tree else "ScaNN", find, set_effort, build_s)

    return make


def kept(path: Path, build: Callable[[Path], None]) -> tuple[float | None, float]:
    """Build an index that is not there; return the seconds that took, if known, and its size."""
    note = path.with_suffix(".json")
    if not path.exists():
        start = time.perf_counter()
        build(path)
        note.write_text(json.dumps({"build_s": time.perf_counter() - start}))
        print(f"{path.name}: built in {time.perf_counter() - start:.0f} s", flush=True)
    build_s = json.loads(note.read_text())["build_s"] if note.exists() else None
    return build_s, path.stat().st_size / 1e6
