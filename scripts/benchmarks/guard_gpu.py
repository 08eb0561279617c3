"""Prove the guard on a GPU: a kernel error inside fit ends on the CPU, like a run resumed by hand.

    python scripts/benchmarks/guard_gpu.py BANK_DIR

Runs ``train.py data=denoise`` on the GPU with an error raised in a random step after the first
epoch, then resumes by hand, on the CPU, from a copy of the checkpoint that the run went on from,
and compares the test metrics. Prints one JSON object; the exit status is 1 if they differ.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RUN = """
import shutil
import torch
from lightweight_decoder.shell.composing import run_command
from lightweight_decoder.training.module import DecoderModule
original = DecoderModule.training_step
def failing(self, batch):
    if self.device.type == "cuda" and self.global_step == {step}:
        shutil.copytree(self.trainer.checkpoint_callback.dirpath, {copy!r})
        raise torch.AcceleratorError(
            "CUDA error: no kernel image is available for execution on the device"
        )
    return original(self, batch)
DecoderModule.training_step = failing
run_command("train")
"""


def main() -> int:
    """Run both and compare."""
    bank = Path(sys.argv[1]).absolute()
    with tempfile.TemporaryDirectory() as folder:
        guarded, by_hand = Path(folder, "guarded"), Path(folder, "by_hand")
        copy = Path(folder, "checkpoints")
        settings = [
            f"data.bank={bank}",
            "data=denoise",
            "data.num_train=4096",
            "data.noise=3",
            "trainer.max_epochs=4",
            "trainer.devices=1",
            "patience=9",
        ]
        step = random.randint(17, 60)  # noqa: S311 - any step after the first of four epochs
        program = RUN.format(step=step, copy=str(copy))
        run(["-c", program, *settings, f"hydra.run.dir={guarded}"])
        run(
            [
                str(ROOT / "train.py"),
                *settings,
                "trainer.accelerator=cpu",
                f"ckpt_path={copy / 'last.ckpt'}",
                f"hydra.run.dir={by_hand}",
            ]
        )
        metrics = [
            json.loads((run_dir / "metrics.json").read_text()) for run_dir in (guarded, by_hand)
        ]
        plan = json.loads((guarded / "accelerator.json").read_text())
    same = metrics[0] == metrics[1] and plan["accelerator"] == "cpu"
    report = {"failed_at_step": step, "same": same, "guarded": metrics[0], "by_hand": metrics[1]}
    print(json.dumps(report, indent=2))
    return 0 if same else 1


def run(arguments: list[str]) -> None:
    """Run Python in the repository's root and show what it says if it fails."""
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    sys.stderr.write(done.stdout[-3000:] + done.stderr[-6000:])
    done.check_returncode()


if __name__ == "__main__":
    sys.exit(main())
