"""Kills builds at random moments: what is under the name must be a whole bank, the old or the new.

    python scripts/benchmarks/killed_build.py --kills 20 --rows 200000 FOLDER

Builds from seeded texts and vectors in a process of its own, as scripts/build_bank.py does, over a
bank that is there (``--fresh``: where nothing is); sends a signal after a random part of the time
that an undisturbed build takes, SIGKILL and SIGTERM in turn; looks; then builds once more. Prints a
line a kill, and exits with 1 if anything but a whole bank was under the name, anything but
``.NAME.partial`` beside it, or the checksums at the end differ from those of an undisturbed build.
``--preprocess`` adds PCA to 128 dimensions; kills then meet its fitting too.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from lightweight_decoder.bank import PhraseBank, write_bank
from lightweight_decoder.bank.phrase_files import (
    open_texts,
    rows_with_vectors,
    vectors_of_embeddings,
)
from lightweight_decoder.vectors import open_embeddings
from lightweight_decoder.vectors.preprocessing import L2, PCA

DIM = 384
SIGNALS = (signal.SIGKILL, signal.SIGTERM)


def main() -> None:
    """Kill and build again as often as asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="for temporary files; emptied at the end")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--preprocess", action="store_true")
    parser.add_argument("--fresh", action="store_true", help="kill builds where no bank is yet")
    parser.add_argument("--build", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.build:
        build(options.folder, preprocess=options.preprocess)
        return
    work = options.folder / "killed_build"
    work.mkdir(parents=True)
    try:
        write_input(work, options.rows)
        started = time.perf_counter()
        start(work / "undisturbed" / "bank", preprocess=options.preprocess).wait()
        duration = time.perf_counter() - started
        expected = fingerprint(work / "undisturbed" / "bank")
        print(f"undisturbed: {duration:.1f} s, fingerprint {expected[:12]}")
        right = [kill(work, n, duration, expected, options) for n in range(options.kills)]
    finally:
        shutil.rmtree(work)
    print(f"{sum(right)} of {len(right)} as they must be")
    sys.exit(0 if all(right) else 1)


def write_input(work: Path, num_rows: int) -> None:
    """Write texts, a tenth of which come again, and float32 vectors."""
    rng = np.random.default_rng(0)
    numbers = rng.integers(0, num_rows * 5, size=num_rows)
    (work / "texts.txt").write_text("".join(f"phrase {number}\n" for number in numbers))
    np.save(work / "vectors.npy", rng.standard_normal((num_rows, DIM), dtype=np.float32))


def kill(
    work: Path, number: int, duration: float, expected: str, options: argparse.Namespace
) -> bool:
    """Kill a build after a random time, look what is there, build again, and compare."""
    place = work / "killed" / "bank"
    place.parent.mkdir()
    before = None
    if not options.fresh:
        before = PhraseBank.build(place, ["old"], np.ones((1, DIM), np.float32)).fingerprint
    after = random.Random(number).uniform(0, 1.05 * duration)  # noqa: S311, not for secrets
    process = start(place, preprocess=options.preprocess)
    time.sleep(after)
    sent = SIGNALS[number % len(SIGNALS)]
    process.send_signal(sent)
    process.wait()
    found = fingerprint(place) if place.exists() else None
    left = {path.name for path in place.parent.iterdir()} - {"bank"}
    start(place, preprocess=options.preprocess).wait()
    last = fingerprint(place)
    at_last = {path.name for path in place.parent.iterdir()}
    shutil.rmtree(place.parent)
    state = {expected: "the new bank", before: "what was before"}.get(found, "SOMETHING ELSE")
    right = (found in (before, expected), left <= {".bank.partial"}, last == expected)
    print(
        f"{sent.name} {number} after {after:.2f} s: {state}, beside it {sorted(left) or 'nothing'}"
        f"{'' if all(right) and at_last == {'bank'} else ' WRONG'}"
    )
    return all(right) and at_last == {"bank"}


def start(output: Path, *, preprocess: bool) -> subprocess.Popen[bytes]:
    """Start a build in a process of its own."""
    command = [sys.executable, __file__, output, "--build"]
    return subprocess.Popen([*command, "--preprocess"] if preprocess else command)


def build(output: Path, *, preprocess: bool) -> None:
    """Build the bank in this process."""
    folder = output.parent.parent
    texts = open_texts(folder / "texts.txt")
    vectors = open_embeddings(folder / "vectors.npy")
    write_bank(
        output,
        rows_with_vectors(texts, vectors),
        preprocessing=[L2(), PCA(dim=128)] if preprocess else [],
        sample=vectors_of_embeddings(vectors),
        overwrite=True,
        total=texts.num_rows,
    )


def fingerprint(bank: Path) -> str:
    """Check a bank's checksums against its files, and return what they add up to."""
    opened = PhraseBank.open(bank)
    opened.verify()
    return opened.fingerprint


if __name__ == "__main__":
    main()
