"""What sums by block cost whoever reads a bank, and whether they find every altered byte.

    python scripts/benchmarks/block_sums.py FOLDER --rows 325000 --turns 7 --altered 100

Builds a bank of 384 float32 (325,000 rows: 500 MB), then reads it in processes of their own, in
turn: without sums, with sums that are remembered from an earlier process, and with sums that
nobody remembers. A reading opens the bank, decodes some queries, and looks all texts up. Prints
the medians of the time from opening to the end, and of the processor time of the whole process.
Then alters one byte at a time, anywhere, leaving size and time of the file as they were, and
counts how often a reading says so. Exits with 1 if one was missed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from lightweight_decoder import PhraseBank, PhraseBankDecoder
from lightweight_decoder.bank import BankRows, write_bank
from lightweight_decoder.bank.stored_file import StoredFile
from lightweight_decoder.errors import BankError

DIM = 384
NUM_QUERIES = 64
WAYS = ("without", "remembered", "new")


def main() -> None:
    """Build, measure, alter."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="for temporary files; emptied at the end")
    parser.add_argument("--rows", type=int, default=325_000)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--altered", type=int, default=100)
    parser.add_argument("--read", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.read:
        print(json.dumps(read(options.folder / "bank", options.read)))
        return
    work = options.folder / "block_sums"
    work.mkdir(parents=True)
    os.environ["LIGHTWEIGHT_DECODER_CACHE"] = str(work / "cache")
    try:
        write_bank(work / "bank", blocks(options.rows), total=options.rows)
        time.sleep(3)  # what changed just now is not remembered
        measure(work, options.turns)
        missed = options.altered - sum(alter(work / "bank", n) for n in range(options.altered))
    finally:
        shutil.rmtree(work)
    print(f"{missed} of {options.altered} altered bytes missed")
    sys.exit(1 if missed else 0)


def blocks(num_rows: int) -> list[BankRows]:
    """Return seeded texts and vectors."""
    vectors = np.random.default_rng(0).standard_normal((num_rows, DIM), dtype=np.float32)
    return [
        BankRows([f"phrase number {i}" for i in range(start, stop)], vectors[start:stop])
        for start in range(0, num_rows, 8_192)
        for stop in [min(start + 8_192, num_rows)]
    ]


def measure(work: Path, turns: int) -> None:
    """Read in turn, and print medians."""
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(turns + 1):  # the first turn warms the page cache up
        for way in WAYS:
            if way == "new":
                shutil.rmtree(work / "cache", ignore_errors=True)
            command = [sys.executable, __file__, str(work), "--read", way]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            found[way].append(json.loads(output))
    for way in ("new", "remembered", "without"):
        medians = {
            name: statistics.median(turn[name] for turn in found[way][1:])
            for name in ("reading_s", "process_s")
        }
        print(", ".join([way, *(f"{name} {value:.3f}" for name, value in medians.items())]))


def read(bank: Path, way: str) -> dict[str, float]:
    """Read everything once."""
    if way == "without":
        StoredFile._unread = set()  # noqa: SLF001, as in a bank without sums
    queries = np.random.default_rng(1).standard_normal((NUM_QUERIES, DIM), dtype=np.float32)
    started = time.perf_counter()
    opened = PhraseBank.open(bank)
    PhraseBankDecoder(opened).decode(queries)
    opened.texts(range(opened.num_phrases))
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "reading_s": time.perf_counter() - started,
        "process_s": usage.ru_utime + usage.ru_stime,
    }


def alter(bank: Path, number: int) -> bool:
    """Change one byte of the bank, see whether reading says so, and change it back."""
    random_place = random.Random(number)  # noqa: S311, not for secrets
    path = bank / random_place.choice(["vectors.npy", "vectors.npy", "owners.npy", "phrases.arrow"])
    place = random_place.randrange(path.stat().st_size)
    flip(path, place)
    try:
        opened = PhraseBank.open(bank)
        opened.vectors, opened.owners  # noqa: B018, checked when they are asked for
        opened.texts(range(opened.num_phrases))
    except BankError:
        return True
    finally:
        flip(path, place)
    print(f"missed: byte {place} of {path.name}")
    return False


def flip(path: Path, place: int) -> None:
    """Change one byte, and leave size and time as they were."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(place)
        (byte,) = file.read(1)
        file.seek(place)
        file.write(bytes([byte ^ 1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


if __name__ == "__main__":
    main()
