"""The numbers that a text encoder computes in, and which of them suit a device."""

from __future__ import annotations

from typing import Literal, get_args

from lightweight_decoder.accelerator.precision import cpu_has_bf16
from lightweight_decoder.errors import ConfigError

Precision = Literal["float32", "bfloat16"]
AskedPrecision = Literal["float32", "bfloat16", "auto"]


def check_precision(asked: str) -> None:
    """Refuse what is not a precision.

    Raises:
        ConfigError: If it is not one of ``AskedPrecision``.
    """
    if asked not in get_args(AskedPrecision):
        raise ConfigError(
            "the text encoder cannot compute in this precision",
            where="precision",
            expected=" or ".join(get_args(AskedPrecision)),
            found=repr(asked),
            advice="Leave it at float32 where vectors must go with those of other machines",
        )


def resolve_precision(asked: AskedPrecision, *, device: str) -> Precision:
    """Return the precision to compute in; ``auto``: bfloat16 where the device has it in hardware.

    Args:
        asked: What the user wants.
        device: Any device of torch. Other devices than the CPU and CUDA's get float32 by ``auto``.
    """
    if asked != "auto":
        return asked
    return "bfloat16" if _has_bfloat16(device) else "float32"


def _has_bfloat16(device: str) -> bool:
    """Say whether a device computes in bfloat16 itself: emulated, it is slower than float32."""
    import torch  # noqa: PLC0415, only the choice by device needs it

    kind = torch.device(device).type
    if kind == "cuda":
        with torch.cuda.device(device):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return kind == "cpu" and cpu_has_bf16()
