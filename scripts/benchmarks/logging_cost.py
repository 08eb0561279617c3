"""What logging to W&B, offline, costs a training step beyond the CSV file that is always written.

    python scripts/benchmarks/logging_cost.py [OVERRIDE ...]

The main job's module, data and monitoring on the CPU, one epoch, logged five times as often as by
default, which overstates the cost. Fits with and without W&B take turns, in pairs, the order
reversed from pair to pair. A fit's figure is the time of all steps after a warm-up. Prints each
pair, and the median of their ratios with its spread. Overrides are the main job's.
"""

from __future__ import annotations

import logging
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import lightning as L  # noqa: N812 - the name everyone uses
from hydra import compose, initialize_config_dir
from lightweight_decoder.shell.parts import build_datamodule
from lightweight_decoder.shell.training import build_module
from step_clock import StepClock

from lightweight_decoder import shell
from lightweight_decoder.training.monitoring import TrainingMonitor
from lightweight_decoder.training.tracking import open_trackers

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from lightweight_decoder.training.sources.datamodule import DecoderDataModule

CONF = Path(__file__).resolve().parents[2] / "conf"
PAIRS = 5
STEPS = 108
WARM_UP = 8
LOG_EVERY = 10


def steps_s(config: DictConfig, data: DecoderDataModule, *, with_wandb: bool) -> float:
    """Return the figure of one fit."""
    plan = shell.resolve(config)
    module = build_module(config, data, plan)
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
    """Take turns and prints."""
    logging.disable(logging.INFO)
    os.environ["WANDB_MODE"] = "offline"
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", ["trainer.accelerator=cpu", *sys.argv[1:]])
    data = build_datamodule(config, shell.resolve(config))
    ratios = []
    for pair in range(PAIRS):
        order = (False, True) if pair % 2 else (True, False)
        found = {with_wandb: steps_s(config, data, with_wandb=with_wandb) for with_wandb in order}
        ratios.append(found[True] / found[False])
        print(f"{STEPS - WARM_UP} steps without {found[False]:.2f} s, with {found[True]:.2f} s")
    low, median, high = statistics.quantiles(ratios, n=4)
    print(f"W&B offline: {median - 1:+.2%} (quartiles {low - 1:+.2%} to {high - 1:+.2%})")


if __name__ == "__main__":
    main()
