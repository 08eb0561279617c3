"""Compare Lightning's training step rate with a bare torch loop over the same module and data.

    python scripts/benchmarks/training_rate.py

Uses the main job's module and data on the CPU. Both train 60 steps, turn about, twice; a turn's
rate leaves the first 10 steps out. Prints the medians and their ratio.
"""

from __future__ import annotations

import logging
import statistics
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import lightning as L  # noqa: N812 - the name everyone uses
import torch
from hydra import compose, initialize_config_dir
from lightweight_decoder.shell.parts import build_datamodule
from lightweight_decoder.shell.training import build_module
from step_clock import StepClock

from lightweight_decoder import shell
from lightweight_decoder.training.mining import CandidateMiner

if TYPE_CHECKING:
    from lightweight_decoder.training.module import DecoderModule

CONF = Path(__file__).resolve().parents[2] / "conf"
WARM_UP = 10
STEPS = 60
TURNS = 2


def lightning_rate(config: object) -> float:
    """Step per second of a Trainer with what the main job has switched on."""
    module, datamodule = build(config)
    clock = StepClock(WARM_UP)
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=1,
        limit_train_batches=STEPS,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        callbacks=[clock, L.pytorch.callbacks.RichProgressBar()],
    )
    trainer.fit(module, datamodule)
    return clock.rate


def bare_rate(config: object) -> float:
    """Step per second of a plain loop."""
    module, datamodule = build(config)
    split = datamodule.split("train")
    module._miner = CandidateMiner(  # noqa: SLF001 - fit would set it
        module.decoder, split, num_listed=64, num_mined=len(split), device=torch.device("cpu")
    )
    module.miner.mine(seed=0)
    module.log = lambda *_, **__: None  # type: ignore[method-assign]
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3)
    clock = StepClock(WARM_UP)
    for batch in islice(datamodule.train_dataloader(), STEPS):
        optimizer.zero_grad()
        module.training_step(batch).backward()
        optimizer.step()
        clock.on_train_batch_end()
    return clock.rate


def build(config: object) -> tuple[DecoderModule, L.LightningDataModule]:
    """Return the main job's module and data, afresh."""
    plan = shell.resolve(config)
    datamodule = build_datamodule(config, plan)
    return build_module(config, datamodule, plan), datamodule


def main() -> None:
    """Take turns and prints."""
    logging.disable(logging.INFO)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", ["trainer.accelerator=cpu"])
    rates = [(lightning_rate(config), bare_rate(config)) for _ in range(TURNS)]
    lightning, bare = (statistics.median(column) for column in zip(*rates, strict=True))
    print(
        f"Lightning {lightning:.2f} steps/s, bare loop {bare:.2f} steps/s: {lightning / bare:.2f}"
    )


if __name__ == "__main__":
    main()
