"""How a model is loaded and fed: on which device, in which numbers, in batches of which size."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import numpy as np

from lightweight_decoder.encoder.prompts import PLACE
from lightweight_decoder.errors import ConfigError, EncoderError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from lightweight_decoder.datatypes import FloatArray, IntArray
    from lightweight_decoder.encoder.encoder import (
        EncoderBackend,
        EncoderPrecision,
        EncoderSettings,
        Side,
    )


class Batch(NamedTuple):
    """At most so many texts and tokens."""

    texts: int
    tokens: float


_CPU_BATCHES: dict[EncoderPrecision, Batch] = {
    "float32": Batch(64, 512),
    "bfloat16": Batch(256, 1_024),
}
"""Measured on 2 cores with MiniLM: more tokens at once leave the processor's cache (4,096 took 1.6
times as long a phrase, 5 times a definition), fewer than 200 wait for Python. bfloat16 takes half
the room: with its batches it gave 1.02 to 1.25 times the texts/s of float32's."""

_TEXTS_PER_WINDOW = 8_192  # read at once, then sorted

_OTHER_BATCH = Batch(64, math.inf)

_PRECISIONS: dict[EncoderBackend, tuple[EncoderPrecision, ...]] = {
    "auto": ("float32", "bfloat16", "int8"),
    "torch": ("float32", "bfloat16"),
    "openvino": ("float32", "bfloat16"),
    "onnx": ("float32", "int8"),
}


class ReadTexts(NamedTuple):
    """Texts as a model reads them.

    Attributes:
        tokens: m of what the same model's ``compute`` takes.
        lengths: (m,) int64 how many tokens it reads of each; those of equal length share a batch
            best.
        cut_at: (m,) int64 the same where a text has more; else 0.
    """

    tokens: list[Any]
    lengths: IntArray
    cut_at: IntArray


class Encoded(NamedTuple):
    """Vectors of a batch.

    Attributes:
        places: (b,) int64 which of all texts they are.
        vectors: (b, d) float32.
        cut_at: (b,) int64 as of ``ReadTexts``.
    """

    places: IntArray
    vectors: FloatArray
    cut_at: IntArray


class Runtime(Protocol):
    """A loaded model.

    Attributes:
        batch: What it computes best at once.
        num_workers: How many batches it computes beside each other.
    """

    batch: Batch
    num_workers: int

    def read(self, texts: list[str], side: Side) -> ReadTexts:
        """Return m texts as tokens.

        Raises:
            ConfigError: The side's prompt leaves no room for a text.
        """

    def compute(self, tokens: list[Any], side: Side) -> FloatArray:
        """Return the (b, d) float32 vectors of a batch, cut and normalized as settings say."""


class TorchModel:
    """A model of sentence-transformers.

    Args:
        model: It, as of ``load_model``.
        device: Where it computes.
        done: What is done to texts and vectors, and the precision.
    """

    num_workers = 1

    def __init__(self, model: Any, *, device: str, done: EncoderSettings) -> None:  # noqa: ANN401
        self._model = model
        self._device = device
        self._done = done
        self.batch = _CPU_BATCHES[done.precision] if device == "cpu" else _OTHER_BATCH

    def read(self, texts: list[str], side: Side) -> ReadTexts:
        """Return the texts themselves, and how many tokens they have."""
        tokenizer = self._model.tokenizer
        if not callable(tokenizer):  # some models carry a tokenizer that only they know how to use
            guessed = np.array([1 + len(text) // 4 for text in texts])
            return ReadTexts(texts, guessed, np.zeros_like(guessed))
        before, after = self._done.prompt(side).split(PLACE)
        whole = [before + after, *(f"{before}{text}{after}" for text in texts)]
        token_ids = tokenizer(whole, truncation=False, verbose=False)["input_ids"]
        lengths = [len(ids) for ids in token_ids]
        return ReadTexts(texts, *read_lengths(lengths, self._model.max_seq_length, side))

    def compute(self, tokens: list[str], side: Side) -> FloatArray:
        """Return the vectors of a batch of texts."""
        before, after = self._done.prompt(side).split(PLACE)
        if after:
            before, tokens = "", [f"{before}{text}{after}" for text in tokens]
        tower = {"task": "query" if side == "query" else "document"}
        with computing_in(self._done.precision, device=self._device):
            vectors = self._model.encode(
                tokens,
                prompt=before,
                batch_size=len(tokens),
                normalize_embeddings=self._done.normalize,
                truncate_dim=self._done.truncate_dim,
                convert_to_numpy=True,
                show_progress_bar=False,
                device=self._device,
                **tower if self._done.routed else {},
            )
        return np.asarray(vectors, dtype=np.float32)


def read_lengths(lengths: list[int], most: int | None, side: Side) -> tuple[IntArray, IntArray]:
    """Return how many tokens a model reads of each text, and where it cuts.

    Args:
        lengths: Tokens of the side's prompt alone, then of each text with it.
        most: How many the model reads; None: all.
        side: Whose prompt it is.

    Raises:
        ConfigError: The prompt leaves no room for a text.
    """
    prompt_length, whole = lengths[0], np.array(lengths[1:], dtype=np.int64)
    if most is None:
        return whole, np.zeros_like(whole)
    if prompt_length >= most:
        most_words = f"fewer tokens than the {most} that the model reads"
        raise ConfigError.unexpected(f"{side}_prompt", most_words, prompt_length)
    read = np.minimum(whole, most)
    return read, np.where(whole > read, read, 0)


def refuse_unknown(precision: str, backend: str) -> None:
    """Refuse words that stand for no precision or backend.

    Raises:
        ConfigError: One of them does not.
    """
    for key, known, found in (
        ("precision", (*_PRECISIONS["auto"], "auto"), precision),
        ("backend", tuple(_PRECISIONS), backend),
    ):
        if found not in known:
            raise ConfigError.unexpected(key, " or ".join(known), repr(found))


def resolve_precision(
    asked: EncoderPrecision | Literal["auto"], *, device: str, backend: EncoderBackend
) -> EncoderPrecision:
    """Return the precision to compute in; ``auto``: bfloat16 where the device has it in hardware.

    Other devices than the CPU and CUDA's get float32 by ``auto``, as does ONNX Runtime.

    Raises:
        ConfigError: The backend does not compute in that precision, or not on that device, or the
            processor has no instructions for int8.
    """
    if backend not in {"auto", "torch"} and device != "cpu":
        raise ConfigError.unexpected(
            "backend", f"auto or torch on {device}", repr(backend), advice="Others need the CPU."
        )
    known = _PRECISIONS[backend if device == "cpu" else "torch"]
    if asked == "auto":
        return "bfloat16" if "bfloat16" in known and _has_bfloat16(device) else "float32"
    if asked not in known:
        where = f"backend={backend} on {device}"
        raise ConfigError.unexpected(
            "precision",
            f"{' or '.join(known)} with {where}",
            repr(asked),
            advice="backend=auto on the CPU takes an engine that computes in the precision.",
        )
    if asked == "int8" and not _has_int8():
        raise ConfigError.unexpected(
            "precision",
            "a processor with instructions for products of int8 (VNNI, AMX or their like on ARM)",
            "none",
            advice="Take float32 or bfloat16; vectors that were made in int8 can still be decoded.",
        )
    return asked


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


def encode_in_batches(
    runtime: Runtime, texts: list[str], side: Side, most: Batch
) -> Iterator[Encoded]:
    """Encode texts batch by batch, in an order that suits the model.

    A model that computes several batches at once has the next texts read meanwhile; any other does
    one thing after the other, in this thread.
    """
    windows = [slice(at, at + _TEXTS_PER_WINDOW) for at in range(0, len(texts), _TEXTS_PER_WINDOW)]
    if runtime.num_workers == 1:
        for window in windows:
            read = runtime.read(texts[window], side)
            yield from _encode_window(runtime, read, side, most, start=window.start, apply=map)
        return
    pool = ThreadPoolExecutor(runtime.num_workers)
    try:
        upcoming = pool.submit(runtime.read, texts[windows[0]], side)
        for window, following in zip(windows, [*windows[1:], None], strict=True):
            read = upcoming.result()
            if following is not None:
                upcoming = pool.submit(runtime.read, texts[following], side)
            yield from _encode_window(runtime, read, side, most, start=window.start, apply=pool.map)
    finally:
        pool.shutdown(cancel_futures=True)


def _encode_window(
    runtime: Runtime,
    read: ReadTexts,
    side: Side,
    most: Batch,
    *,
    start: int,
    apply: Any,  # noqa: ANN401
) -> Iterator[Encoded]:
    """Encode texts that were read, shortest first; ``apply`` maps a function over batches."""
    order = np.argsort(read.lengths, kind="stable")
    batches = [order[span] for span in cut_into_batches(read.lengths[order], most)]

    def compute(batch: IntArray) -> FloatArray:
        return runtime.compute([read.tokens[place] for place in batch], side)

    for batch, vectors in zip(batches, apply(compute, batches), strict=True):
        yield Encoded(start + batch, vectors, read.cut_at[batch])


def cut_into_batches(lengths: IntArray, most: Batch) -> Iterator[slice]:
    """Cut texts of ascending (m,) lengths into batches."""
    start = 0
    while start < len(lengths):
        stop = min(start + most.texts, len(lengths))
        while stop > start + 1 and lengths[stop - 1] * (stop - start) > most.tokens:
            stop -= 1
        yield slice(start, stop)
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


def _has_int8() -> bool:
    """Say whether the CPU multiplies int8 itself: without, products overflow or are slow."""
    from lightweight_decoder.accelerator.precision import cpu_has_int8  # noqa: PLC0415, as above

    return cpu_has_int8()
