"""What training costs while it runs, and a warning where something is off."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import psutil  # type: ignore[import-untyped]
import torch
from lightning.pytorch.callbacks import Callback

if TYPE_CHECKING:
    import lightning as L  # noqa: N812 - the name everyone uses

    from lightweight_decoder.training.sources.datamodule import Batch

logger = logging.getLogger(__name__)

_MIB = 1024**2
_MAX_WAIT_SHARE = 0.5
_MIN_WAIT_S = 0.005  # a step; Lightning's own work between two steps stays below
_RISES = 8  # measurements in a row, each above the one before
_MIN_RISE_BYTES = 256 * _MIB  # over all of them; warming up takes less


class TrainingMonitor(Callback):
    """Logs what a running fit uses, and warns once about each thing that goes wrong.

    Every ``log_every_n_steps`` steps of the Trainer it logs, for the steps since the last time:

    - ``train/samples_per_s``: training queries per second of this process;
    - ``train/data_wait_share``: share of the time, in [0, 1], from the end of one step to the start
      of the next, which is where the next batch is waited for;
    - ``system/process_memory_bytes``: resident memory of the process;
    - ``system/gpu_memory_bytes``: what PyTorch's allocator holds on the GPU, if there is one;
    - ``system/gpu_utilization``: the driver's figure in [0, 1], where it gives one.

    It warns when more than half of the time is spent waiting for data, when memory rose at each of
    the last eight measurements, and when the first validation metric is below plain search.

    Lightning's ``DeviceStatsMonitor`` logs over a hundred figures of the allocator and no waiting;
    its ``ThroughputMonitor`` waits for the GPU after every step. This one does neither.
    """

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._window = _Window()
        self._last_event_s: float | None = None
        self._last_step = 0
        self._growth = {"process": _Growth(), "gpu": _Growth()}
        self._baseline: float | None = None
        self._warned: set[str] = set()
        self._driver_answers = True

    def on_train_epoch_start(self, *_: object) -> None:
        """Leaves out what is done between epochs."""
        self._last_event_s = None

    def on_validation_start(self, *_: object) -> None:
        """Leaves out validation."""
        self._last_event_s = None

    def on_train_batch_start(self, *_: object) -> None:
        """Count the time since the last step as waiting."""
        self._window.wait_s += self._since_last_event()

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: object,  # noqa: ARG002 - Lightning's signature
        batch: Batch,
        batch_idx: int,  # noqa: ARG002
    ) -> None:
        """Count the step; logs and judges all of them at the Trainer's logging interval."""
        self._window.step_s += self._since_last_event()
        self._window.num_steps += 1
        self._window.num_samples += len(batch.queries)
        interval: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if self._is_due(trainer.global_step, interval):
            memory = self._memory_bytes(pl_module.device)
            pl_module.log_dict(
                {
                    "train/samples_per_s": self._window.samples_per_s,
                    "train/data_wait_share": self._window.wait_share,
                    **{f"system/{kind}_memory_bytes": float(held) for kind, held in memory.items()},
                    **self._gpu_utilization(pl_module.device),
                }
            )
            self._judge_waiting()
            self._judge_memory(memory, interval)
            self._window = _Window()

    def _is_due(self, step: int, interval: int) -> bool:
        """Whether to log now; an interval of 0 is Lightning's way to say never."""
        # Batches whose gradients are added up share a step.
        is_new, self._last_step = step != self._last_step, step
        return is_new and interval > 0 and step % interval == 0

    def on_validation_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,  # noqa: ARG002 - Lightning's signature
    ) -> None:
        """Compare the decoder with plain search, which is validated once."""
        metrics = trainer.callback_metrics
        if "val/baseline/mrr" in metrics:
            self._baseline = float(metrics["val/baseline/mrr"])
        found = float(metrics.get("val/decoder/mrr", torch.nan))
        if self._baseline is not None and found < self._baseline:
            self._warn(
                "baseline",
                f"Validation is below plain search: val/decoder/mrr {found:.4f}, plain search"
                f" {self._baseline:.4f}, after epoch {trainer.current_epoch + 1}. If it stays"
                " there, lower training.lr or give more training queries",
            )

    def _since_last_event(self) -> float:
        """Seconds since this was last called; 0 where that does not count."""
        now, last = time.perf_counter(), self._last_event_s
        self._last_event_s = now
        return 0.0 if last is None else now - last

    def _memory_bytes(self, device: torch.device) -> dict[str, int]:
        """Return what the process holds, and what it holds on its GPU."""
        found = {"process": int(self._process.memory_info().rss)}
        if device.type == "cuda":
            found["gpu"] = torch.cuda.memory_reserved(device)
        return found

    def _gpu_utilization(self, device: torch.device) -> dict[str, float]:
        """Return the driver's figure, as long as it gives one."""
        if device.type != "cuda" or not self._driver_answers:
            return {}
        try:
            return {"system/gpu_utilization": torch.cuda.utilization(device) / 100}
        except Exception as error:  # noqa: BLE001 - each driver library has errors of its own
            self._driver_answers = False
            logger.info("GPU utilization is not logged: %s", error)
            return {}

    def _judge_waiting(self) -> None:
        """Warns if most of the time went by between steps."""
        window = self._window
        wait_s, step_s = window.wait_s / window.num_steps, window.step_s / window.num_steps
        if window.wait_share > _MAX_WAIT_SHARE and wait_s > _MIN_WAIT_S:
            self._warn(
                "waiting",
                f"Training waits for data {window.wait_share:.0%} of the time:"
                f" {wait_s * 1e3:.0f} ms before a step of {step_s * 1e3:.0f} ms, over"
                f" {window.num_steps} steps. Raise batches.num_workers, or move the files to a"
                " faster disk",
            )

    def _judge_memory(self, memory: dict[str, int], interval: int) -> None:
        """Warns if memory has been rising all along."""
        for kind, held_bytes in memory.items():
            growth = self._growth[kind]
            growth.add(held_bytes)
            if growth.num_rises >= _RISES and growth.risen_bytes >= _MIN_RISE_BYTES:
                rate = growth.risen_bytes / (growth.num_rises * interval)
                self._warn(
                    f"{kind} memory",
                    f"The memory of the {kind} grows step by step: it rose"
                    f" {growth.num_rises} times in a row, from {growth.lowest_bytes / _MIB:,.0f} to"
                    f" {held_bytes / _MIB:,.0f} MiB, {rate / _MIB:.2f} MiB a step. Look for results"
                    " that are kept from step to step; detach what has to be",
                )

    def _warn(self, about: str, message: str) -> None:
        """Warns, the first time."""
        if about not in self._warned:
            self._warned.add(about)
            logger.warning("%s", message)


@dataclass
class _Window:
    """Sums over some steps."""

    num_steps: int = 0
    num_samples: int = 0
    step_s: float = 0.0
    wait_s: float = 0.0

    @property
    def samples_per_s(self) -> float:
        """Training queries per second."""
        return self.num_samples / (self.step_s + self.wait_s)

    @property
    def wait_share(self) -> float:
        """Share of the time between steps."""
        return self.wait_s / (self.step_s + self.wait_s)


@dataclass
class _Growth:
    """How often in a row, and by how much, a figure has risen."""

    num_rises: int = 0
    lowest_bytes: int = 0
    _last_bytes: int | None = field(default=None, repr=False)

    @property
    def risen_bytes(self) -> int:
        """From where the rise began."""
        return (self._last_bytes or 0) - self.lowest_bytes

    def add(self, held_bytes: int) -> None:
        """Take one more measurement."""
        if self._last_bytes is not None and held_bytes > self._last_bytes:
            self.num_rises += 1
        else:
            self.num_rises, self.lowest_bytes = 0, held_bytes
        self._last_bytes = held_bytes
