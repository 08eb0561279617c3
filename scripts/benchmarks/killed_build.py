"""Kills a build at random moments and resumes it: the files must be those of an undisturbed one.

    python scripts/benchmarks/killed_build.py --kills 20 --rows 300000 FOLDER

Runs ``scripts/build_bank.py`` on seeded texts and vectors, with ``kill -9`` after a random part of
the time that an undisturbed build takes, then with ``resume=true``. Prints a line a kill, and exits
with 1 if a checksum differs.
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

import numpy as np

SCRIPT = Path(__file__).parents[1] / "build_bank.py"
DIM = 384


def main() -> None:
    """Kill and resume as often as asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="for temporary files; emptied at the end")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--rows", type=int, default=300_000)
    options = parser.parse_args()
    work = options.folder / "killed_build"
    work.mkdir(parents=True)
    try:
        write_input(work, options.rows)
        started = time.perf_counter()
        build(work, "undisturbed").wait()
        duration = time.perf_counter() - started
        expected = fingerprint(work / "undisturbed")
        print(f"undisturbed: {duration:.1f} s, fingerprint {expected[:12]}")
        same = [
            kill_and_resume(work, number, duration, expected) for number in range(options.kills)
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


def kill_and_resume(work: Path, number: int, duration: float, expected: str) -> bool:
    """Kill a build after a random time, resume it, and compare."""
    after = random.Random(number).uniform(0, duration)  # noqa: S311, not for secrets
    process = build(work, "killed")
    time.sleep(after)
    process.kill()
    process.wait()
    kept = kept_bytes(work / ".killed.partial")
    was_finished = (work / "killed").exists()
    if not was_finished:
        build(work, "killed", "resume=true").wait()
    is_same = fingerprint(work / "killed") == expected
    shutil.rmtree(work / "killed")
    state = "was finished" if was_finished else f"{kept / 2**20:.0f} MiB kept"
    print(f"kill {number} after {after:.2f} s: {state}, {'same' if is_same else 'DIFFERENT'}")
    return is_same


def build(work: Path, name: str, *options: str) -> subprocess.Popen[bytes]:
    """Start a build."""
    overrides = [f"input={work}/texts.txt", f"vectors={work}/vectors.npy", f"output={work}/{name}"]
    return subprocess.Popen(
        [sys.executable, SCRIPT, *overrides, *options], stdout=subprocess.DEVNULL
    )


def kept_bytes(partial: Path) -> int:
    """Return how much the journal of a killed build promises."""
    journal = partial / "journal.json"
    return sum(json.loads(journal.read_text()).values()) if journal.exists() else 0


def fingerprint(bank: Path) -> str:
    """Check a bank's checksums against its files, and return what they add up to."""
    from lightweight_decoder.bank import PhraseBank  # noqa: PLC0415, after the first build

    opened = PhraseBank.open(bank)
    opened.verify()
    return opened.fingerprint


if __name__ == "__main__":
    main()
