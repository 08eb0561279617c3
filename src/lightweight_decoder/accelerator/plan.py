"""Records of what was asked, what was found on each device, and what was chosen."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

DeviceVerdict = Literal[
    "usable",
    "no_kernels",
    "driver_too_old",
    "init_failed",
    "busy",
    "out_of_memory",
    "hung",
    "crashed",
    "wrong_values",
    "not_built",
    "hidden",
    "unknown",
]
GpuBackend = Literal["cuda", "mps"]
Backend = Literal["cpu", "cuda", "mps"]
Source = Literal["probe", "cache", "parent", "none"]


@dataclass(frozen=True)
class DeviceReport:
    """What is known about one device, or about a whole backend that could not even count its own.

    Attributes:
        verdict: Whether kernels run, and if not, why not.
        reason: One sentence for people.
        advice: What to do about it; empty for a usable device.
        backend: ``"cuda"`` (also for ROCm builds) or ``"mps"``.
        index: Index in torch's own order; None where torch has none for it (hidden devices,
            backends that failed as a whole).
        uuid: ``"GPU-…"``, or None where it is not known.
        name: Name from the driver, or None.
        capability: Compute capability (major, minor) of an NVIDIA device.
        gcn_arch: AMD architecture with features, such as ``"gfx90a:sramecc+:xnack-"``.
        total_memory_bytes: Device memory.
        free_memory_bytes: What was free when the probe looked.
        driver_cuda_version: Newest CUDA version that the driver supports, such as ``"13.0"``.
        precision_support: Whether ``fp16``, ``bf16``, ``tf32`` and ``fp8`` are native.
        error_code: CUDA's number for what went wrong (802, 999, …), where there is one.
        static_answer: What the architecture list alone says: ``"yes"``, ``"no"``, ``"unknown"``.
        probe_ms: Wall-clock time of the device's probe, starting an interpreter included.
    """

    verdict: DeviceVerdict
    reason: str
    advice: str = ""
    backend: Backend = "cuda"
    index: int | None = None
    uuid: str | None = None
    name: str | None = None
    capability: tuple[int, int] | None = None
    gcn_arch: str | None = None
    total_memory_bytes: int | None = None
    free_memory_bytes: int | None = None
    driver_cuda_version: str | None = None
    precision_support: dict[str, bool] = field(default_factory=dict)
    error_code: int | None = None
    static_answer: str | None = None
    probe_ms: float | None = None

    @property
    def usable(self) -> bool:
        """Whether every kernel of the probe ran there and gave the right values."""
        return self.verdict == "usable"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return _json_values(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> DeviceReport:
        """Return what :meth:`to_dict` described, or raise KeyError, TypeError, ValueError."""
        if (
            values["verdict"] not in get_args(DeviceVerdict)
            or not isinstance(values["precision_support"], dict)
            or not isinstance(values["index"], int | None)
            or not isinstance(values["uuid"], str | None)
        ):
            raise ValueError("not a device report")
        capability = values["capability"]
        return cls(**{**values, "capability": tuple(capability) if capability else None})


@dataclass(frozen=True)
class Asked:
    """What the caller asked for, as it was written."""

    accelerator: str
    devices: int | str | list[int | str]
    precision: str
    strategy: str
    on_unusable: str


@dataclass(frozen=True)
class AcceleratorPlan:
    """Where to run: arguments for a Trainer, and why they are what they are.

    Attributes:
        asked: The request.
        accelerator: ``"cpu"``, ``"cuda"`` or ``"mps"``.
        devices: A number of processes on the CPU, 1 on MPS, device indices in torch's own order on
            CUDA.
        precision: One of Lightning's names, such as ``"32-true"``.
        strategy: One of Lightning's names; ``"auto"`` after a fallback.
        on_unusable: ``"fallback"``, ``"raise"`` or ``"force"``: what ``"auto"`` came to mean here.
        environment: Variables that the resolver set, so that CUDA leaves out a GPU whose failure
            would keep the others from starting; nearly always empty.
        reports: One per device that was looked at; empty if nothing had to be.
        reasons: Why the plan differs from what was asked, in sentences; empty if it does not.
        advice: What to do to get what was asked, in sentences.
        source: Where the verdicts come from: a fresh probe, the cache, the parent process, or
            nothing was looked at.
        resolve_ms: Wall-clock time of the decision, probing included.
        probe_ms: Part of it that was spent probing; 0 for cached verdicts.
        resolved_at: UTC time of the decision, ISO 8601.
    """

    asked: Asked
    accelerator: Backend
    devices: int | list[int]
    precision: str
    strategy: str
    on_unusable: str
    environment: dict[str, str] = field(default_factory=dict)
    reports: tuple[DeviceReport, ...] = ()
    reasons: tuple[str, ...] = ()
    advice: tuple[str, ...] = ()
    source: Source = "none"
    resolve_ms: float = 0.0
    probe_ms: float = 0.0
    resolved_at: str = ""

    def trainer_arguments(self) -> dict[str, Any]:
        """Keyword arguments for ``lightning.Trainer``."""
        return {
            "accelerator": self.accelerator,
            "devices": self.devices,
            "precision": self.precision,
            "strategy": self.strategy,
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, for ``accelerator.json``, checkpoints and experiment trackers."""
        return _json_values(self)


def _json_values(record: DeviceReport | AcceleratorPlan) -> dict[str, Any]:
    """Return a record as JSON would give it back: tuples are lists, all the way down."""
    values: dict[str, Any] = json.loads(json.dumps(asdict(record)))
    return values
