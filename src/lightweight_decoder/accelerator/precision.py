"""Which precisions exist, and the one to run with: what was asked for where it is native.

Lightning's names: ``lightning/fabric/plugins/precision/precision.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightweight_decoder.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lightweight_decoder.accelerator.plan import Backend, DeviceReport

PRECISIONS = ("32-true", "16-mixed", "bf16-mixed", "bf16-true", "64-true")
"""Those of Lightning's that this package trains and evaluates in."""

_ALIASES = {"64": "64-true", "32": "32-true", "16": "16-mixed", "bf16": "bf16-mixed"}
_NOT_OURS = {
    "16-true": "AdamW cannot train weights in float16, where the squares of gradients vanish",
    "transformer-engine": "the reranker's layers are too narrow for FP8",
    "transformer-engine-float16": "the reranker's layers are too narrow for FP8",
}
_NEEDS = {"16-mixed": "fp16", "bf16-mixed": "bf16", "bf16-true": "bf16"}
_CPU_INT8 = ("avx512_vnni", "avx_vnni", "amx_int8", "dot", "neon_dot", "i8mm")
_CPU_BF16 = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")


def parse_precision(asked: str | int) -> str:
    """Return one of :data:`PRECISIONS`.

    Raises:
        ConfigError: If there is no such precision, or nothing can be trained in it.
    """
    name = str(asked)
    name = _ALIASES.get(name, name)
    if name in PRECISIONS:
        return name
    expected = f"one of {', '.join((*PRECISIONS, *_ALIASES))}"
    summary = _NOT_OURS.get(name, "there is no such value")
    raise ConfigError.unexpected("precision", expected, repr(asked), summary=summary)


def choose_precision(
    asked: str, backend: Backend, reports: Sequence[DeviceReport] = ()
) -> tuple[str, str]:
    """Return the precision to run with, and why it is not the one asked for (empty if it is).

    Reports are of the chosen devices; one whose support is not known keeps what was asked.
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
    return _cpu_has(_CPU_BF16, before_2_10="_is_avx512_bf16_supported")


def cpu_has_int8() -> bool:
    """Whether this CPU multiplies and adds up int8 in one instruction; imports torch."""
    return _cpu_has(_CPU_INT8, before_2_10="_is_vnni_supported")


def _cpu_has(names: tuple[str, ...], *, before_2_10: str) -> bool:
    """Say whether torch finds one of these capabilities; older ones have a function for some."""
    import torch  # noqa: PLC0415 - accelerator=cpu with 32-true must not wait for it

    capabilities = getattr(torch.cpu, "get_capabilities", None)
    if capabilities is not None:
        return any(capabilities().get(name) for name in names)
    older = getattr(torch.cpu, before_2_10, None)
    return bool(older and older())
