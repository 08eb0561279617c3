"""Keeps an index beside its bank: a file in the library's own format and a record of what it is.

A bank's folder is immutable and checked, so an index lies in a sibling, ``BANK.search``, where it
moves and is deleted with the bank. The record is written last: without it there is no index.
"""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from lightweight_decoder.bank.manifest import FileInfo
from lightweight_decoder.errors import BankBuildError, BankError
from lightweight_decoder.files import whole_file
from lightweight_decoder.search.approximate import Setting  # noqa: TC001 - pydantic reads it

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path


_CHECKSUM_LIMIT_BYTES = 100_000_000
_ELSEWHERE = "Name another folder with search.folder=DIR"
_ADVICE = "Delete the file and the one beside it to have the index built again"


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexRecord:
    """What an index file holds.

    Attributes:
        format_version: Version of this record.
        bank_fingerprint: Of the bank that it was made from.
        description: What shapes the index: library, kind, parameters.
        target_recall: What ``setting`` was chosen for.
        setting: How to use it.
        file: Size and checksum of the index file.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    format_version: Literal[1] = 1
    bank_fingerprint: str
    description: str
    target_recall: float
    setting: Setting
    file: FileInfo


_RECORDS = TypeAdapter(IndexRecord)


def describe_file(path: Path) -> FileInfo:
    """Return a file's size and checksum."""
    with path.open("rb") as file:
        return FileInfo(path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())


def read_record(index: Path, *, bank_fingerprint: str) -> IndexRecord | None:
    """Read the record beside an index file; None where there is none.

    The file's size is always checked, its checksum up to 100 MB.

    Raises:
        BankError: If the record or the index is damaged, or belongs to another bank.
    """
    path = record_path(index)
    if not path.exists():
        return None
    try:
        record = _RECORDS.validate_json(path.read_bytes())
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in detail["loc"])
        raise BankError(
            "the record of an index cannot be used",
            where=path,
            at=f"key {place!r}",
            found=detail["msg"],
            advice=_ADVICE,
        ) from error
    if record.bank_fingerprint != bank_fingerprint:
        raise BankError(
            "the index was made for another bank",
            where=index,
            expected=f"fingerprint {bank_fingerprint[:12]}",
            found=record.bank_fingerprint[:12],
            advice=_ADVICE,
        )
    size = index.stat().st_size if index.exists() else None
    intact = size == record.file.bytes
    if intact and record.file.bytes <= _CHECKSUM_LIMIT_BYTES:
        intact = describe_file(index) == record.file
    if not intact:
        raise BankError(
            "the index is not what was written",
            where=index,
            expected=f"{record.file.bytes} bytes, sha256 {record.file.sha256[:12]}",
            found="no file" if size is None else f"{size} bytes of other content or length",
            advice=_ADVICE,
        )
    return record


def write_record(index: Path, record: IndexRecord) -> None:
    """Put a record beside an index file.

    Raises:
        BankBuildError: If it cannot be written.
    """
    with writing(record_path(index)) as partial:
        partial.write_bytes(_RECORDS.dump_json(record, indent=2) + b"\n")


def record_path(index: Path) -> Path:
    """Return where the record of an index file lies."""
    return index.with_name(f"{index.name}.json")


def writing(path: Path) -> AbstractContextManager[Path]:
    """Give a file to write that takes the place of ``path`` when it is whole.

    Raises:
        BankBuildError: If the folder cannot be written.
    """
    return whole_file(path, error=BankBuildError, advice=_ELSEWHERE)


@contextlib.contextmanager
def reporting_unwritable(folder: Path) -> Iterator[None]:
    """Turn a failure of the file system into an error of ours."""
    try:
        yield
    except OSError as error:
        raise BankBuildError(
            "the folder of an index cannot be written",
            where=folder,
            found=error.strerror or error,
            advice=_ELSEWHERE,
        ) from error
