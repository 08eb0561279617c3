"""Measure search on the CPU beside other libraries, on real vectors.

    python scripts/benchmarks/search.py BANK OUTPUT --indexes DIR [--vectors 50000] [--batches 64]

Queries are definitions of WordNet, the vectors are those of a bank (``reverse_dictionary-full``),
or random ones, marked so, with ``--random``; with an empty ``--vectors`` besides, BANK is not read.
ScaNN takes part where it is installed (``pip install scann``, Linux).

Adds to ``search.csv``, in which a later line about the same takes the place of an earlier one, and
draws all of it in ``search.png``. So sizes, batches and methods may be measured one after another;
only those of one run are interleaved. Times are medians of repeats; index recall is recomputed here
from float64 products, for all queries, ties counted. Ours are tuned on samples made from the bank,
never on these queries.

Other libraries build a graph in minutes, which is kept in ``--indexes`` for the next time. Their
effort is doubled until ``--recall`` is passed, and then halved twice more between the last two;
where no effort will do (random vectors), ``--efforts`` names those to try.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import itertools
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from search_peers import (
    Method,
    bare_product,
    faiss_flat,
    faiss_graph,
    hnswlib_graph,
    scann_codes,
    torch_topk,
    usearch_graph,
)

from lightweight_decoder.bank import PhraseBank
from lightweight_decoder.encoder import TextEncoder
from lightweight_decoder.files import user_cache_dir
from lightweight_decoder.search import AutoSearch, ExactSearch, FaissSearch
from lightweight_decoder.search.faiss_index import GRAPH_FACTORY
from lightweight_decoder.training.sources.reverse_dictionary import read_wordnet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LEAST_EFFORT, GREATEST_EFFORT = 32, 4_096
LEAST_TIMED = 64  # queries: a batch of fewer is followed by others
AT_ONCE = 512  # queries while recall is computed: the products of 1,000,000 vectors are 2 GB
RANDOM_DIM = 384
KEYS = ("data", "vectors", "batch", "k", "method", "effort")


@dataclass
class Task:
    """Vectors to search in, queries for them, and the k-th best product of each query."""

    data: str
    vectors: np.ndarray
    queries: torch.Tensor
    kth: torch.Tensor
    k: int

    def recall(self, method: Method) -> float | None:
        """Share of found vectors that belong to the k best in float64, ties counted."""
        hits = 0
        for queries, kth in zip(self.queries.split(AT_ONCE), self.kth.split(AT_ONCE), strict=True):
            found = method.find(queries, self.k)
            if found is None:
                return None
            rows = np.asarray(found)
            chosen = torch.from_numpy(self.vectors[rows]).double()
            products = (chosen @ queries.double()[:, :, None]).squeeze(2)
            hits += int(((products >= kth[:, None] - 1e-6) & torch.from_numpy(rows >= 0)).sum())
        return hits / (len(self.queries) * self.k)


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
        choices = list(effort_choices(methods, task, arguments))
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
    parser.add_argument("bank", type=Path, help="folder of the bank that vectors are from")
    parser.add_argument("output", type=Path, help="folder for search.csv and search.png")
    parser.add_argument("--indexes", type=Path, required=True, help="folder to keep indexes in")
    parser.add_argument("--vectors", type=int, nargs="*", default=[10_000, 50_000, 148_730])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 64, 2_048])
    parser.add_argument("--methods", nargs="+", default=list(MAKERS), choices=list(MAKERS))
    parser.add_argument(
        "--random", type=int, default=0, help="random vectors of 384 numbers, measured as well"
    )
    parser.add_argument(
        "--efforts", type=int, nargs="+", default=[], help="these, not the least that are enough"
    )
    parser.add_argument("--most-effort", type=int, default=GREATEST_EFFORT, help="where it ends")
    parser.add_argument("--recall", type=float, default=0.999, help="what effort is raised to")
    parser.add_argument("--queries", type=int, default=2_048, help="at least the largest batch")
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    return arguments


def make_tasks(arguments: argparse.Namespace) -> Iterator[tuple[Task, Path]]:
    """Cut the bank to the sizes asked for, and say where the indexes of each are."""
    if arguments.vectors:
        bank = PhraseBank.open(arguments.bank)
        texts = [synset.definition for synset in read_wordnet()][::57]
        encoder = TextEncoder(cache_dir=user_cache_dir())
        definitions = torch.from_numpy(encoder.encode_queries(texts[: arguments.queries]))
    for size in arguments.vectors:
        rows = np.ascontiguousarray(bank.vectors[:: -(-len(bank.vectors) // size)])
        yield make_task("WordNet", rows, definitions, arguments)
    if arguments.random:
        generator = np.random.default_rng(0)
        rows, queries = (
            generator.standard_normal((count, RANDOM_DIM), dtype=np.float32)
            for count in (arguments.random, arguments.queries)
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
            PhraseBank.build(path, texts, vectors)
        made = search(PhraseBank.open(path), arguments)
        picked = f" ({type(made.picked).__name__})" if isinstance(made, AutoSearch) else ""
        return Method(f"search={name}{picked}", lambda q, k: made.search(q, k).vector_ids)

    return make


MAKERS: dict[str, Callable[..., Method]] = {
    "exact": ours(lambda bank, _: ExactSearch(bank), "exact"),
    "faiss": ours(lambda bank, _: FaissSearch(bank), "faiss"),
    "hnsw": ours(lambda bank, _: FaissSearch(bank, factory=GRAPH_FACTORY), "hnsw"),
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
    "scann": scann_codes(tree=False),
    "scann-tree": scann_codes(tree=True),
}


def effort_choices(
    methods: list[Method], task: Task, arguments: argparse.Namespace
) -> Iterator[tuple[Method, int | None, float | None]]:
    """Give every method with its recall, at the efforts named or up to one that is enough."""
    for method in methods:
        if method.set_effort is None:
            yield method, None, task.recall(method)
            continue

        def recall_at(effort: int, method: Method = method) -> float:
            method.set_effort(effort)  # type: ignore[misc]
            return task.recall(method) or 0.0

        if arguments.efforts:
            recalls = {effort: recall_at(effort) for effort in arguments.efforts}
        else:
            recalls = recalls_up_to(arguments.recall, recall_at, arguments.most_effort)
        for effort in sorted(recalls):
            yield method, effort, recalls[effort]


def recalls_up_to(
    target: float, recall_at: Callable[[int], float], most_effort: int
) -> dict[int, float]:
    """Double the effort until the recall is enough, or will not be.

    Two more efforts between the last two come close to the least that does.
    """
    recalls: dict[int, float] = {}
    effort, last = LEAST_EFFORT, 0.0
    while effort <= most_effort and last < target:
        recalls[effort] = recall_at(effort)
        gained, last = recalls[effort] - last, recalls[effort]
        if gained < target - last:  # each doubling gains less: it will not get there
            break
        effort *= 2
    for _ in range(2):
        enough = [effort for effort, recall in recalls.items() if recall >= target]
        if enough and max(recalls) > LEAST_EFFORT:
            less = max(effort for effort, recall in recalls.items() if recall < target)
            between = (min(enough) + less) // 2
            recalls[between] = recall_at(between)
    return recalls


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
        points_of: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
        for row in shown:
            if (row["data"], int(row["vectors"])) == (data, vectors):
                point = (float(row["index_recall"]), float(row["queries_per_s"]))
                points_of[row["method"]].append(point)
        for number, (name, points) in enumerate(points_of.items()):
            is_ours = name.startswith("search=")
            axes.plot(
                *zip(*sorted(points), strict=True) if points else ([], []),
                color=plt.get_cmap("tab20")(2 * number % 20 + (number > 9)),  # noqa: PLR2004
                marker="*" if is_ours else "o",
                markersize=11 if is_ours else 3.5,
                linewidth=1,
                label=name if points else None,
                zorder=3 if is_ours else 2,
            )
        axes.axvline(0.999, color="0.8", linewidth=1, zorder=1)
        left = min(0.98, *(max(points)[0] for points in points_of.values() if points))
        margin = (1 - left) / 20
        axes.set(xlim=(left - margin, 1 + margin), yscale="log", title=f"{vectors:,} ({data})")
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
    figure.savefig(path, dpi=85)
    plt.close(figure)


if __name__ == "__main__":
    main()
