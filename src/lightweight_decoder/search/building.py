"""Makes an approximate search over a bank: opens its index, or builds and tunes one."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch
from filelock import FileLock

from lightweight_decoder.bank import PhraseBank
from lightweight_decoder.errors import ConfigError
from lightweight_decoder.search.approximate import LEAST_VECTORS, ApproximateSearch, Index
from lightweight_decoder.search.exact import ExactSearch
from lightweight_decoder.search.index_files import (
    IndexRecord,
    describe_file,
    read_record,
    record_path,
    reporting_unwritable,
    write_record,
    writing,
)
from lightweight_decoder.search.tuning import sample_queries, tune

if TYPE_CHECKING:
    from torch import Tensor

    from lightweight_decoder.search.approximate import Setting
    from lightweight_decoder.search.backend import SearchBackend
    from lightweight_decoder.search.vector_table import VectorTable

logger = logging.getLogger(__name__)


_IndexT = TypeVar("_IndexT", bound=Index)


class Library(Protocol[_IndexT]):
    """How one library makes, writes and reads an index."""

    @property
    def file_name(self) -> str:
        """Name of the index file."""

    @property
    def description(self) -> str:
        """Everything that shapes the index; another description means another index."""

    def build(self, vectors: Tensor) -> _IndexT:
        """Make an index of (n, d) unit vectors."""

    def write(self, index: _IndexT, path: Path) -> None:
        """Write an index that was built."""

    def read(self, path: Path) -> _IndexT:
        """Read an index that was written, mapped where the library can."""


def approximate_search(
    bank: VectorTable, library: Library[_IndexT], *, target_recall: float, folder: str | None
) -> SearchBackend:
    """Open or make the index of a bank, and return the search with it.

    Raises:
        ConfigError: If the target is not above 0 and at most 1.
        BankError: If the index that is there is damaged or belongs to another bank.
        BankBuildError: If the index cannot be written.
    """
    if not 0 < target_recall <= 1:
        raise ConfigError(
            "cannot be used",
            where="search.target_recall",
            expected="a share above 0 and at most 1",
            found=target_recall,
        )
    exact = ExactSearch(bank)
    if exact.num_vectors < LEAST_VECTORS:
        logger.info("%d vectors are searched exactly: an index pays later", exact.num_vectors)
        return exact
    vectors = torch.as_tensor(bank.vectors)
    place = _folder(bank, folder)
    if place is None or not isinstance(bank, PhraseBank):
        index = library.build(vectors)
        return ApproximateSearch(exact, index, _tuned(exact, vectors, index, target_recall))
    with reporting_unwritable(place):
        place.mkdir(parents=True, exist_ok=True)
    path = place / library.file_name
    record = read_record(path, bank_fingerprint=bank.fingerprint)
    if record is None or not _serves(record, library, target_recall):
        with reporting_unwritable(place), FileLock(place / ".lock"):
            record = _make(bank, exact, library, path, target_recall)
    return ApproximateSearch(exact, library.read(path), record.setting)


def has_index(bank: VectorTable, library: Library[Any], *, folder: str | None) -> bool:
    """Say whether an index is there already, for whichever target."""
    place = _folder(bank, folder)
    return place is not None and record_path(place / library.file_name).exists()


def _folder(bank: VectorTable, folder: str | None) -> Path | None:
    """Say where the indexes of a bank are kept; None: nowhere, as the vectors are in memory."""
    if not isinstance(bank, PhraseBank):
        return None
    if folder:
        return Path(folder)
    return None if bank.path is None else bank.path.with_name(f"{bank.path.name}.search")


def _serves(record: IndexRecord, library: Library[Any], target_recall: float) -> bool:
    """Say whether an index is the one that is wanted."""
    return (record.description, record.target_recall) == (library.description, target_recall)


def _make(
    bank: PhraseBank,
    exact: ExactSearch,
    library: Library[_IndexT],
    path: Path,
    target_recall: float,
) -> IndexRecord:
    """Build what is missing, index or setting, and write it."""
    record = read_record(path, bank_fingerprint=bank.fingerprint)  # another process may have
    if record is not None and _serves(record, library, target_recall):
        return record
    vectors = torch.as_tensor(bank.vectors)
    if record is not None and record.description == library.description:
        setting = _tuned(exact, vectors, library.read(path), target_recall)
        record = replace(record, target_recall=target_recall, setting=setting)
    else:
        start = time.perf_counter()
        index = library.build(vectors)
        logger.info("%s: built in %.1f s", path, time.perf_counter() - start)
        setting = _tuned(exact, vectors, index, target_recall)
        record_path(path).unlink(missing_ok=True)  # it must never name another file
        with writing(path) as partial:
            library.write(index, partial)
        record = IndexRecord(
            bank_fingerprint=bank.fingerprint,
            description=library.description,
            target_recall=target_recall,
            setting=setting,
            file=describe_file(path),
        )
    write_record(path, record)
    return record


def _tuned(exact: ExactSearch, vectors: Tensor, index: Index, target_recall: float) -> Setting:
    """Choose and report a setting."""
    setting = tune(exact, index, sample_queries(vectors), target_recall)
    for k, length, recall in zip(setting.ks, setting.list_lengths, setting.recalls, strict=True):
        logger.info(
            "recall %.4f of the exact %d, comparing %d vectors, effort %d",
            recall,
            k,
            length,
            setting.effort,
        )
    return setting
