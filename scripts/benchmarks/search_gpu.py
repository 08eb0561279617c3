"""Measure exact search on a GPU beside others, and beside what the GPU can do at most.

    python scripts/benchmarks/search_gpu.py OUTPUT_FOLDER

Writes ``search_gpu.csv`` and prints its rows. Vectors are random: the time does not depend on them.
Every time is the median of repeats, interleaved with those of the others, from the call to the end
of the device's work; ``queued_ms`` is the time of a call when several are queued, which leaves out
what the CPU takes to start one. ``recall`` compares a sample of rows with float64 products of the
same vectors. The limits are a large matrix product and a sum over a large array, measured at the
start and at the end; ``times_limit`` is ``ms`` divided by the larger of the two times that the
limits allow, ``queued_times_limit`` is ``queued_ms`` divided by it.
"""

from __future__ import annotations

import argparse
import csv
import functools
import itertools
import os
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.25")  # the others need theirs too

import torch
from torch import Tensor
from torch.nn.functional import normalize

from lightweight_decoder.search import ExactSearch
from lightweight_decoder.search.kernels.few_queries import GraphedFunction
from lightweight_decoder.search.kernels.group_maxima import top_k_products

if TYPE_CHECKING:
    from collections.abc import Callable

DEVICE = torch.device("cuda")
NUM_VECTORS = 1_000_000
DIMS = (384, 768)
BATCHES = (1, 8_192)
KS = (1, 10, 32, 100)
PEER_K = 32
"""The only k for torch.compile, JAX and CuPy, which take long to run or to compile."""
FEW = (4, 16, 64)
"""More batches, for ``PEER_K`` and without these peers."""
FEW_REPEATS = 50
"""Of searches for few queries, whose times vary more."""
PEER_QUERIES = 256
"""JAX and CuPy get as many queries at a time: their copies of all products would not fit."""
LONG_S = 0.5


class Limits(NamedTuple):
    """What the GPU does at most."""

    operations_per_s: dict[str, float]
    bytes_per_s: float


class Setting(NamedTuple):
    """One size of the problem."""

    dim: int
    dtype: str
    num_queries: int
    k: int


@torch.no_grad()
def main() -> None:
    """Measure all settings."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("output", type=Path, help="folder for search_gpu.csv")
    parser.add_argument("--vectors", type=int, default=NUM_VECTORS)
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    limits = measure_limits()
    print(torch.cuda.get_device_name(), torch.__version__, limits)
    with (arguments.output / "search_gpu.csv").open("w", newline="") as file:
        columns = [*Setting._fields, "method", "ms", "queued_ms"]
        columns += ["times_limit", "queued_times_limit", "recall"]
        table = csv.DictWriter(file, columns)
        table.writeheader()
        for dim, dtype in itertools.product(DIMS, ("bfloat16", "float32")):
            vectors = random_rows(arguments.vectors, dim, dtype)
            exact = ExactSearch.over(vectors, device=DEVICE)
            sizes = [*itertools.product(BATCHES, KS), *((few, PEER_K) for few in FEW)]
            for num_queries, k in sizes:
                setting = Setting(dim, dtype, num_queries, k)
                for row in measure(setting, vectors, exact, limits, arguments.repeats):
                    table.writerow(row)
                    file.flush()
                    print(" ".join(str(value) for value in row.values()), flush=True)
            del vectors, exact
    print("limits at the end:", measure_limits())


def random_rows(num_rows: int, dim: int, dtype: str) -> Tensor:
    """Make rows of length one on the device."""
    return normalize(torch.randn(num_rows, dim, device=DEVICE), dim=1).to(getattr(torch, dtype))


def measure_limits() -> Limits:
    """Measure the rate of a large matrix product in each type, and of reading."""
    operations_per_s = {}
    for name, dtype, tf32 in (
        ("bfloat16", torch.bfloat16, False),
        ("tf32", torch.float32, True),
        ("float32", torch.float32, False),
    ):
        torch.backends.cuda.matmul.fp32_precision = "tf32" if tf32 else "ieee"
        square = torch.randn(8_192, 8_192, device=DEVICE).to(dtype)
        seconds = queued_seconds({"product": functools.partial(torch.mm, square, square)})
        operations_per_s[name] = 2 * 8_192**3 / seconds["product"]
    torch.backends.cuda.matmul.fp32_precision = "ieee"
    large = torch.randn(2**30, device=DEVICE)
    return Limits(operations_per_s, large.nbytes / queued_seconds({"sum": large.sum})["sum"])


def measure(
    setting: Setting, vectors: Tensor, exact: ExactSearch, limits: Limits, repeats: int
) -> list[dict[str, object]]:
    """Time every method that runs, and compute its recall."""
    queries = random_rows(setting.num_queries, setting.dim, setting.dtype)
    with_peers = setting.k == PEER_K and setting.num_queries in BATCHES
    if with_peers:
        torch.compiler.reset()
    methods = our_methods(queries, vectors, setting.k, exact, compiled=with_peers)
    methods |= torch_methods(queries, vectors, setting.k, compiled=with_peers)
    if with_peers:
        methods |= jax_methods(queries, vectors, setting.k)
        methods |= cupy_methods(queries, vectors, setting.k)
    sample = torch.linspace(0, setting.num_queries - 1, min(64, setting.num_queries)).long()
    recalls = {}
    for name, method in list(methods.items()):
        try:
            method()  # the second call is captured in a CUDA graph, where there is one
            recalls[name] = recall(queries[sample], vectors, method()[sample.to(DEVICE)])
        except Exception as error:  # noqa: BLE001 - a peer that cannot is left out
            print(f"{setting}: {name} is left out: {type(error).__name__} {str(error)[:120]!r}")
            del methods[name]
        torch.cuda.empty_cache()
    if setting.num_queries <= max(FEW):
        repeats = max(repeats, FEW_REPEATS)
    seconds, queued = median_seconds(methods, repeats), queued_seconds(methods)
    best_s = shortest_possible(setting, len(vectors), limits)
    return [
        setting._asdict()
        | {
            "method": name,
            "ms": round(1e3 * seconds[name], 3),
            "queued_ms": round(1e3 * queued[name], 3),
            "times_limit": round(seconds[name] / best_s, 3),
            "queued_times_limit": round(queued[name] / best_s, 3),
            "recall": round(recalls[name], 5),
        }
        for name in methods
    ]


def shortest_possible(setting: Setting, num_vectors: int, limits: Limits) -> float:
    """Return the larger of the times for arithmetic (float32: in tf32) and for reading once."""
    rate = limits.operations_per_s["bfloat16" if setting.dtype == "bfloat16" else "tf32"]
    itemsize = 2 if setting.dtype == "bfloat16" else 4
    operations = 2 * setting.num_queries * num_vectors * setting.dim
    return max(operations / rate, num_vectors * setting.dim * itemsize / limits.bytes_per_s)


def recall(queries: Tensor, vectors: Tensor, found: Tensor) -> float:
    """Return the share of found vectors that belong to the k best in float64, ties counted."""
    products = torch.cat([queries.double() @ part.double().T for part in vectors.split(2**17)], 1)
    kth = products.topk(found.shape[1], dim=1).values[:, -1:]
    return (products.gather(1, found.to(DEVICE).long()) >= kth - 1e-6).double().mean().item()


def median_seconds(methods: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Time methods, which have run before, in turns; once those that take long."""
    times: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(repeats):
        for name, method in methods.items():
            if times[name] and times[name][0] > LONG_S:
                continue
            torch.cuda.synchronize()
            start = time.perf_counter()
            method()
            torch.cuda.synchronize()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(taken) for name, taken in times.items()}


def queued_seconds(methods: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Time calls that are queued one behind the other; a single call of those that take long."""
    taken = {}
    for name, method in methods.items():
        method()
        torch.cuda.synchronize()
        start = time.perf_counter()
        method()
        torch.cuda.synchronize()
        first_s = time.perf_counter() - start
        if first_s > LONG_S:
            taken[name] = first_s
            continue
        calls = max(1, min(100, int(0.2 / first_s)))
        start = time.perf_counter()
        for _ in range(calls):
            method()
        torch.cuda.synchronize()
        taken[name] = (time.perf_counter() - start) / calls
    return taken


def our_methods(
    queries: Tensor, vectors: Tensor, k: int, exact: ExactSearch, *, compiled: bool
) -> dict[str, Callable[[], Tensor]]:
    """Our products in each precision that fits the type, and the whole of exact search."""
    half = vectors.dtype == torch.bfloat16
    precisions = ("bfloat16",) if half else ("float32", "tf32", "float16")
    methods: dict[str, Callable[[], Tensor]] = {
        f"group maxima, {precision}": functools.partial(
            group_maxima, queries, vectors, k, precision
        )
        for precision in precisions
    }
    if len(queries) <= max(FEW):
        found = functools.partial(top_k_products, vectors=vectors, k=k, precision=precisions[0])
        graphed = GraphedFunction(found)
        methods["group maxima, graph"] = lambda: graphed(queries)[1]
        if compiled:
            compiled_products = torch.compile(found, mode="reduce-overhead")
            methods["group maxima, torch.compile"] = lambda: compiled_products(queries).vectors
    methods["ExactSearch"] = lambda: exact.search(queries, k).vector_ids
    return methods


def group_maxima(queries: Tensor, vectors: Tensor, k: int, precision: str) -> Tensor:
    """Find the vectors of our k largest products."""
    return top_k_products(queries, vectors, k, precision=precision).vectors


def torch_methods(
    queries: Tensor, vectors: Tensor, k: int, *, compiled: bool
) -> dict[str, Callable[[], Tensor]]:
    """PyTorch's product and topk, compiled too if wanted."""

    def product_and_topk(queries: Tensor, vectors: Tensor) -> Tensor:
        return (queries @ vectors.T).topk(k, dim=1).indices

    methods = {"torch matmul + topk": lambda: product_and_topk(queries, vectors)}
    if compiled:
        compiled_product = torch.compile(product_and_topk)
        methods["torch.compile of it"] = lambda: compiled_product(queries, vectors)
    return methods


def jax_methods(queries: Tensor, vectors: Tensor, k: int) -> dict[str, Callable[[], Tensor]]:
    """JAX's exact and approximate top_k after its product, in float32 as its default is."""
    try:
        import jax  # noqa: PLC0415 - optional
    except ImportError:
        print("JAX is not installed")
        return {}
    bank = jax.dlpack.from_dlpack(vectors)

    def method(top_k: Callable[..., object]) -> Callable[[], Tensor]:
        @jax.jit
        def compute(queries: jax.Array, bank: jax.Array) -> jax.Array:
            return top_k(jax.numpy.matmul(queries, bank.T), k)[1]

        def run() -> Tensor:
            parts = [
                compute(jax.dlpack.from_dlpack(part.contiguous()), bank)
                for part in queries.split(PEER_QUERIES)
            ]
            return torch.cat([torch.from_dlpack(jax.block_until_ready(part)) for part in parts])

        return run

    return {
        "JAX top_k": method(jax.lax.top_k),
        "JAX approx_max_k": method(jax.lax.approx_max_k),
    }


def cupy_methods(queries: Tensor, vectors: Tensor, k: int) -> dict[str, Callable[[], Tensor]]:
    """CuPy's product and argpartition; it has no bfloat16."""
    if vectors.dtype == torch.bfloat16 or len(queries) > 1:
        return {}  # a partition of 8,192 rows takes it half a minute
    try:
        import cupy  # noqa: PLC0415 - optional
    except ImportError:
        print("CuPy is not installed")
        return {}
    left, right = cupy.from_dlpack(queries), cupy.from_dlpack(vectors)

    def run() -> Tensor:
        return torch.from_dlpack(cupy.argpartition(left @ right.T, -k, axis=1)[:, -k:].copy())

    return {"CuPy matmul + argpartition": run}


if __name__ == "__main__":
    main()
