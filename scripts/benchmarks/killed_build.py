"""Kills a build at random moments and resumes it: the files must be those of an undisturbed one.

    python scripts/benchmarks/killed_build.py --kills 20 --rows 200000 FOLDER

Builds from seeded texts and vectors in a process of its own, as scripts/build_bank.py does, but
with a journal every 0.1 s; ``kill -9`` after a random part of the time that an undisturbed build
takes from its folder on; then resumes. Prints a line a kill, and exits with 1 if a checksum
differs. ``--preprocess`` adds PCA to 128 dimensions; kills then meet its fitting too.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Literal

import numpy as np

from lightweight_decoder.bank import PhraseBank, journal, write_bank
from lightweight_decoder.bank.phrase_files import (
    open_texts,
    rows_with_vectors,
    vectors_of_embeddings,
)
from lightweight_decoder.vectors import open_embeddings
from lightweight_decoder.vectors.preprocessing import L2, PCA

DIM = 384
SECONDS_BETWEEN = 0.1


def main() -> None:
    """Kill and resume as often as asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="for temporary files; emptied at the end")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--preprocess", action="store_true")
    parser.add_argument("--build", choices=("keep", "resume"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.build:
        build(options.folder, options.build, preprocess=options.preprocess)
        return
    work = options.folder / "killed_build"
    work.mkdir(parents=True)
    try:
        write_input(work, options.rows)
        process = start(work / "undisturbed", "keep", preprocess=options.preprocess)
        started = time.perf_counter()
        process.wait()
        duration = time.perf_counter() - started
        expected = fingerprint(work / "undisturbed")
        print(f"undisturbed: {duration:.1f} s, fingerprint {expected[:12]}")
        same = [
            kill_and_resume(work, number, duration, expected, preprocess=options.preprocess)
            for number in range(options.kills)
        ]
    finally:
        shutil.rmtree(work)
    print(f"{sum(same)} of {len(same)} ended with the same checksums")
    sys.exit(0 if all(same) else 1)


def write_input(work: Path, num_rows: int) -> None:
    """Write texts, a tenth of which come again, and float32 vectors."""
    rng = np.random.default_rng(0)
    numbers = rng.integers(0, num_rows * 5, size=num_rows)
    (work / "texts.txt").write_text("".join(f"phrase {number}\n" for number in numbers))
    np.save(work / "vectors.npy", rng.standard_normal((num_rows, DIM), dtype=np.float32))


def kill_and_resume(
    work: Path, number: int, duration: float, expected: str, *, preprocess: bool
) -> bool:
    """Kill a build after a random time, resume it, and compare."""
    after = random.Random(number).uniform(0, duration)  # noqa: S311, not for secrets
    process = start(work / "killed", "keep", preprocess=preprocess)
    time.sleep(after)
    process.kill()
    process.wait()
    kept = kept_bytes(work / ".killed.partial")
    was_finished = (work / "killed").exists()
    if not was_finished:
        start(work / "killed", "resume", preprocess=preprocess).wait()
    is_same = fingerprint(work / "killed") == expected
    shutil.rmtree(work / "killed")
    state = "was finished" if was_finished else f"{kept / 2**20:.0f} MiB kept"
    print(f"kill {number} after {after:.2f} s: {state}, {'same' if is_same else 'DIFFERENT'}")
    return is_same


def start(output: Path, how: str, *, preprocess: bool) -> subprocess.Popen[bytes]:
    """Start a build in a process of its own, and wait for its folder."""
    command = [sys.executable, __file__, output, "--build", how]
    process = subprocess.Popen([*command, "--preprocess"] if preprocess else command)
    partial = output.with_name(f".{output.name}.partial")
    while process.poll() is None and not partial.exists():
        time.sleep(0.001)
    return process


def build(output: Path, how: Literal["keep", "resume"], *, preprocess: bool) -> None:
    """Build the bank in this process."""
    journal.SECONDS_BETWEEN = SECONDS_BETWEEN
    texts = open_texts(output.parent / "texts.txt")
    vectors = open_embeddings(output.parent / "vectors.npy")
    write_bank(
        output,
        rows_with_vectors(texts, vectors),
        preprocessing=[L2(), PCA(dim=128)] if preprocess else [],
        sample=vectors_of_embeddings(vectors),
        interrupted=how,
        total=texts.num_rows,
    )


def kept_bytes(partial: Path) -> int:
    """Return how much the journal of a killed build promises."""
    journal = partial / "journal.json"
    return sum(json.loads(journal.read_text()).values()) if journal.exists() else 0


def fingerprint(bank: Path) -> str:
    """Check a bank's checksums against its files, and return what they add up to."""
    opened = PhraseBank.open(bank)
    opened.verify()
    return opened.fingerprint


if __name__ == "__main__":
    main()
