"""Where to run: proof that kernels work, before a Trainer exists."""

from __future__ import annotations

from lightweight_decoder.accelerator.kernel_failure import (
    KernelFailure,
    plan_after,
    recognize_kernel_failure,
)
from lightweight_decoder.accelerator.plan import AcceleratorPlan, DeviceReport
from lightweight_decoder.accelerator.resolver import forget_verdicts, resolve_accelerator
from lightweight_decoder.accelerator.rules import judge

__all__ = [
    "AcceleratorPlan",
    "DeviceReport",
    "KernelFailure",
    "forget_verdicts",
    "judge",
    "plan_after",
    "recognize_kernel_failure",
    "resolve_accelerator",
]
