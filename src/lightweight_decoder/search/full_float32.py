"""Keeps float32 matrix products in float32, whatever the caller has allowed elsewhere."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def full_float32(device: torch.device) -> Iterator[None]:
    """Switch off autocast, and bfloat16 and TF32 inside float32 products, and put them back.

    Training may run with ``trainer.precision=bf16-mixed`` or
    ``torch.set_float32_matmul_precision("medium")``; the error bound of exact search holds for
    neither.
    """
    matmul = (
        torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
        if device.type == "cpu"
        else torch.backends.cuda.matmul
    )
    before = matmul.fp32_precision
    matmul.fp32_precision = "ieee"
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        matmul.fp32_precision = before
