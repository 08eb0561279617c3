"""What a command that trains nothing computes on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightweight_decoder.accelerator import resolve_accelerator
from lightweight_decoder.accelerator.request import (  # noqa: TC001 - read at run time
    Devices,
    OnUnusable,
)

if TYPE_CHECKING:
    from lightweight_decoder.accelerator import AcceleratorPlan


def one_device(
    accelerator: str = "auto",
    devices: Devices = 1,
    *,
    on_unusable: OnUnusable = "auto",
    cache: bool = True,
) -> AcceleratorPlan:
    """Resolve a device to decode or encode on; all arguments as of ``resolve_accelerator``.

    Args:
        accelerator: ``"auto"``, ``"cpu"``, ``"gpu"``, ``"cuda"``, ``"rocm"`` or ``"mps"``.
        devices: Which to look at; the first that works is used.
        on_unusable: What to do where it cannot be used: ``"auto"``, ``"fallback"``, ``"raise"`` or
            ``"force"``.
        cache: Whether a verdict of an earlier run may be used and this one kept.
    """
    return resolve_accelerator(accelerator, devices, on_unusable=on_unusable, cache=cache)


def device_of(plan: AcceleratorPlan) -> str:
    """Return torch's name of the plan's first device."""
    if plan.accelerator == "cuda" and isinstance(plan.devices, list):
        return f"cuda:{plan.devices[0]}"
    return plan.accelerator
