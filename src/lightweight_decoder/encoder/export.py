"""A model in a file that other engines read: made once, kept among the user's caches, checked."""

from __future__ import annotations

import logging
import shutil
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import numpy as np
from pydantic import ConfigDict, TypeAdapter

from lightweight_decoder.encoder.model_files import model_fingerprint
from lightweight_decoder.errors import EncoderError, MissingDependencyError
from lightweight_decoder.files import user_cache_dir

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lightweight_decoder.datatypes import FloatArray
    from lightweight_decoder.encoder.encoder import EncoderPrecision

_log = logging.getLogger(__name__)

EXTRA = "engines"

CHECK_TEXTS = (
    "a road",
    "A wide road, built for fast traffic between towns.",
    "Straße, 道路 and 🛣: what people drive on",
    "the act of moving from one place to another, " * 3,
)
"""Other lengths than those of the texts that the model is traced with, in one batch."""

_TRACED_TEXTS = ("a text", "another text, of more tokens than the first")
_READ_BY_ENGINES = {"input_ids", "attention_mask", "token_type_ids"}
_TALKERS = ("torch.onnx", "onnxscript", "onnx_ir")
_INFO = ".export.json"  # hidden: the hash of the folder, which it holds, leaves it out


@dataclass(frozen=True, slots=True)
class ExportInfo:
    """What an engine must know besides the files of an export.

    Attributes:
        version: Of this layout.
        model: Fingerprint of the model's files.
        files: Fingerprint of the export's.
        max_tokens: How many tokens of a text the model reads; None: all.
        pad_id: Token that fills up the shorter texts of a batch.
        pads_left: Whether it goes before a text.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(strict=True, extra="forbid")

    version: Literal[1]
    model: str
    files: str
    max_tokens: int | None
    pad_id: int
    pads_left: bool


class Export(NamedTuple):
    """A folder with a model from token ids to vectors, its tokenizer and vectors to check it by."""

    folder: Path
    info: ExportInfo

    @property
    def model(self) -> Path:
        """The graph, in ONNX; the weights are in a file beside it."""
        return self.folder / "model.onnx"

    @property
    def tokenizer(self) -> Path:
        """The tokenizer, as the library ``tokenizers`` keeps it; it cuts and pads nothing."""
        return self.folder / "tokenizer.json"

    @property
    def check_vectors(self) -> FloatArray:
        """What torch makes of ``CHECK_TEXTS`` in float32, (c, d)."""
        vectors: FloatArray = np.load(self.folder / "check_vectors.npy", allow_pickle=False)
        return vectors


Kind = Literal["float32", "int8"]
"""The numbers that an export keeps the weights of its products in."""


def export_kind(precision: EncoderPrecision) -> Kind:
    """Return which export a precision computes with: engines round to bfloat16 themselves."""
    return "int8" if precision == "int8" else "float32"


def find_export(fingerprint: str, kind: Kind) -> Export | None:
    """Return what was exported of a model before, if it is whole.

    Args:
        fingerprint: That of the model's files.
        kind: Which of its exports.
    """
    folder = _folder(fingerprint, kind)
    try:
        info = TypeAdapter(ExportInfo).validate_json((folder / _INFO).read_bytes())
        files = model_fingerprint(folder, cache_dir=user_cache_dir())
    except (OSError, ValueError, EncoderError):  # ValueError: pydantic's
        return None
    return Export(folder, info) if (info.model, info.files) == (fingerprint, files) else None


def make_export(fingerprint: str, kind: Kind, load_model: Callable[[], Any]) -> Export:
    """Return a model's export: as it was kept, or made now and kept.

    Exports of the same model by several processes wait for each other. One that is damaged, or of
    another model, is replaced.

    Args:
        fingerprint: That of the model's files.
        kind: As of ``find_export``. ``int8`` is made out of ``float32``: the weights of products
            are rounded, each output by its own scale, and what they are multiplied with by one
            scale a batch (https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html).
        load_model: Loads the model of sentence-transformers, in float32 on the CPU.

    Raises:
        EncoderError: The model cannot be exported, or its export not be kept.
        MissingDependencyError: A library that exports is not installed.
    """
    from filelock import FileLock  # noqa: PLC0415, only exports wait for each other

    folder = _folder(fingerprint, kind)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f"{folder.name}.lock")):
            if found := find_export(fingerprint, kind):
                return found
            with _whole_folder(folder) as partial:
                if kind == "int8":
                    facts = _write_int8(make_export(fingerprint, "float32", load_model), partial)
                else:
                    facts = _write_float32(load_model(), partial)
                files = model_fingerprint(partial, cache_dir=None)
                info = ExportInfo(1, fingerprint, files, **facts)
                (partial / _INFO).write_bytes(TypeAdapter(ExportInfo).dump_json(info))
    except OSError as error:
        raise EncoderError("the export cannot be kept", where=folder, found=error) from error
    return Export(folder, info)


def _folder(fingerprint: str, kind: Kind) -> Path:
    """Return where an export is kept."""
    return user_cache_dir() / "exports" / f"{fingerprint[:32]}-{kind}"


@contextmanager
def _whole_folder(folder: Path) -> Iterator[Path]:
    """Yield a folder to fill, that takes the place of another once all is written."""
    if folder.exists():
        _log.warning("%s: is not what was exported there, and is made anew", folder)
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
    partial.mkdir()
    try:
        yield partial
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write_float32(model: Any, folder: Path) -> dict[str, Any]:  # noqa: ANN401, no types to import
    """Export a model of sentence-transformers with all its modules; return what its info says."""
    _need("onnxscript", purpose="Exporting a model")
    import torch  # noqa: PLC0415, as late as the model

    tokenizer = model.tokenizer
    if not hasattr(tokenizer, "backend_tokenizer"):
        raise _cannot("its tokenizer is not one of the library tokenizers")
    if not all(getattr(module, "include_prompt", True) for module in model.modules()):
        raise _cannot("its pooling leaves prompts out")
    traced = {
        name: value
        for name, value in model.preprocess(list(_TRACED_TEXTS)).items()
        if isinstance(value, torch.Tensor)
    }
    if not {"input_ids", "attention_mask"} <= traced.keys() <= _READ_BY_ENGINES:
        raise _cannot(f"it reads {', '.join(sorted(traced))}")
    vectors = model.encode(list(CHECK_TEXTS), prompt="", show_progress_bar=False)
    if vectors.ndim != 2:  # noqa: PLR2004, a vector each
        raise _cannot(f"it gives an array of shape {vectors.shape}")
    np.save(folder / "check_vectors.npy", np.asarray(vectors, dtype=np.float32))
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))

    class Flat(torch.nn.Module):  # type: ignore[misc, unused-ignore]
        """The model with tensors for arguments, as a graph has them."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
            features = self.model(dict(zip(traced, tensors, strict=True)))
            return features["sentence_embedding"]  # type: ignore[no-any-return]

    any_size = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    try:
        with _quiet(), _plain_attention(model), torch.no_grad():
            program: Any = torch.onnx.export(
                Flat().eval(),
                tuple(traced.values()),
                dynamo=True,
                dynamic_shapes=(tuple(any_size for _ in traced),),
                input_names=list(traced),
                output_names=["sentence_embedding"],
                verbose=False,
            )
            program.save(str(folder / "model.onnx"), external_data=True)
    except Exception as error:
        raise _cannot(error) from error
    return {
        "max_tokens": model.max_seq_length,
        "pad_id": tokenizer.pad_token_id or 0,
        "pads_left": tokenizer.padding_side == "left",
    }


def _write_int8(source: Export, folder: Path) -> dict[str, Any]:
    """Round the weights of an export; return what its info says."""
    _need("onnxruntime", purpose="Encoding in int8")
    _need("onnx", purpose="Encoding in int8")
    from onnxruntime import quantization  # noqa: PLC0415, an extra

    for file in (source.tokenizer, source.folder / "check_vectors.npy"):
        shutil.copy(file, folder)
    try:
        with _quiet():
            quantization.quantize_dynamic(
                source.model,
                folder / source.model.name,
                op_types_to_quantize=["MatMul"],
                per_channel=True,
                weight_type=quantization.QuantType.QInt8,
                use_external_data_format=True,
            )
    except Exception as error:
        raise _cannot(error) from error
    return {name: getattr(source.info, name) for name in ("max_tokens", "pad_id", "pads_left")}


def _need(library: str, *, purpose: str) -> None:
    """Refuse to go on without a library."""
    if find_spec(library) is None:
        raise MissingDependencyError(library, extra=EXTRA, purpose=purpose)


def _cannot(reason: object) -> EncoderError:
    """Return the error of a model that cannot be exported."""
    first_line = (str(reason).strip().splitlines() or [type(reason).__name__])[0]
    return EncoderError("cannot be exported", found=first_line[:200])


@contextmanager
def _plain_attention(model: Any) -> Iterator[None]:  # noqa: ANN401, as above
    """Have attention traced as products and a softmax, which engines recognize and fuse.

    torch's own attention is traced with a guard for rows that are masked as a whole: OpenVINO then
    gives 0.87 times the texts/s in bfloat16, with twice the error.
    """
    before = {
        module: module.config._attn_implementation  # noqa: SLF001, no other name
        for module in model.modules()
        if hasattr(module, "set_attn_implementation")
    }
    for module in before:
        module.set_attn_implementation("eager")
    try:
        yield
    finally:
        for module, attention in before.items():
            module.set_attn_implementation(attention)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep to itself what exporters say about their own inner workings."""

    def refuse(_: logging.LogRecord) -> bool:
        return False

    root, talkers = logging.getLogger(), [logging.getLogger(name) for name in _TALKERS]
    levels = [logger.level for logger in talkers]
    root.addFilter(refuse)  # onnxruntime logs there itself; what others log passes it by
    for logger in talkers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.removeFilter(refuse)
        for logger, level in zip(talkers, levels, strict=True):
            logger.setLevel(level)
