"""The bank's manifest: what the folder holds, checked strictly when it is read."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Final, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from lightweight_decoder.encoder.encoder import EncoderSettings  # noqa: TC001 - pydantic reads it
from lightweight_decoder.errors import BankError, ConfigError
from lightweight_decoder.vectors.preprocessing import Step, output_dim

if TYPE_CHECKING:
    from pathlib import Path

    from pydantic_core import ErrorDetails

    from lightweight_decoder.encoder import Encoder

FORMAT_VERSION: Final = 1
PREPROCESSED_VERSION: Final = 2
"""Banks with preprocessing: who does not know of it must not read them."""

MANIFEST_NAME = "manifest.json"
VECTORS_NAME = "vectors.npy"
OWNERS_NAME = "owners.npy"
PHRASES_NAME = "phrases.arrow"
PREPROCESSING_NAME = "preprocessing.safetensors"
FILE_NAMES = (VECTORS_NAME, OWNERS_NAME, PHRASES_NAME)
"""What every bank has, written as streams; one with preprocessing has ``PREPROCESSING_NAME``."""

_STRICT = ConfigDict(strict=True, extra="forbid")

Count = Annotated[int, Field(gt=0)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
StorageDtype = Literal["float32", "float16"]


@dataclass(frozen=True, slots=True)
class EncoderInfo:
    """The text encoder that made a bank's vectors.

    Attributes:
        name: Folder or hub name it was loaded by.
        fingerprint: Identifies weights, tokenizer and pooling, and all in ``settings``; equal for
            equal vectors.
        settings: What it did, and does to queries, besides what its files say; None: nothing, as in
            version 0.1.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    name: str
    fingerprint: str
    settings: EncoderSettings | None = None

    @classmethod
    def of(cls, encoder: Encoder) -> EncoderInfo:
        """Return what a bank says about the encoder of its vectors."""
        return cls(encoder.name, encoder.fingerprint, encoder.settings)


@dataclass(frozen=True, slots=True)
class FileInfo:
    """Size and checksum of one file of a bank.

    Attributes:
        bytes: Size of the file.
        sha256: Checksum of the whole file, 64 hexadecimal digits.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    bytes: Count
    sha256: Sha256


@dataclass(frozen=True, slots=True)
class PreprocessingInfo:
    """What vectors went through before they were stored, and queries go through.

    Attributes:
        input_dim: Width of the vectors that go in.
        steps: The steps in their order, at least one, with their options; what they learned is in
            ``preprocessing.safetensors``.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    input_dim: Count
    steps: Annotated[tuple[Step, ...], Field(min_length=1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a phrase bank holds.

    Attributes:
        format_version: Version of the bank's layout on disk; 2 where there is preprocessing.
        num_vectors: n, rows of ``vectors.npy`` and ``owners.npy``.
        num_phrases: p, rows of ``phrases.arrow``; p <= n.
        dim: d, width of a stored vector.
        dtype: How vectors are stored.
        metric: How a query and a vector are compared.
        normalized: True, every stored vector has unit length.
        encoder: What made the vectors; None where that is not known.
        files: Size and checksum of each other file, by name.
        preprocessing: What vectors and queries go through; None where they stay as they are.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    format_version: Literal[1, 2]
    num_vectors: Count
    num_phrases: Count
    dim: Count
    dtype: StorageDtype
    metric: Literal["cosine"]
    normalized: Literal[True]
    encoder: EncoderInfo | None
    files: dict[str, FileInfo]
    preprocessing: PreprocessingInfo | None = None

    def to_dict(self) -> dict[str, object]:
        """Return plain values, as JSON has them; what is None of later keys is left out.

        So the fingerprints of banks and of what was trained on them stay what they were.
        """
        content = asdict(self)
        if self.preprocessing is None:
            del content["preprocessing"]
        if self.encoder is not None and self.encoder.settings is None:
            del content["encoder"]["settings"]
        return content

    @property
    def fingerprint(self) -> str:
        """Sha256 of everything above: equal exactly where the banks' contents are equal."""
        content = json.dumps(self.to_dict(), sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(content.encode()).hexdigest()

    @property
    def total_bytes(self) -> int:
        """Size of all files together, the manifest aside."""
        return sum(file.bytes for file in self.files.values())


@dataclass(frozen=True, slots=True)
class _SealedManifest:
    """The manifest as it lies on disk: with its own checksum, so that an edit is noticed."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    fingerprint: Sha256
    manifest: Manifest


_READER = TypeAdapter(_SealedManifest)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write ``manifest.json`` into ``folder``.

    Raises:
        OSError: If the file cannot be written.
    """
    sealed = {"fingerprint": manifest.fingerprint, "manifest": manifest.to_dict()}
    text = json.dumps(sealed, indent=2, ensure_ascii=False) + "\n"
    with (folder / MANIFEST_NAME).open("wb") as file:
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())


def read_manifest(folder: Path) -> Manifest:
    """Read ``manifest.json`` from ``folder``.

    Raises:
        BankError: If the folder or the file is missing, or if a key is unknown, missing, of another
            type, or does not agree with the rest; the message names the key.
    """
    path = folder / MANIFEST_NAME
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BankError(
            "there is no phrase bank here",
            where=folder,
            expected=f"a folder with a file {MANIFEST_NAME}",
            found=error.strerror,
            advice="Build a bank with scripts/build_bank.py, or check the path",
        ) from error
    manifest = _parse(content, path)
    _check_agreement(manifest, path)
    return manifest


def _parse(content: bytes, path: Path) -> Manifest:
    """Turn the file's bytes into a manifest, or say which key is wrong."""
    try:
        sealed = _READER.validate_json(content)
    except ValidationError as error:
        raise _error_for(error.errors(include_url=False)[0], path) from error
    except ConfigError as error:  # an option of a step that is out of range
        key = f"manifest.preprocessing.steps: {error.where}"
        raise _damaged("a key cannot be used", path, key, error.expected, error.found) from error
    found = sealed.manifest.fingerprint
    if found != sealed.fingerprint:
        raise _damaged("the manifest was altered", path, "fingerprint", sealed.fingerprint, found)
    return sealed.manifest


def _error_for(detail: ErrorDetails, path: Path) -> BankError:
    """Say in our words what pydantic found first."""
    key = ".".join(str(part) for part in detail["loc"])
    found = repr(detail["input"])[:80]
    if not key:
        return _damaged("the manifest cannot be read", path, None, "JSON", detail["msg"])
    if key == "manifest.format_version" and detail["type"] != "missing":
        return BankError(
            "the bank has another format version",
            where=path,
            at=f"key {key!r}",
            expected=f"{FORMAT_VERSION} or {PREPROCESSED_VERSION}",
            found=found,
            advice="Build the bank again with this version of lightweight-decoder",
        )
    if detail["type"] == "missing":
        return _damaged("a key is missing", path, key, "a value", "none")
    return _damaged("a key cannot be used", path, key, detail["msg"], found)


def _check_agreement(manifest: Manifest, path: Path) -> None:
    """Refuse counts and files that cannot belong to one bank."""
    if manifest.num_phrases > manifest.num_vectors:
        expected = f"at most {manifest.num_vectors} (num_vectors)"
        found = str(manifest.num_phrases)
        raise _damaged("too many phrases", path, "manifest.num_phrases", expected, found)
    preprocessing = manifest.preprocessing
    if (preprocessing is not None) != (manifest.format_version == PREPROCESSED_VERSION):
        expected = f"steps in version {PREPROCESSED_VERSION}, none in version {FORMAT_VERSION}"
        found = f"version {manifest.format_version}"
        raise _damaged("the version is wrong", path, "manifest.preprocessing", expected, found)
    if preprocessing is not None:
        dim = output_dim(preprocessing.steps, preprocessing.input_dim)
        if dim != manifest.dim:
            raise _damaged("the width is wrong", path, "manifest.dim", dim, manifest.dim)
    names = FILE_NAMES if preprocessing is None else (*FILE_NAMES, PREPROCESSING_NAME)
    if set(manifest.files) != set(names):
        listed = ", ".join(sorted(manifest.files))
        raise _damaged("other files are listed", path, "manifest.files", ", ".join(names), listed)


def _damaged(
    summary: str, path: Path, key: str | None, expected: object, found: object
) -> BankError:
    """Build the error for a manifest that is not as it was written."""
    return BankError(
        summary,
        where=path,
        at=None if key is None else f"key {key!r}",
        expected=expected,
        found=found,
        advice="The bank was cut or altered; copy or build it again",
    )
