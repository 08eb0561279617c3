"""The precision to run with: the one that was asked for where it is native, else 32-true."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lightweight_decoder.accelerator.plan import Backend, DeviceReport

_NEEDS = {
    "16-mixed": "fp16",
    "16-true": "fp16",
    "bf16-mixed": "bf16",
    "bf16-true": "bf16",
    "transformer-engine": "fp8",
    "transformer-engine-float16": "fp8",
}
_CPU_BF16 = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")


def choose_precision(
    asked: str, backend: Backend, reports: Sequence[DeviceReport] = ()
) -> tuple[str, str]:
    """Return the precision to run with, and why it is not the one asked for (empty if it is).

    Args:
        asked: One of :data:`~lightweight_decoder.accelerator.request.PRECISIONS`.
        backend: Where the plan runs.
        reports: The chosen devices. A device whose support is not known keeps what was asked.
    """
    need = _NEEDS.get(asked)
    if backend == "mps" and asked == "64-true":
        return "32-true", "Apple GPUs have no 64-bit floats, so precision 64-true became 32-true"
    if need is None:
        return asked, ""
    if backend == "cpu":
        lacking = [] if need == "bf16" and cpu_has_bf16() else ["the CPU"]
    else:
        lacking = [
            report.name or f"device {report.index}"
            for report in reports
            if report.precision_support.get(need) is False
        ]
    if not lacking:
        return asked, ""
    return "32-true", f"{need} is not native on {lacking[0]}, so precision {asked} became 32-true"


def cpu_has_bf16() -> bool:
    """Whether this CPU computes in bfloat16 itself; imports torch."""
    import torch  # noqa: PLC0415 - accelerator=cpu with 32-true must not wait for it

    capabilities = getattr(torch.cpu, "get_capabilities", None)
    if capabilities is not None:
        return any(capabilities().get(name) for name in _CPU_BF16)
    older = getattr(torch.cpu, "_is_avx512_bf16_supported", None)  # before torch 2.10
    return bool(older and older())
