"""Times `scripts/evaluate.py` on many queries against the largest bank.

    python scripts/benchmarks/evaluate.py --run RUN --queries 10000

RUN is a finished run of `data=reverse_dictionary data.size=full`, with its vectors cached. A copy
of its configuration asks for as many test queries; which of them were trained on does not matter
for the time. Prints seconds from start to end, imports included, and the peak memory.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from omegaconf import OmegaConf

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    """Make the copy, evaluates it, and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--queries", type=int, default=10_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        (run / "checkpoints").mkdir(parents=True)
        shutil.copy(arguments.run / "checkpoints" / "best.ckpt", run / "checkpoints")
        config = OmegaConf.load(arguments.run / "config.yaml")
        config.data.num_test = arguments.queries
        OmegaConf.save(config, run / "config.yaml")
        start = time.perf_counter()
        subprocess.run(
            [
                sys.executable,
                ROOT / "scripts" / "evaluate.py",
                f"run_dir={run}",
                "trainer.accelerator=cpu",
            ],
            check=True,
        )
        seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"{arguments.queries:,} queries: {seconds:.1f} s, peak {peak:,.0f} MB")


if __name__ == "__main__":
    main()
