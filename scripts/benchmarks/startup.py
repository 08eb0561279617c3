"""Processor time of short commands in fresh processes: of this checkout and, in turn, of others.

    python scripts/benchmarks/startup.py BANK CHECKPOINT [--checkouts DIR ...] [--repeats 7]

BANK is the folder of a bank, CHECKPOINT a run's `best.ckpt`. Each round starts every command once
in each checkout, so that all see the same machine. Prints medians of user time, which other
processes disturb less than wall time, and their ratio to the first checkout's.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from lightweight_decoder import PhraseBank

HERE = Path(__file__).resolve().parents[2]


def commands(bank: Path, checkpoint: Path, folder: Path) -> dict[str, list[str]]:
    """Return the arguments of each command by its name."""
    decode = ["scripts/decode.py", "trainer.accelerator=cpu"]
    files = [f"input={folder / 'three.npy'}", f"output={folder / 'answers.jsonl'}"]
    return {
        "python -c 'import torch'": ["-c", "import torch"],
        "decode.py bank= input=three.npy": [*decode, f"bank={bank}", *files],
        'decode.py checkpoint= text="a road"': [*decode, f"checkpoint={checkpoint}", "text=a road"],
        "train.py --help": ["train.py", "--help"],
    }


def user_s(arguments: list[str], checkout: Path, cwd: Path) -> float:
    """Return the user time in seconds of one command of a checkout."""
    first, *rest = arguments
    command = [sys.executable, first if first == "-c" else str(checkout / first), *rest]
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    environment = os.environ | {"PYTHONPATH": str(checkout / "src")}
    subprocess.run(command, cwd=cwd, env=environment, check=True, capture_output=True)
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before


def main() -> None:
    """Take turns and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bank", type=Path)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--checkouts", type=Path, nargs="+", default=[HERE])
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bank, checkpoint = options.bank.resolve(), options.checkpoint.resolve()
        np.save(folder / "three.npy", np.asarray(PhraseBank.open(bank).vectors[:3]))
        for label, arguments in commands(bank, checkpoint, folder).items():
            taken: dict[Path, list[float]] = {each: [] for each in options.checkouts}
            for _ in range(options.repeats):
                for checkout, times in taken.items():
                    times.append(user_s(arguments, checkout.resolve(), folder))
            first = statistics.median(taken[options.checkouts[0]])
            for checkout, times in taken.items():
                middle = statistics.median(times)
                spread = f"{min(times):.2f} to {max(times):.2f}"
                print(f"{label}: {checkout.name} {middle:.2f} s ({spread}), {middle / first:.2f}")


if __name__ == "__main__":
    main()
