"""The bank's ``preprocessing.safetensors``: what its steps learned, fitted once a build."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from lightweight_decoder.bank.journal import JOURNAL_NAME
from lightweight_decoder.bank.manifest import PREPROCESSING_NAME, FileInfo
from lightweight_decoder.bank.output_file import reporting_full_disk
from lightweight_decoder.errors import BankError, ResumeError
from lightweight_decoder.vectors.preprocessing import Preprocessing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from lightweight_decoder.bank.manifest import PreprocessingInfo
    from lightweight_decoder.datatypes import FloatArray
    from lightweight_decoder.vectors.preprocessing import Step

_ORIGIN = "origin"
_UNREADABLE = (OSError, SafetensorError, ValueError, TypeError, KeyError)


def fit_or_resume(
    folder: Path, steps: Sequence[Step], draw_sample: Callable[[], FloatArray]
) -> Preprocessing | None:
    """Fit steps and write down what they learned, or go on with what an interrupted build learned.

    What was learned is kept, not learned again, so that a resumed build cannot differ in the last
    digit; that it is still the same sample is made sure of.

    Args:
        folder: Where the bank is built.
        steps: What to fit; for nothing None comes back.
        draw_sample: Gives the sample, (m, d).

    Raises:
        ResumeError: If the interrupted build had other steps or another sample; what it left stays.
        ConfigError: If the steps cannot be fitted on the sample.
        BankBuildError: If the file cannot be written.
    """
    path = folder / PREPROCESSING_NAME
    options = [asdict(step) for step in steps]
    kept: tuple[dict[str, Any], dict[str, FloatArray]] | None = None
    if path.is_file() or (folder / JOURNAL_NAME).is_file():
        kept = _read_kept(path)
        if kept[0]["steps"] != options:
            raise _other_build(path, kept[0]["steps"], options)
    if not steps:
        return None
    sample = draw_sample()
    origin = {"steps": options, "input_dim": sample.shape[1], "sample": _sha256(sample)}
    if kept is None:
        preprocessing = Preprocessing.fit(steps, sample)
        _write(path, preprocessing.arrays(), origin)
        return preprocessing
    if kept[0] != origin:
        raise _other_build(path, "the vectors that it was started with", "others")
    return Preprocessing.from_arrays(steps, sample.shape[1], kept[1])


def read_preprocessing(folder: Path, info: PreprocessingInfo | None) -> Preprocessing | None:
    """Read what a finished bank's steps learned; None where it has no steps.

    Raises:
        BankError: If the file is not what the manifest says.
    """
    if info is None:
        return None
    path = folder / PREPROCESSING_NAME
    try:
        with safe_open(path, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, no dict
        return Preprocessing.from_arrays(info.steps, info.input_dim, arrays)
    except _UNREADABLE as error:
        raise BankError(
            "what the preprocessing learned does not match the manifest",
            where=path,
            expected=f"the arrays of {', '.join(step.step for step in info.steps)}",
            found=error,
            advice="The bank was cut or altered; copy or build it again",
        ) from error


def file_info(path: Path) -> FileInfo:
    """Return size and checksum of a small file."""
    content = path.read_bytes()
    return FileInfo(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


def _read_kept(path: Path) -> tuple[dict[str, Any], dict[str, FloatArray]]:
    """Where an interrupted build's arrays come from, and they; no file: it had no steps."""
    if not path.is_file():
        return {"steps": []}, {}
    try:
        with safe_open(path, framework="numpy") as file:
            origin = json.loads(file.metadata()[_ORIGIN])
            return origin, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except _UNREADABLE as error:
        raise _other_build(path, "what a build wrote", error) from error


def _write(path: Path, arrays: dict[str, FloatArray], origin: dict[str, Any]) -> None:
    """Write the file as a whole or not at all, the same bytes for the same content."""
    # One key only: safetensors writes several in an order that changes from run to run.
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    content = save(contiguous, metadata={_ORIGIN: json.dumps(origin, sort_keys=True)})
    partial = path.with_suffix(".partial")
    with reporting_full_disk(path, len(content)):
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)


def _sha256(sample: FloatArray) -> str:
    """Checksum of a sample's bytes."""
    return hashlib.sha256(sample.data).hexdigest()


def _other_build(path: Path, expected: object, found: object) -> ResumeError:
    """Build the error for options or vectors that are not those of the interrupted build."""
    return ResumeError(
        "the interrupted build had other preprocessing",
        where=path,
        expected=expected or "none",
        found=found or "none",
        advice="Start anew without resume=true, or name the same input and options",
    )
