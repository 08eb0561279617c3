"""Measures how far confidence can be trusted, on both sets that an issue names.

    python scripts/benchmarks/confidence.py intents --data ../shared/data/banking77
    python scripts/benchmarks/confidence.py dictionary --run RUN

`intents` trains on banking77 (2,000 training and 1,000 test rows) with 10 of the 77 intents taken
out of bank and training, and prints the AUROC of in-bank against out-of-bank test rows, and the
precision of what is answered with the threshold set for 95% on the calibration split. Choices were
made with seeds 1 to 3; the figure to report is that of seed 0. `dictionary` evaluates a finished
run of `data=reverse_dictionary` and prints ECE and the area under risk-coverage beside cosine's.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CALIBRATION = ("calibration.out_of_bank_share=0.13", "data.calib_fraction=0.2")  # 10 of 77 intents


def intents(data: Path, seed: int) -> None:
    """Trains, evaluates at 95% precision, and prints."""
    with tempfile.TemporaryDirectory() as folder:
        _run(
            "train.py",
            "data=labelled_text",
            f"data.train={data}/train.csv",
            f"data.test={data}/test.csv",
            "data.label_column=category",
            "data.num_train=2000",
            "data.num_test=1000",
            "data.num_out_of_bank=10",
            f"data.bank_root={folder}/banks",
            f"seed={seed}",
            f"data.seed={seed}",
            f"hydra.run.dir={folder}/run",
            "trainer.enable_progress_bar=false",
            *CALIBRATION,
        )
        _run("scripts/evaluate.py", f"run_dir={folder}/run", "target_precision=0.95")
        metrics = json.loads((Path(folder) / "run" / "metrics.json").read_text())
    names = ("auroc_in_bank", "fpr95_in_bank", "precision", "coverage", "answered_out_of_bank")
    figures = {name: round(metrics[f"test/decoder/{name}"], 4) for name in names}
    print(f"seed {seed}: {figures}")


def dictionary(run: Path) -> None:
    """Evaluate and prints."""
    with tempfile.TemporaryDirectory() as folder:
        _run("scripts/evaluate.py", f"run_dir={run}", f"output={folder}")
        metrics = json.loads((Path(folder) / "metrics.json").read_text())
    area, cosine = metrics["test/decoder/aurc"], metrics["test/baseline/aurc"]
    print(f"ECE {metrics['test/decoder/ece']:.4f} (aim: below 0.03)")
    print(f"AURC {area:.4f}, cosine's own {cosine:.4f}: {1 - area / cosine:.1%} better (aim: 10%)")


def _run(script: str, *overrides: str) -> None:
    """Run a command on the CPU, its output kept out of the way unless it fails."""
    command = [sys.executable, str(ROOT / script), *overrides, "trainer.accelerator=cpu"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(done.stdout + done.stderr)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("which", choices=("intents", "dictionary"))
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared/data/banking77")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--run", type=Path)
    arguments = parser.parse_args()
    if arguments.which == "intents":
        intents(arguments.data.absolute(), arguments.seed)
    else:
        dictionary(arguments.run.absolute())


if __name__ == "__main__":
    main()
