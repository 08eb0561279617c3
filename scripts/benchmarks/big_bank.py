"""A bank far larger than it may hold in memory: built, opened and searched.

    python scripts/benchmarks/big_bank.py --rows 10000000 FOLDER

Writes seeded float16 vectors of 384 numbers in shards, and a text a row, into FOLDER (20 GB for
10,000,000 rows), copies them, builds a bank of them, opens it and decodes; each step runs in a
process of its own. ``Private_Dirty`` and ``Anonymous`` are read from /proc. The limit on memory is
RLIMIT_DATA: the size of the mapped files plus 2 GiB, as the limit counts them in full. Everything
is removed at the end.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

DIM = 384
SHARD_ROWS = 1_000_000
GIB = 2**30


def main() -> None:
    """Run one step in this process, or all of them in their own."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--queries", type=int, default=1_000)
    parser.add_argument("--keep", action="store_true", help="leave the files")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    work = options.folder / "big_bank"
    if options.step:
        print(json.dumps(STEPS[options.step](work, options)))
        return
    work.mkdir(parents=True)
    try:
        run_all(work, options)
    finally:
        if not options.keep:
            shutil.rmtree(work)


def run_all(work: Path, options: argparse.Namespace) -> None:
    """Print a line a step."""
    write_shards(work, options.rows)
    os.sync()
    copying = run(options, "copy")
    building = run(options, "build")
    print(f"copied in {copying['seconds']:.1f} s, built in {building['seconds']:.1f} s", end=", ")
    print(f"share {copying['seconds'] / building['seconds']:.0%}", end=", ")
    print(f"peak anonymous memory {building['peak_anonymous'] / 1e6:.0f} MB", flush=True)
    shutil.rmtree(work / "shards")
    bare = run(options, "bare")["private_dirty"]
    one = run(options, "one")
    print(
        f"opened in {one['open_seconds'] * 1e3:.1f} ms, one query {one['seconds']:.1f} s", end=", "
    )
    print(f"{(one['private_dirty'] - bare) / 1e6:.0f} MB dirty over torch alone", flush=True)
    if options.queries:
        free, limited = run(options, "queries"), run(options, "limited")
        print(f"{options.queries} queries: {free['seconds']:.0f} s", end=", ")
        print(f"limited {limited['seconds']:.0f} s", end=", ")
        print(
            f"the answers are {'the same' if free['answers'] == limited['answers'] else 'OTHERS'}"
        )
    shutil.rmtree(work / "bank")
    run(options, "small_build")
    small = run(options, "small")
    print(f"50,000 x 768 float32: {(small['private_dirty'] - bare) / 1e6:.0f} MB dirty")


def run(options: argparse.Namespace, step: str) -> dict[str, float]:
    """Run a step in a process of its own, watching its anonymous memory."""
    arguments = [
        str(options.folder),
        "--rows",
        str(options.rows),
        "--queries",
        str(options.queries),
    ]
    process = subprocess.Popen(
        [sys.executable, __file__, *arguments, "--step", step], stdout=subprocess.PIPE, text=True
    )
    peak = 0
    ended = threading.Event()
    reader = threading.Thread(target=lambda: (process.wait(), ended.set()))
    reader.start()
    while not ended.wait(0.05):
        with contextlib.suppress(OSError, StopIteration):
            status = Path(f"/proc/{process.pid}/status").read_text().splitlines()
            line = next(line for line in status if line.startswith("RssAnon"))
            peak = max(peak, int(line.split()[1]) * 1024)
    reader.join()
    if process.returncode or process.stdout is None:
        sys.exit(f"{step} failed")
    return {**json.loads(process.stdout.read().splitlines()[-1]), "peak_anonymous": peak}


def write_shards(work: Path, num_rows: int) -> None:
    """Write unit vectors, each shard the first one with its columns turned, and their texts."""
    (work / "shards").mkdir()
    rng = np.random.default_rng(0)
    vectors = np.empty((min(SHARD_ROWS, num_rows), DIM), dtype=np.float16)
    for start in range(0, len(vectors), 50_000):
        block = rng.standard_normal((min(50_000, len(vectors) - start), DIM), dtype=np.float32)
        vectors[start : start + 50_000] = block / np.linalg.norm(block, axis=1, keepdims=True)
    for number, start in enumerate(range(0, num_rows, SHARD_ROWS)):
        rows = np.roll(vectors[: num_rows - start], number, axis=1)
        np.save(work / "shards" / f"part-{number}.npy", rows)
    with (work / "texts.txt").open("w") as file:
        file.writelines(f"phrase number {number}\n" for number in range(num_rows))


def copy(work: Path, _: argparse.Namespace) -> dict[str, float]:
    """Copy the shards and the texts, to the disk."""
    (work / "copy").mkdir()
    started = time.perf_counter()
    for source in [*(work / "shards").iterdir(), work / "texts.txt"]:
        target = work / "copy" / source.name
        shutil.copyfile(source, target)
        with target.open("rb") as file:
            os.fsync(file.fileno())
    seconds = time.perf_counter() - started
    shutil.rmtree(work / "copy")
    return {"seconds": seconds}


def build(work: Path, _: argparse.Namespace) -> dict[str, float]:
    """Build the bank, as scripts/build_bank.py does."""
    from lightweight_decoder.bank import write_bank  # noqa: PLC0415
    from lightweight_decoder.bank.phrase_files import open_texts, rows_with_vectors  # noqa: PLC0415
    from lightweight_decoder.vectors import open_embeddings  # noqa: PLC0415

    started = time.perf_counter()
    texts = open_texts(work / "texts.txt")
    rows = rows_with_vectors(texts, open_embeddings(work / "shards"))
    write_bank(work / "bank", rows, dtype="float16", total=texts.num_rows)
    return {"seconds": time.perf_counter() - started}


def bare(_: Path, __: argparse.Namespace) -> dict[str, float]:
    """Load torch and nothing else."""
    import torch  # noqa: F401, PLC0415

    return {"private_dirty": private_dirty()}


def one(work: Path, _: argparse.Namespace) -> dict[str, float]:
    """Open the bank and decode one query."""
    return decode_one(work / "bank", DIM)


def small_build(work: Path, _: argparse.Namespace) -> dict[str, float]:
    """Build a bank of 50,000 x 768 float32."""
    from lightweight_decoder import PhraseBank  # noqa: PLC0415

    vectors = np.random.default_rng(1).standard_normal((50_000, 768), dtype=np.float32)
    texts = [f"phrase {number}" for number in range(50_000)]
    PhraseBank.build(work / "small", texts, vectors, dtype="float32")
    return {}


def small(work: Path, _: argparse.Namespace) -> dict[str, float]:
    """Open the small bank and decode one query."""
    return decode_one(work / "small", 768)


def decode_one(path: Path, dim: int) -> dict[str, float]:
    """Open a bank, decode one query, and measure."""
    from lightweight_decoder import PhraseBank, PhraseBankDecoder  # noqa: PLC0415

    started = time.perf_counter()
    bank = PhraseBank.open(path)
    opened = time.perf_counter()
    PhraseBankDecoder(bank).decode(queries(1, dim))
    return {
        "open_seconds": opened - started,
        "seconds": time.perf_counter() - opened,
        "private_dirty": private_dirty(),
    }


def decode_many(work: Path, options: argparse.Namespace) -> dict[str, float]:
    """Decode all queries."""
    from lightweight_decoder import PhraseBank, PhraseBankDecoder  # noqa: PLC0415

    bank = PhraseBank.open(work / "bank")
    started = time.perf_counter()
    decoded = PhraseBankDecoder(bank).decode(queries(options.queries, DIM))
    answers = hashlib.sha256(decoded.phrase_ids.tobytes() + decoded.values.tobytes()).hexdigest()
    return {"seconds": time.perf_counter() - started, "answers": int(answers[:12], 16)}


def decode_limited(work: Path, options: argparse.Namespace) -> dict[str, float]:
    """Decode all queries while everything but the mapped files may take 2 GiB."""
    mapped = sum(file.stat().st_size for file in (work / "bank").iterdir())
    resource.setrlimit(resource.RLIMIT_DATA, (mapped + 2 * GIB,) * 2)
    return decode_many(work, options)


def queries(count: int, dim: int) -> np.ndarray:
    """Return seeded queries."""
    return np.random.default_rng(2).standard_normal((count, dim), dtype=np.float32)


def private_dirty() -> int:
    """Return this process's memory that no file backs, in bytes."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("Private_Dirty")).split()[1]) * 1024


STEPS: dict[str, Callable[[Path, argparse.Namespace], dict[str, float]]] = {
    "copy": copy,
    "build": build,
    "bare": bare,
    "one": one,
    "queries": decode_many,
    "limited": decode_limited,
    "small_build": small_build,
    "small": small,
}

if __name__ == "__main__":
    main()
