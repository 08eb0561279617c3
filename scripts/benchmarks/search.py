"""Measure search on the CPU beside other libraries, on real vectors.

    python scripts/benchmarks/search.py BANK OUTPUT_FOLDER [--vectors 50000] [--batches 1 2048]

Queries are definitions of WordNet, the vectors are those of a bank (``reverse_dictionary-full``),
or random ones, marked so, with ``--random``. Writes ``search.csv`` and ``search.png``. Times are
medians of repeats, interleaved; index recall is recomputed here from float64 products, ties
counted. FAISS HNSW, hnswlib and usearch take minutes to build: choose methods with ``--methods``.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import torch

from lightweight_decoder.bank import BankRows, PhraseBank, build_bank
from lightweight_decoder.data.wordnet import read_wordnet
from lightweight_decoder.embeddings import TextEncoder, default_cache_dir
from lightweight_decoder.search import ExactSearch, FaissSearch, HnswSearch

if TYPE_CHECKING:
    from collections.abc import Callable

METHODS = ("exact", "faiss", "hnsw", "flat", "torch", "product", "hnswlib", "usearch", "faiss-hnsw")
EFFORTS = (64, 128, 256, 512, 1024)


class Method(NamedTuple):
    """One way to search; ``rows`` is None where nothing is found (the bare product)."""

    name: str
    rows: Callable[[torch.Tensor, int], object]
    finds: bool = True


def main() -> None:
    """Measure every method at every size."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("bank", type=Path)
    parser.add_argument("output", type=Path, help="folder for search.csv and search.png")
    parser.add_argument("--vectors", type=int, nargs="+", default=[10_000, 50_000, 148_730])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 64, 2_048])
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--random", type=int, default=0, help="random vectors, measured as well")
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(arguments.threads)
    bank = PhraseBank.open(arguments.bank)
    texts = [synset.definition for synset in read_wordnet()][::57]
    encoder = TextEncoder(cache_dir=default_cache_dir())
    queries = torch.from_numpy(encoder.encode(texts[: max(arguments.batches)]))
    sizes = [
        ("WordNet", n, np.asarray(bank.vectors[:: -(-len(bank.vectors) // n)]))
        for n in arguments.vectors
    ]
    if arguments.random:
        rows = np.random.default_rng(0).normal(size=(arguments.random, bank.dim))
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        sizes.append(("random", arguments.random, rows.astype(np.float32)))
    table = []
    for data, _, vectors in sizes:
        with tempfile.TemporaryDirectory() as folder:
            methods = make_methods(np.ascontiguousarray(vectors), Path(folder), arguments)
            for batch in arguments.batches:
                table += measure(methods, vectors, queries[:batch], data, arguments)
    with (arguments.output / "search.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, table[0])
        writer.writeheader()
        writer.writerows(table)
    draw(table, arguments.output / "search.png")


def make_methods(vectors: np.ndarray, folder: Path, arguments: argparse.Namespace) -> list[Method]:
    """Build everything that was asked for."""
    rows = torch.from_numpy(vectors)
    texts = [str(row) for row in range(len(vectors))]
    bank = build_bank(folder / "bank", [BankRows(texts, vectors)])
    makers = {
        "exact": lambda: [ours("exact", ExactSearch(bank))],
        "faiss": lambda: [ours("faiss", FaissSearch(bank))],
        "hnsw": lambda: [ours("hnsw", HnswSearch(bank))],
        "torch": lambda: [
            Method("torch matmul + topk", lambda q, k: (q @ rows.T).topk(k, dim=1).indices)
        ],
        "product": lambda: [Method("bare matmul", lambda q, _: q @ rows.T, finds=False)],
        "flat": lambda: faiss_methods("Flat", vectors, arguments.threads),
        "faiss-hnsw": lambda: faiss_methods("HNSW16", vectors, arguments.threads),
        "hnswlib": lambda: hnswlib_methods(vectors, arguments.threads),
        "usearch": lambda: usearch_methods(vectors, arguments.threads),
    }
    methods = []
    for name in arguments.methods:
        start = time.perf_counter()
        try:
            methods += makers[name]()
        except ImportError as error:
            print(f"{name} is left out: {error}")
        print(f"{name}: made in {time.perf_counter() - start:.1f} s", flush=True)
    return methods


def ours(name: str, search: ExactSearch | FaissSearch | HnswSearch) -> Method:
    """One of our own."""
    return Method(f"search={name}", lambda q, k: search.search(q, k).vector_ids)


def faiss_methods(factory: str, vectors: np.ndarray, threads: int) -> list[Method]:
    """FAISS by itself."""
    import faiss  # noqa: PLC0415 - optional

    faiss.omp_set_num_threads(threads)
    index = faiss.index_factory(vectors.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
    index.add(vectors)
    if factory == "Flat":
        return [Method("FAISS FlatIP", lambda q, k: index.search(q.numpy(), k)[1])]

    def search(queries: torch.Tensor, k: int, effort: int) -> np.ndarray:
        index.hnsw.efSearch = effort
        return index.search(queries.numpy(), k)[1]

    return [Method(f"FAISS {factory} {e}", lambda q, k, e=e: search(q, k, e)) for e in EFFORTS]


def hnswlib_methods(vectors: np.ndarray, threads: int) -> list[Method]:
    """Give hnswlib at several efforts."""
    import hnswlib  # noqa: PLC0415 - optional

    graph = hnswlib.Index("ip", vectors.shape[1])
    graph.init_index(len(vectors), M=16, ef_construction=128)
    graph.set_num_threads(threads)
    graph.add_items(vectors)

    def search(queries: torch.Tensor, k: int, effort: int) -> np.ndarray:
        graph.set_ef(effort)
        return graph.knn_query(queries.numpy(), k)[0].astype(np.int64)

    return [Method(f"hnswlib {e}", lambda q, k, e=e: search(q, k, e)) for e in EFFORTS]


def usearch_methods(vectors: np.ndarray, threads: int) -> list[Method]:
    """Give usearch at several efforts."""
    from usearch.index import Index  # noqa: PLC0415 - optional

    graph = Index(ndim=vectors.shape[1], metric="ip", dtype="bf16", connectivity=16)
    graph.add(np.arange(len(vectors)), vectors, threads=threads)

    def search(queries: torch.Tensor, k: int, effort: int) -> np.ndarray:
        graph.expansion_search = effort
        keys = graph.search(queries.numpy(), k, threads=threads).keys
        return np.asarray(keys).reshape(len(queries), k).astype(np.int64)

    return [Method(f"usearch bf16 {e}", lambda q, k, e=e: search(q, k, e)) for e in EFFORTS]


def measure(
    methods: list[Method],
    vectors: np.ndarray,
    queries: torch.Tensor,
    data: str,
    arguments: argparse.Namespace,
) -> list[dict[str, object]]:
    """Time all methods in turns and compute what they find."""
    found = {method.name: method.rows(queries, arguments.k) for method in methods}
    times: dict[str, list[float]] = {method.name: [] for method in methods}
    for _ in range(arguments.repeats):
        for method in methods:
            start = time.perf_counter()
            method.rows(queries, arguments.k)
            times[method.name].append(time.perf_counter() - start)
    table = []
    for method in methods:
        seconds = statistics.median(times[method.name])
        recall = index_recall(queries, vectors, found[method.name]) if method.finds else None
        row = {
            "data": data,
            "vectors": len(vectors),
            "batch": len(queries),
            "k": arguments.k,
            "method": method.name,
            "ms": round(1e3 * seconds, 3),
            "queries_per_s": round(len(queries) / seconds, 1),
            "index_recall": None if recall is None else round(recall, 5),
        }
        print(*row.values(), flush=True)
        table.append(row)
    return table


def index_recall(queries: torch.Tensor, vectors: np.ndarray, found: object) -> float:
    """Share of found vectors that belong to the k best in float64, ties counted (256 queries)."""
    rows = torch.as_tensor(found)[:256].long()
    products = queries[:256].double() @ torch.from_numpy(vectors).double().T
    kth = products.topk(rows.shape[1], dim=1).values[:, -1:]
    return (products.gather(1, rows) >= kth - 1e-6).double().mean().item()


def draw(table: list[dict[str, object]], path: Path) -> None:
    """Draw recall against queries per second at the largest size and batch."""
    largest = max((row["vectors"], row["batch"]) for row in table)
    figure, axes = plt.subplots(figsize=(8, 5))
    for row in table:
        if (row["vectors"], row["batch"]) == largest and row["index_recall"] is not None:
            axes.scatter(row["index_recall"], row["queries_per_s"])
            axes.annotate(row["method"], (row["index_recall"], row["queries_per_s"]))
    axes.set(xlabel="index recall", ylabel="queries/s", yscale="log", title=f"{largest}")
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
