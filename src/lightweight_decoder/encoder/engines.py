"""Engines that compute an exported model on the CPU, and which of them suits."""

from __future__ import annotations

import importlib
import sys
from collections import deque
from functools import cache, cached_property
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from lightweight_decoder.encoder.export import CHECK_TEXTS, EXTRA, export_kind, make_export
from lightweight_decoder.encoder.model_runtime import Batch, ReadTexts, read_lengths
from lightweight_decoder.encoder.prompts import PLACE
from lightweight_decoder.errors import EncoderError, MissingDependencyError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from lightweight_decoder.datatypes import FloatArray, IntArray
    from lightweight_decoder.encoder.encoder import (
        EncoderBackend,
        EncoderPrecision,
        EncoderSettings,
        Side,
    )
    from lightweight_decoder.encoder.export import Export

_LIBRARIES = {"openvino": "openvino", "onnx": "onnxruntime"}

_ENGINES: dict[EncoderPrecision, tuple[str, ...]] = {
    "float32": ("openvino", "onnx"),
    "bfloat16": ("openvino",),
    "int8": ("onnx",),
}
"""The engines of each precision, the faster one first."""

_BATCHES: dict[EncoderPrecision, Batch] = {
    "float32": Batch(128, 512),
    "bfloat16": Batch(256, 1_024),
    "int8": Batch(256, 1_024),
}

_LEAST_COSINES: dict[EncoderPrecision, float] = {
    "float32": 1 - 1e-5,
    "bfloat16": 0.99,
    "int8": 0.9,
}
"""To torch's float32: nearer, float32 vectors are taken for the same; farther, none is used."""


class Engine(Protocol):
    """Computes a graph."""

    inputs: frozenset[str]

    def __call__(self, features: dict[str, IntArray]) -> FloatArray:
        """Return the (b, d) float32 vectors of (b, l) int64 ids, mask and types, in one thread."""


class OnnxRuntimeEngine:
    """ONNX Runtime. Each call computes in the thread that calls."""

    def __init__(self, model: Path) -> None:
        import onnxruntime  # noqa: PLC0415, an extra

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors
        self._session = onnxruntime.InferenceSession(
            str(model), options, providers=["CPUExecutionProvider"]
        )
        self.inputs = frozenset(put.name for put in self._session.get_inputs())

    def __call__(self, features: dict[str, IntArray]) -> FloatArray:
        """Return the vectors of a batch."""
        vectors: FloatArray = self._session.run(None, features)[0]
        return vectors


class OpenVinoEngine:
    """OpenVINO, a stream of one thread for each call at a time."""

    def __init__(self, model: Path, precision: EncoderPrecision, num_streams: int) -> None:
        core = _openvino_core()
        options = {
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bfloat16" else "f32",
            "INFERENCE_NUM_THREADS": num_streams,
            "NUM_STREAMS": num_streams,
            "ENABLE_CPU_PINNING": False,  # the machine does other things too
        }
        self._compiled = core.compile_model(core.read_model(model), "CPU", options)
        self.inputs = frozenset(put.get_any_name() for put in self._compiled.inputs)
        self._idle: deque[Any] = deque()

    def __call__(self, features: dict[str, IntArray]) -> FloatArray:
        """Return the vectors of a batch."""
        try:
            request = self._idle.pop()
        except IndexError:
            request = self._compiled.create_infer_request()
        vectors: FloatArray = request.infer(features).to_tuple()[0]
        self._idle.append(request)
        return vectors


@cache
def _openvino_core() -> Any:  # noqa: ANN401, it has no types
    """Return what compiles models, one for the whole process.

    Each one (2026.4) gives signals another stack to run on, and puts the one before back when it is
    gone: in another order that is one that is no longer there, and Ctrl-C ends in a crash.

    The import alone reports to Google Analytics, in a thread that forks a process; where the
    library that does so is missing, OpenVINO does without.
    """
    telemetry = "openvino_telemetry"
    before = sys.modules.get(telemetry)
    sys.modules[telemetry] = None  # type: ignore[assignment] # so says Python's own documentation
    try:
        return importlib.import_module("openvino").Core()
    finally:
        del sys.modules[telemetry]
        if before is not None:
            sys.modules[telemetry] = before


def engines_for(
    backend: EncoderBackend, precision: EncoderPrecision, *, device: str
) -> tuple[str, ...]:
    """Return the installed engines to try, best first; none where torch is to compute.

    Raises:
        MissingDependencyError: The only engine that would do is not installed.
    """
    if backend == "torch" or device != "cpu":
        return ()
    wanted = _ENGINES[precision] if backend == "auto" else (backend,)
    installed = tuple(name for name in wanted if find_spec(_LIBRARIES[name]) is not None)
    if not installed and (backend != "auto" or precision == "int8"):
        purpose = f"Encoding with backend={backend} and precision={precision}"
        raise MissingDependencyError(_LIBRARIES[wanted[0]], extra=EXTRA, purpose=purpose)
    return installed


def open_exported(
    engines: tuple[str, ...], fingerprint: str, done: EncoderSettings, load_model: Callable[[], Any]
) -> ExportedModel:
    """Return a model in the first engine that computes it right, exported if it was not yet.

    Args:
        engines: As of ``engines_for``.
        fingerprint: That of the model's files.
        done: As of ``ExportedModel``.
        load_model: As of :func:`~lightweight_decoder.encoder.export.make_export`.

    Raises:
        EncoderError: The model cannot be exported, or no engine computes it right.
        MissingDependencyError: A library that exports is not installed.
    """
    if done.routed:
        raise EncoderError("cannot be exported", found="a tower for each side")
    export = make_export(fingerprint, export_kind(done.precision), load_model)
    problems = []
    for engine in engines:
        try:
            return ExportedModel(export, engine, done)
        except EncoderError as error:
            problems.append(f"{engine}: {error}")
    raise EncoderError("no engine computes the export", found="; ".join(problems))


class ExportedModel:
    """An exported model in an engine, with its tokenizer: needs no library that it came from.

    Args:
        export: The model.
        engine: Name of the engine.
        done: What is done to texts and vectors, and the precision.

    Raises:
        EncoderError: The engine does not load the model, or gives other vectors than torch does.
    """

    def __init__(self, export: Export, engine: str, done: EncoderSettings) -> None:
        from tokenizers import Tokenizer  # noqa: PLC0415, not needed where vectors are cached

        self._info = export.info
        self._done = done
        self.batch = _BATCHES[done.precision]
        self.num_workers = _num_threads()
        try:
            self._tokenizer = Tokenizer.from_file(str(export.tokenizer))
            self._tokenizer.no_padding()
            self._tokenizer.no_truncation()
            if engine == "openvino":
                self._engine: Engine = OpenVinoEngine(
                    export.model, done.precision, self.num_workers
                )
            else:
                self._engine = OnnxRuntimeEngine(export.model)
            cosines = _cosines(self._vectors(self._tokenize(CHECK_TEXTS)[0]), export.check_vectors)
        except Exception as error:
            raise EncoderError.unreadable(export.folder, error) from error
        least = _LEAST_COSINES[done.precision]
        if not (cosines >= least).all():  # not a number is too far, too
            raise EncoderError.unexpected(
                export.folder,
                f"cosines of at least {least} to float32 vectors of torch",
                cosines.min(),
            )

    def read(self, texts: list[str], side: Side) -> ReadTexts:
        """Return texts as token ids, cut where they are longer than the model reads."""
        before, after = self._done.prompt(side).split(PLACE)
        tokens, lengths = self._tokenize(
            [before + after, *(f"{before}{text}{after}" for text in texts)]
        )
        return ReadTexts(tokens[1:], *read_lengths(lengths, self._info.max_tokens, side))

    def compute(self, tokens: list[IntArray], side: Side) -> FloatArray:  # noqa: ARG002, one model
        """Return the (b, d) float32 vectors of texts as ``read`` gave them."""
        vectors = self._vectors(tokens)[:, : self._done.truncate_dim]
        if self._done.normalize:
            vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return vectors

    def _tokenize(self, texts: Sequence[str]) -> tuple[list[IntArray], list[int]]:
        """Return ids and types of the tokens that are read, (2, l) int32; how many there are."""
        tokens = _encode(self._tokenizer, texts)
        lengths = [row.shape[1] for row in tokens]
        for place, length in enumerate(lengths):
            if self._info.max_tokens is not None and length > self._info.max_tokens:
                tokens[place : place + 1] = _encode(self._cutting_tokenizer, [texts[place]])
        return tokens, lengths

    @cached_property
    def _cutting_tokenizer(self) -> Any:  # noqa: ANN401, of an import as late as the other
        """A tokenizer that cuts, and adds what belongs at the end after that."""
        cutting = type(self._tokenizer).from_str(self._tokenizer.to_str())
        cutting.enable_truncation(self._info.max_tokens or 0)
        return cutting

    def _vectors(self, tokens: Sequence[IntArray]) -> FloatArray:
        """Return what the model makes of a batch."""
        width = max(1, *(row.shape[1] for row in tokens))
        shape = len(tokens), width
        features = {
            "input_ids": np.full(shape, self._info.pad_id, dtype=np.int64),
            "attention_mask": np.zeros(shape, dtype=np.int64),
            "token_type_ids": np.zeros(shape, dtype=np.int64),
        }
        for row, (ids, types) in enumerate(tokens):
            place = slice(width - len(ids), width) if self._info.pads_left else slice(len(ids))
            features["input_ids"][row, place] = ids
            features["attention_mask"][row, place] = 1
            features["token_type_ids"][row, place] = types
        return self._engine({name: features[name] for name in self._engine.inputs})


def _encode(tokenizer: Any, texts: Sequence[str]) -> list[IntArray]:  # noqa: ANN401, as above
    """Return ids and types of each text's tokens, (2, l) int32."""
    encodings = tokenizer.encode_batch_fast(list(texts))
    return [np.array([e.ids, e.type_ids], dtype=np.int32) for e in encodings]


def _cosines(vectors: FloatArray, others: FloatArray) -> FloatArray:
    """Return the cosine of each row to the same of others, (c,) float64."""
    units = [
        rows.astype(np.float64) / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
        for rows in (vectors, others)
    ]
    return np.asarray((units[0] * units[1]).sum(axis=1))


def _num_threads() -> int:
    """Return how many threads torch computes with: by machine, OMP_NUM_THREADS or a call."""
    import torch  # noqa: PLC0415, takes seconds

    return torch.get_num_threads()
