"""How a model is loaded and fed: on which device, in which numbers, in batches of which size."""

from __future__ import annotations

import math
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from lightweight_decoder.errors import EncoderError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from lightweight_decoder.datatypes import IntArray
    from lightweight_decoder.encoder.encoder import EncoderPrecision


class _Batch(NamedTuple):
    """At most so many texts and tokens."""

    texts: int
    tokens: float


_CPU_BATCHES: dict[EncoderPrecision, _Batch] = {
    "float32": _Batch(64, 512),
    "bfloat16": _Batch(256, 1_024),
}
"""Measured on 2 cores with MiniLM: more tokens at once leave the processor's cache (4,096 took 1.6
times as long a phrase, 5 times a definition), fewer than 200 wait for Python. bfloat16 takes half
the room: with its batches it gave 1.02 to 1.25 times the texts/s of float32's."""

_OTHER_BATCH = _Batch(64, math.inf)


def resolve_precision(
    asked: EncoderPrecision | Literal["auto"], *, device: str
) -> EncoderPrecision:
    """Return the precision to compute in; ``auto``: bfloat16 where the device has it in hardware.

    Other devices than the CPU and CUDA's get float32 by ``auto``.
    """
    if asked != "auto":
        return asked
    return "bfloat16" if _has_bfloat16(device) else "float32"


def load_model(folder: Path, *, device: str, precision: EncoderPrecision) -> Any:  # noqa: ANN401
    """Load a model of sentence-transformers, whose types cannot be imported late.

    Its weights are float32, however they were saved; in bfloat16 those of linear layers are rounded
    once, as autocast would round them for every batch.

    Raises:
        EncoderError: If there is no model in the folder.
    """
    from sentence_transformers import SentenceTransformer  # noqa: PLC0415, takes seconds

    try:
        with _without_loading_bar():
            model = SentenceTransformer(str(folder), device=device, local_files_only=True)
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise EncoderError(
            "the text encoder cannot be loaded",
            where=folder,
            expected="a sentence-transformers or transformers model",
            found=reason[0][:200],
            advice="The folder may be incomplete; download or install the model again",
        ) from error
    model = model.float().eval()
    if precision == "bfloat16":
        _round_linear_layers(model)
    return model


def computing_in(precision: EncoderPrecision, *, device: str) -> AbstractContextManager[object]:
    """Return the context in which a model computes in a precision."""
    if precision == "float32":
        return nullcontext()
    import torch  # noqa: PLC0415, as late as the model

    return torch.autocast(torch.device(device).type, dtype=torch.bfloat16)


def cut_into_batches(
    lengths: IntArray, *, device: str, precision: EncoderPrecision, batch_size: int | None
) -> Iterator[tuple[int, int]]:
    """Cut texts into batches that suit the device: start and stop of each.

    Args:
        lengths: (m,) tokens of each text, ascending.
        device: Where the model runs.
        precision: What it computes in.
        batch_size: The most texts in a batch; None: what suits the device.
    """
    suited = _CPU_BATCHES[precision] if device == "cpu" else _OTHER_BATCH
    most_texts = batch_size or suited.texts
    start = 0
    while start < len(lengths):
        stop = min(start + most_texts, len(lengths))
        while stop > start + 1 and lengths[stop - 1] * (stop - start) > suited.tokens:
            stop -= 1
        yield start, stop
        start = stop


@contextmanager
def _without_loading_bar() -> Iterator[None]:
    """Keep transformers from showing a bar while it reads weights, which takes no time."""
    from transformers.utils import logging  # noqa: PLC0415, as late as the model

    was_shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_shown:
            logging.enable_progress_bar()


def _round_linear_layers(model: Any) -> None:  # noqa: ANN401, as above
    """Round once the weights that autocast would round for every batch; vectors stay the same."""
    import torch  # noqa: PLC0415, as late as the model

    for layer in model.modules():
        if isinstance(layer, torch.nn.Linear):
            for name, weight in list(layer.named_parameters(recurse=False)):
                rounded = torch.nn.Parameter(weight.to(torch.bfloat16), requires_grad=False)
                setattr(layer, name, rounded)  # a new one: an embedding may share the old


def _has_bfloat16(device: str) -> bool:
    """Say whether a device computes in bfloat16 itself: emulated, it is slower than float32."""
    import torch  # noqa: PLC0415, only the choice by device needs them

    from lightweight_decoder.accelerator.precision import cpu_has_bf16  # noqa: PLC0415

    kind = torch.device(device).type
    if kind == "cuda":
        with torch.cuda.device(device):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return kind == "cpu" and cpu_has_bf16()
