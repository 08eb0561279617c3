"""The bank's manifest: what the folder holds, checked strictly when it is read."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from lightweight_decoder.encoder.encoder import EncoderSettings  # noqa: TC001 - pydantic reads it
from lightweight_decoder.errors import BankError, ConfigError
from lightweight_decoder.files import open_regular
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

REBUILD = "The bank was cut or altered; copy or build it again"

_STRICT = ConfigDict(strict=True, extra="forbid")
_CRC_DIGITS = 8

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
class BlockSums:
    """Checksums of a file's parts.

    Attributes:
        bytes: Size of each part; the last one may be shorter.
        crc32: CRC-32 of each, 8 hexadecimal digits, one behind the other.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    bytes: Count
    crc32: Annotated[str, Field(pattern=r"^([0-9a-f]{8})+$")]

    def __len__(self) -> int:
        return len(self.crc32) // _CRC_DIGITS

    def __getitem__(self, block: int) -> int:
        """Return the checksum of a part."""
        return int(self.crc32[block * _CRC_DIGITS : (block + 1) * _CRC_DIGITS], 16)


@dataclass(frozen=True, slots=True)
class FileInfo:
    """Size and checksums of one file of a bank.

    Attributes:
        bytes: Size of the file.
        sha256: Checksum of the whole file, 64 hexadecimal digits.
        blocks: Checksums of its parts; None in banks of version 0.1.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    bytes: Count
    sha256: Sha256
    blocks: BlockSums | None = None


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

    def to_dict(self, *, with_blocks: bool) -> dict[str, Any]:
        """Return plain values, as JSON has them; what is None of later keys is left out."""
        content = asdict(self)
        if self.preprocessing is None:
            del content["preprocessing"]
        if self.encoder is not None and self.encoder.settings is None:
            del content["encoder"]["settings"]
        for file in content["files"].values():
            if file["blocks"] is None or not with_blocks:
                del file["blocks"]
        return content

    @property
    def fingerprint(self) -> str:
        """Sha256 of everything but sums by block: equal exactly where banks' contents are equal.

        So the fingerprints of banks and of what was trained on them stay what they were.
        """
        return _sha256(self.to_dict(with_blocks=False))

    @property
    def total_bytes(self) -> int:
        """Size of all files together, the manifest aside."""
        return sum(file.bytes for file in self.files.values())


@dataclass(frozen=True, slots=True)
class _SealedManifest:
    """The manifest as it lies on disk: with its own checksums, so that an edit is noticed.

    Attributes:
        fingerprint: The bank's.
        manifest: What it holds.
        seal: Sha256 of the manifest with its sums by block; None in banks of version 0.1.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    fingerprint: Sha256
    manifest: Manifest
    seal: Sha256 | None = None


_READER = TypeAdapter(_SealedManifest)


def _sha256(content: dict[str, Any]) -> str:
    """Hash plain values."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write ``manifest.json`` into ``folder``; an ``OSError`` is raised as it is."""
    content = manifest.to_dict(with_blocks=True)
    sealed = {"fingerprint": manifest.fingerprint, "manifest": content, "seal": _sha256(content)}
    text = json.dumps(sealed, indent=2, ensure_ascii=False) + "\n"
    with (folder / MANIFEST_NAME).open("wb") as file:
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())


def old_place(folder: Path) -> Path:
    """Return where a bank is while it is replaced, where that takes two steps."""
    return folder.with_name(f".{folder.name}.old")


def read_manifest(folder: Path) -> Manifest:
    """Read ``manifest.json`` from ``folder``.

    Raises:
        BankError: If the folder or the file is missing, or if a key is unknown, missing, of another
            type, or does not agree with the rest; the message names the key.
    """
    path = folder / MANIFEST_NAME
    try:
        with open_regular(path) as file:
            content = file.read()
    except OSError as error:
        advice = "Build a bank with lightweight-decoder build-bank, or check the path"
        if old_place(folder).exists() and not folder.exists():
            advice = f"A killed build left the bank as {old_place(folder)}; rename it"
        expected = f"a folder with a file {MANIFEST_NAME}"
        raise BankError.unexpected(
            folder, expected, error.strerror, summary="there is no phrase bank here", advice=advice
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
    manifest = sealed.manifest
    seal = _sha256(manifest.to_dict(with_blocks=True))
    for key, expected, found in (
        ("fingerprint", sealed.fingerprint, manifest.fingerprint),
        ("seal", sealed.seal or manifest.fingerprint, seal),
    ):
        if expected != found:
            raise _damaged("the manifest was altered", path, key, expected, found)
    return manifest


def _error_for(detail: ErrorDetails, path: Path) -> BankError:
    """Say in our words what pydantic found first."""
    key = ".".join(str(part) for part in detail["loc"])
    found = repr(detail["input"])[:80]
    if not key:
        return _damaged("the manifest cannot be read", path, None, "JSON", detail["msg"])
    if key == "manifest.format_version" and detail["type"] != "missing":
        expected = f"{FORMAT_VERSION} or {PREPROCESSED_VERSION}"
        problem = "the bank has another format version"
        advice = "Build the bank again with this version of lightweight-decoder"
        return BankError.unexpected(
            path, expected, found, at=f"key {key!r}", summary=problem, advice=advice
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
    for name, file in manifest.files.items():
        if file.blocks is not None and len(file.blocks) != -(-file.bytes // file.blocks.bytes):
            expected, found = str(-(-file.bytes // file.blocks.bytes)), str(len(file.blocks))
            key = f"manifest.files.{name}.blocks.crc32"
            raise _damaged("the number of sums is wrong", path, key, expected, found)


def _damaged(
    summary: str, path: Path, key: str | None, expected: object, found: object
) -> BankError:
    """Build the error for a manifest that is not as it was written."""
    at = None if key is None else f"key {key!r}"
    return BankError.unexpected(path, expected, found, at=at, summary=summary, advice=REBUILD)
