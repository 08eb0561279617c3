"""Measure search on the CPU beside other libraries, on real vectors.

    python scripts/benchmarks/search.py BANK OUTPUT --indexes DIR [--vectors 50000] [--batches 64]

Queries are definitions of WordNet, the vectors are those of a bank (``reverse_dictionary-full``),
or random ones, marked so, with ``--random``. Adds to ``search.csv``, in which a later line about
the same takes the place of an earlier one, and draws all of it in ``search.png``. So sizes, batches
and methods may be measured one after another; only those of one run are interleaved. Times are
medians of repeats; index recall is recomputed here from float64 products, for all queries, ties
counted. Ours are tuned on samples made from the bank, never on these queries.

Other libraries build a graph in minutes, which is kept in ``--indexes`` for the next time. Their
effort is doubled until ``--recall`` is passed, and then halved twice more between the last two.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import itertools
import json
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
import torch

from lightweight_decoder.bank import BankRows, PhraseBank, build_bank
from lightweight_decoder.data.wordnet import read_wordnet
from lightweight_decoder.embeddings import TextEncoder, default_cache_dir
from lightweight_decoder.search import AutoSearch, ExactSearch, FaissSearch, HnswSearch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LEAST_EFFORT, GREATEST_EFFORT = 32, 4096
LEAST_TIMED = 64  # queries: a batch of fewer is followed by others
KEYS = ("data", "vectors", "batch", "k", "method", "effort")


@dataclass
class Method:
    """One way to search: ``find`` gives (q, k) rows of vectors, or nothing to check (None)."""

    name: str
    find: Callable[[torch.Tensor, int], Any]
    set_effort: Callable[[int], None] | None = None
    build_s: float | None = None
    file_mb: float | None = None


@dataclass
class Task:
    """Vectors to search in, queries for them, and the k-th best product of each query."""

    data: str
    vectors: np.ndarray
    queries: torch.Tensor
    kth: torch.Tensor
    k: int

    def recall(self, rows: object) -> float:
        """Share of found vectors that belong to the k best in float64, ties counted."""
        found = torch.as_tensor(rows).long()
        queries = self.queries[: len(found)].double()
        hits = 0
        for query, ids, kth in zip(queries, found, self.kth, strict=False):
            products = torch.from_numpy(self.vectors[ids]).double() @ query
            hits += int(((products >= kth - 1e-6) & (ids >= 0)).sum())
        return hits / found.numel()


def main() -> None:
    """Measure every method at every size."""
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    with contextlib.suppress(ImportError):
        import faiss  # noqa: PLC0415 - optional

        faiss.omp_set_num_threads(arguments.threads)
    table = read_table(arguments.output / "search.csv")
    for task, folder in make_tasks(arguments):
        methods = make_methods(task.vectors, folder, arguments)
        choices = list(effort_choices(methods, task, arguments.recall))
        for batch in arguments.batches:
            for row in measure(choices, task, batch, arguments.repeats):
                table[tuple(str(row[key]) for key in KEYS)] = row
                print(*row.values(), flush=True)
        write_table(table, arguments.output / "search.csv")
    if table:
        draw(list(table.values()), arguments.output / "search.png")


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("bank", type=Path)
    parser.add_argument("output", type=Path, help="folder for search.csv and search.png")
    parser.add_argument("--indexes", type=Path, required=True, help="folder to keep indexes in")
    parser.add_argument("--vectors", type=int, nargs="*", default=[10_000, 50_000, 148_730])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 64, 2_048])
    parser.add_argument("--methods", nargs="+", default=list(MAKERS), choices=list(MAKERS))
    parser.add_argument("--random", type=int, default=0, help="random vectors, measured as well")
    parser.add_argument("--recall", type=float, default=0.999, help="what effort is raised to")
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    return arguments


def make_tasks(arguments: argparse.Namespace) -> Iterator[tuple[Task, Path]]:
    """Cut the bank to the sizes asked for, and say where the indexes of each are."""
    bank = PhraseBank.open(arguments.bank)
    texts = [synset.definition for synset in read_wordnet()][::57]
    encoder = TextEncoder(cache_dir=default_cache_dir())
    definitions = torch.from_numpy(encoder.encode(texts[: max(arguments.batches)]))
    for size in arguments.vectors:
        rows = np.ascontiguousarray(bank.vectors[:: -(-len(bank.vectors) // size)])
        yield make_task("WordNet", rows, definitions, arguments)
    if arguments.random:
        generator = np.random.default_rng(0)
        rows, queries = (
            generator.standard_normal((count, bank.dim), dtype=np.float32)
            for count in (arguments.random, max(arguments.batches))
        )
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        yield make_task("random", rows, torch.from_numpy(queries), arguments)


def make_task(
    data: str, vectors: np.ndarray, queries: torch.Tensor, arguments: argparse.Namespace
) -> tuple[Task, Path]:
    """Find the k-th best product of each query in float64; it is kept beside the indexes."""
    unit = torch.nn.functional.normalize(queries.double(), dim=1)
    folder = arguments.indexes / f"{data}-{len(vectors)}"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"kth-{arguments.k}-{len(queries)}.npy"
    if not path.exists():
        best = torch.full((len(unit), 0), -torch.inf, dtype=torch.float64)
        for start in range(0, len(vectors), 16_384):
            products = unit @ torch.from_numpy(vectors[start : start + 16_384]).double().T
            best = torch.cat([best, products], dim=1).topk(arguments.k, dim=1).values
        np.save(path, best[:, -1].numpy())
    kth = torch.from_numpy(np.load(path))
    return Task(data, vectors, unit.float(), kth, arguments.k), folder


def make_methods(vectors: np.ndarray, folder: Path, arguments: argparse.Namespace) -> list[Method]:
    """Make everything that was asked for."""
    methods = []
    for name in arguments.methods:
        try:
            methods.append(MAKERS[name](vectors, folder, arguments))
        except ImportError as error:
            print(f"{name} is left out: {error}")
    return methods


def ours(
    search: Callable[[PhraseBank, argparse.Namespace], Any], name: str
) -> Callable[..., Method]:
    """One of our own, over a bank in which every vector is a phrase."""

    def make(vectors: np.ndarray, folder: Path, arguments: argparse.Namespace) -> Method:
        path = folder / "bank"
        if not path.exists():
            texts = [str(row) for row in range(len(vectors))]
            build_bank(path, [BankRows(texts, vectors)])
        made = search(PhraseBank.open(path), arguments)
        picked = f" ({type(made.picked).__name__})" if isinstance(made, AutoSearch) else ""
        return Method(f"search={name}{picked}", lambda q, k: made.search(q, k).vector_ids)

    return make


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


MAKERS: dict[str, Callable[..., Method]] = {
    "exact": ours(lambda bank, _: ExactSearch(bank), "exact"),
    "faiss": ours(lambda bank, _: FaissSearch(bank), "faiss"),
    "hnsw": ours(lambda bank, _: HnswSearch(bank), "hnsw"),
    "auto": ours(lambda bank, a: AutoSearch(bank, batch_size=max(a.batches), k=a.k), "auto"),
    "flat": faiss_flat,
    "torch": torch_topk,
    "product": bare_product,
    "hnswlib-16": hnswlib_graph(16),
    "hnswlib-32": hnswlib_graph(32),
    "usearch-bf16-16": usearch_graph(16, "bf16"),
    "usearch-bf16-32": usearch_graph(32, "bf16"),
    "usearch-f32-32": usearch_graph(32, "f32"),
    "faiss-hnsw-16": faiss_graph(16),
    "faiss-hnsw-32": faiss_graph(32),
}


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


def effort_choices(
    methods: list[Method], task: Task, target: float
) -> Iterator[tuple[Method, int | None, float | None]]:
    """Give every method with its recall, at efforts up to the one that passes the target.

    Two more efforts between the last two come close to the least that does.
    """
    for method in methods:
        if method.set_effort is None:
            rows = method.find(task.queries, task.k)
            yield method, None, None if rows is None else task.recall(rows)
            continue
        recalls: dict[int, float] = {}

        def recall_at(effort: int, method: Method = method) -> float:
            method.set_effort(effort)  # type: ignore[misc]
            return task.recall(method.find(task.queries, task.k))

        effort, last = LEAST_EFFORT, 0.0
        while effort <= GREATEST_EFFORT and last < target:
            recalls[effort] = recall_at(effort)
            gained, last = recalls[effort] - last, recalls[effort]
            if gained < target - last:  # each doubling gains less: it will not get there
                break
            effort *= 2
        for _ in range(2):
            most = max(recalls)
            enough = [effort for effort, recall in recalls.items() if recall >= target]
            if enough and most > LEAST_EFFORT:
                less = max(effort for effort, recall in recalls.items() if recall < target)
                between = (min(enough) + less) // 2
                recalls[between] = recall_at(between)
        for effort in sorted(recalls):
            yield method, effort, recalls[effort]


def measure(
    choices: list[tuple[Method, int | None, float | None]], task: Task, batch: int, repeats: int
) -> list[dict[str, Any]]:
    """Time all in turns; small batches are several, with other queries each."""
    starts = range(0, len(task.queries), batch)[: max(8, LEAST_TIMED // batch)]
    batches = [task.queries[start : start + batch] for start in starts]
    times: list[list[float]] = [[] for _ in choices]
    for repeat, (number, (method, effort, _)) in itertools.product(
        range(1 + repeats), enumerate(choices)
    ):
        if effort is not None and method.set_effort is not None:
            method.set_effort(effort)
        start = time.perf_counter()
        for queries in batches:
            method.find(queries, task.k)
        if repeat:
            times[number].append((time.perf_counter() - start) / len(batches))
    table = []
    for (method, effort, recall), seconds in zip(choices, times, strict=True):
        middle = statistics.median(seconds)
        table.append(
            {
                "data": task.data,
                "vectors": len(task.vectors),
                "batch": batch,
                "k": task.k,
                "method": method.name,
                "effort": effort or "",
                "ms": round(1e3 * middle, 3),
                "queries_per_s": round(batch / middle, 1),
                "index_recall": "" if recall is None else round(recall, 5),
                "build_s": "" if method.build_s is None else round(method.build_s, 1),
                "file_mb": "" if method.file_mb is None else round(method.file_mb, 1),
            }
        )
    return table


def read_table(path: Path) -> dict[tuple[str, ...], dict[str, Any]]:
    """Read what was measured before."""
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        return {tuple(row[key] for key in KEYS): row for row in csv.DictReader(file)}


def write_table(table: dict[tuple[str, ...], dict[str, Any]], path: Path) -> None:
    """Write all that was measured."""
    rows = list(table.values())
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw index recall against queries per second for the largest batch, a panel for each size."""
    batch = max(int(row["batch"]) for row in rows)
    shown = [row for row in rows if int(row["batch"]) == batch and row["index_recall"] != ""]
    sizes = sorted({(row["data"], int(row["vectors"])) for row in shown}, key=lambda size: size[1])
    names = sorted({row["method"] for row in shown}, key=lambda name: (name[:7] != "search=", name))
    figure, panels = plt.subplots(
        1, len(sizes), figsize=(3.4 * len(sizes) + 1.8, 3.6), squeeze=False, layout="constrained"
    )
    for axes, (data, vectors) in zip(panels[0], sizes, strict=True):
        for number, name in enumerate(names):
            points = sorted(
                (float(row["index_recall"]), float(row["queries_per_s"]))
                for row in shown
                if (row["data"], int(row["vectors"]), row["method"]) == (data, vectors, name)
            )
            is_ours = name.startswith("search=")
            axes.plot(
                [recall for recall, _ in points],
                [rate for _, rate in points],
                color=f"C{number % 10}",
                marker="*" if is_ours else "o",
                markersize=11 if is_ours else 3.5,
                linewidth=1,
                label=name if points else None,
                zorder=3 if is_ours else 2,
            )
        axes.axvline(0.999, color="0.8", linewidth=1, zorder=1)
        axes.set(xlim=(0.98, 1.0008), yscale="log", title=f"{vectors:,} ({data})")
        axes.set(xlabel=f"index recall@{shown[0]['k']}", ylabel="queries/s")
        axes.spines[["top", "right"]].set_visible(False)
    labelled = {
        label: handle
        for axes in panels[0]
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        labelled.values(), labelled, loc="outside right center", fontsize="small", frameon=False
    )
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main()
