"""Exact search over a bank that is not in memory: with and without asking to read ahead.

    python scripts/benchmarks/read_ahead.py FOLDER

Writes 2 GB of seeded float16 vectors into FOLDER, and searches them for one query, both ways in
turn; before each search the file's pages are dropped from memory. The file is removed at the end.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from lightweight_decoder.bank import FileInfo
from lightweight_decoder.bank.stored_file import StoredFile, array_in
from lightweight_decoder.search import ExactSearch, vector_blocks
from lightweight_decoder.search.vector_blocks import read_ahead

DIM = 384


def main() -> None:
    """Print the time of each search, and the ratio of the medians."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=2_600_000)
    parser.add_argument("--queries", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--warm", action="store_true", help="leave the pages in memory")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as work:
        path = Path(work) / "vectors.npy"
        write_vectors(path, options.rows)
        compare(path, options)


def compare(path: Path, options: argparse.Namespace) -> None:
    """Time both ways, in turn."""
    queries = torch.randn(options.queries, DIM, generator=torch.Generator().manual_seed(0))
    ways = {"without": lambda _: None, "with": read_ahead}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.repeats):
        for name, way in ways.items():
            vector_blocks.read_ahead = way
            file = StoredFile.map(path, FileInfo(path.stat().st_size, ""))
            vectors = array_in(file, (options.rows, DIM), "float16")
            search = ExactSearch(Vectors(vectors))
            if not options.warm:
                drop(path)
            started = time.perf_counter()
            search.search(queries, 10)
            seconds[name].append(time.perf_counter() - started)
            del search, vectors  # pages that are mapped cannot be dropped
    for name, times in seconds.items():
        print(f"{name:8}", " ".join(f"{value:.2f}" for value in times), "s")
    without, ahead = (statistics.median(times) for times in seconds.values())
    print(f"with reading ahead in {ahead / without:.2f} of the time")


class Vectors:
    """A bank without texts, each vector a phrase."""

    def __init__(self, vectors: np.ndarray) -> None:
        self.vectors = vectors
        self.num_phrases = len(vectors)
        self.owners = np.arange(len(vectors))


def write_vectors(path: Path, num_rows: int) -> None:
    """Write unit vectors, in blocks that repeat with their columns turned."""
    rng = np.random.default_rng(0)
    block = rng.standard_normal((100_000, DIM), dtype=np.float32)
    block = (block / np.linalg.norm(block, axis=1, keepdims=True)).astype(np.float16)
    rows = np.lib.format.open_memmap(path, "w+", dtype=np.float16, shape=(num_rows, DIM))
    for number, start in enumerate(range(0, num_rows, len(block))):
        part = rows[start : start + len(block)]
        part[:] = np.roll(block, number, axis=1)[: len(part)]
    rows.flush()


def drop(path: Path) -> None:
    """Take the file's pages out of memory."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


if __name__ == "__main__":
    main()
