"""Compare Lightning's training step rate with a bare torch loop over the same module and data.

    python scripts/benchmarks/training_rate.py

Uses the main job's module and data on the CPU. Both train 60 steps, turn about, twice; a turn's
rate leaves the first 10 steps out. Prints the medians and their ratio.
"""

from __future__ import annotations

import logging
import statistics
from itertools import islice
from typing import TYPE_CHECKING

import lightning as L  # noqa: N812 - the name everyone uses
import torch
from main_job import main_job_data, main_job_module
from step_clock import StepClock

from lightweight_decoder.training.mining import CandidateMiner

if TYPE_CHECKING:
    from lightweight_decoder.training.sources.datamodule import DecoderDataModule

WARM_UP = 10
STEPS = 60
TURNS = 2


def lightning_rate(data: DecoderDataModule) -> float:
    """Step per second of a Trainer with what the main job has switched on."""
    module = main_job_module(data)
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
    trainer.fit(module, data)
    return clock.rate


def bare_rate(data: DecoderDataModule) -> float:
    """Step per second of a plain loop."""
    module = main_job_module(data)
    split = data.split("train")
    module._miner = CandidateMiner(  # noqa: SLF001 - fit would set it
        module.decoder, split, num_listed=64, num_mined=len(split), device=torch.device("cpu")
    )
    module.miner.mine(seed=0)
    module.log = lambda *_, **__: None  # type: ignore[method-assign]
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3)
    clock = StepClock(WARM_UP)
    for batch in islice(data.train_dataloader(), STEPS):
        optimizer.zero_grad()
        module.training_step(batch).backward()
        optimizer.step()
        clock.on_train_batch_end()
    return clock.rate


def main() -> None:
    """Take turns and print."""
    logging.disable(logging.INFO)
    data = main_job_data()
    rates = [(lightning_rate(data), bare_rate(data)) for _ in range(TURNS)]
    lightning, bare = (statistics.median(column) for column in zip(*rates, strict=True))
    print(
        f"Lightning {lightning:.2f} steps/s, bare loop {bare:.2f} steps/s: {lightning / bare:.2f}"
    )


if __name__ == "__main__":
    main()
