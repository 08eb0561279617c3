"""What logging to W&B, offline, costs a training step beyond the CSV file that is always written.

    python scripts/benchmarks/logging_cost.py

The main job's module, data and monitoring on the CPU, one epoch, logged five times as often as by
default, which overstates the cost. Fits with and without W&B take turns, in pairs, the order
reversed from pair to pair. A fit's figure is the time of all steps after a warm-up. Prints each
pair, and the median of their ratios with its spread.
"""

from __future__ import annotations

import logging
import os
import statistics
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import lightning as L  # noqa: N812 - the name everyone uses
from main_job import main_job_data, main_job_module
from step_clock import StepClock

from lightweight_decoder.training.monitoring import TrainingMonitor
from lightweight_decoder.training.tracking import open_trackers

if TYPE_CHECKING:
    from lightweight_decoder.training.sources.datamodule import DecoderDataModule

PAIRS = 5
STEPS = 108
WARM_UP = 8
LOG_EVERY = 10


def steps_s(data: DecoderDataModule, *, with_wandb: bool) -> float:
    """Return the figure of one fit."""
    module = main_job_module(data)
    clock = StepClock(WARM_UP)
    with (
        tempfile.TemporaryDirectory() as folder,
        open_trackers(Path(folder), {} if with_wandb else None) as trackers,
    ):
        L.Trainer(
            accelerator="cpu",
            max_epochs=1,
            limit_train_batches=STEPS,
            limit_val_batches=0,
            num_sanity_val_steps=0,
            log_every_n_steps=LOG_EVERY,
            logger=trackers,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
            callbacks=[TrainingMonitor(), clock],
        ).fit(module, data)
    return clock.seconds


def main() -> None:
    """Take turns and print."""
    logging.disable(logging.INFO)
    os.environ["WANDB_MODE"] = "offline"
    data = main_job_data()
    ratios = []
    for pair in range(PAIRS):
        order = (False, True) if pair % 2 else (True, False)
        found = {with_wandb: steps_s(data, with_wandb=with_wandb) for with_wandb in order}
        ratios.append(found[True] / found[False])
        print(f"{STEPS - WARM_UP} steps without {found[False]:.2f} s, with {found[True]:.2f} s")
    low, median, high = statistics.quantiles(ratios, n=4)
    print(f"W&B offline: {median - 1:+.2%} (quartiles {low - 1:+.2%} to {high - 1:+.2%})")


if __name__ == "__main__":
    main()
