"""Approximate search with FAISS, its index kept beside the bank: opened, or built and tuned.

A bank's folder is immutable and checked, so an index lies in a sibling, ``BANK.search``, where it
moves and is deleted with the bank: a file in FAISS's own format and a record of what it is.
The record is written last: without it there is no index.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from filelock import FileLock
from pydantic import ConfigDict, TypeAdapter, ValidationError

from lightweight_decoder.bank import PhraseBank
from lightweight_decoder.bank.manifest import FileInfo
from lightweight_decoder.errors import BankBuildError, BankError, ConfigError
from lightweight_decoder.files import whole_file
from lightweight_decoder.search.approximate import (
    LEAST_VECTORS,
    ApproximateSearch,
    Setting,
    sample_queries,
    tune,
)
from lightweight_decoder.search.exact import ExactSearch
from lightweight_decoder.search.faiss_index import (
    ADVICE,
    FaissIndex,
    default_factory,
    description_of,
    file_name_of,
    import_faiss,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from torch import Tensor

    from lightweight_decoder.datatypes import Candidates
    from lightweight_decoder.search.contract import SearchBackend, VectorTable


logger = logging.getLogger(__name__)

_CHECKSUM_LIMIT_BYTES = 100_000_000
_ELSEWHERE = "Name another folder with search.folder=DIR"


def approximate_search(
    bank: VectorTable, factory: str, *, target_recall: float, folder: str | None
) -> SearchBackend:
    """Open or make the index of a bank, and return the search with it.

    Raises:
        ConfigError: If the target is not above 0 and at most 1.
        BankError: If the index that is there is damaged or belongs to another bank.
        BankBuildError: If the index cannot be written.
    """
    if not 0 < target_recall <= 1:
        expected = "a share above 0 and at most 1"
        raise ConfigError.unexpected("search.target_recall", expected, target_recall)
    exact = ExactSearch(bank)
    if exact.num_vectors < LEAST_VECTORS:
        logger.info("%d vectors are searched exactly: an index pays later", exact.num_vectors)
        return exact
    vectors = torch.as_tensor(bank.vectors)
    path = _index_path(bank, factory, folder)
    if path is None or not isinstance(bank, PhraseBank):
        index = FaissIndex.build(factory, vectors)
        return ApproximateSearch(exact, index, _tuned(exact, vectors, index, target_recall))
    with reporting_unwritable(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    record = read_record(path, bank_fingerprint=bank.fingerprint)
    if record is None or not _serves(record, factory, target_recall):
        with reporting_unwritable(path.parent), FileLock(path.with_name(".lock")):
            record = _make(bank, exact, factory, path, target_recall)
    return ApproximateSearch(exact, FaissIndex.read(path), record.setting)


def has_index(bank: VectorTable, factory: str, *, folder: str | None) -> bool:
    """Say whether an index is there already, for whichever target."""
    path = _index_path(bank, factory, folder)
    return path is not None and record_path(path).exists()


def _index_path(bank: VectorTable, factory: str, folder: str | None) -> Path | None:
    """Say where an index of a bank is kept; None: nowhere, as the vectors are in memory."""
    if not isinstance(bank, PhraseBank):
        return None
    if folder:
        return Path(folder) / file_name_of(factory)
    if bank.path is None:
        return None
    return bank.path.with_name(f"{bank.path.name}.search") / file_name_of(factory)


def _serves(record: IndexRecord, factory: str, target_recall: float) -> bool:
    """Say whether an index is the one that is wanted."""
    return (record.description, record.target_recall) == (description_of(factory), target_recall)


def _make(
    bank: PhraseBank, exact: ExactSearch, factory: str, path: Path, target_recall: float
) -> IndexRecord:
    """Build what is missing, index or setting, and write it."""
    record = read_record(path, bank_fingerprint=bank.fingerprint)  # another process may have
    if record is not None and _serves(record, factory, target_recall):
        return record
    vectors = torch.as_tensor(bank.vectors)
    if record is not None and record.description == description_of(factory):
        setting = _tuned(exact, vectors, FaissIndex.read(path), target_recall)
        record = replace(record, target_recall=target_recall, setting=setting)
    else:
        start = time.perf_counter()
        index = FaissIndex.build(factory, vectors)
        logger.info("%s: built in %.1f s", path, time.perf_counter() - start)
        setting = _tuned(exact, vectors, index, target_recall)
        record_path(path).unlink(missing_ok=True)  # it must never name another file
        with writing(path) as partial:
            index.write(partial)
        record = IndexRecord(
            bank_fingerprint=bank.fingerprint,
            description=description_of(factory),
            target_recall=target_recall,
            setting=setting,
            file=describe_file(path),
        )
    with writing(record_path(path)) as partial:
        partial.write_bytes(_RECORDS.dump_json(record, indent=2) + b"\n")
    return record


def _tuned(exact: ExactSearch, vectors: Tensor, index: FaissIndex, target_recall: float) -> Setting:
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
        at, expected = f"key {place!r}", "the record of an index"
        raise BankError.unreadable(
            path, detail["msg"], at=at, expected=expected, advice=ADVICE
        ) from error
    if record.bank_fingerprint != bank_fingerprint:
        expected = f"fingerprint {bank_fingerprint[:12]}"
        problem = "the index was made for another bank"
        raise BankError.unexpected(
            index, expected, record.bank_fingerprint[:12], summary=problem, advice=ADVICE
        )
    size = index.stat().st_size if index.exists() else None
    intact = size == record.file.bytes
    if intact and record.file.bytes <= _CHECKSUM_LIMIT_BYTES:
        intact = describe_file(index) == record.file
    if not intact:
        expected = f"{record.file.bytes} bytes, sha256 {record.file.sha256[:12]}"
        problem = "the index is not what was written"
        found = "no file" if size is None else f"{size} bytes of other content or length"
        raise BankError.unexpected(index, expected, found, summary=problem, advice=ADVICE)
    return record


def record_path(index: Path) -> Path:
    """Return where the record of an index file lies."""
    return index.with_name(f"{index.name}.json")


def writing(path: Path) -> AbstractContextManager[Path]:
    """Give a file to write that takes the place of ``path`` when it is whole."""
    return whole_file(path, error=BankBuildError, advice=_ELSEWHERE)


@contextlib.contextmanager
def reporting_unwritable(folder: Path) -> Iterator[None]:
    """Turn a failure of the file system into an error of ours."""
    try:
        yield
    except OSError as error:
        problem = "the folder of an index cannot be written"
        raise BankBuildError.unexpected(
            folder, None, error.strerror or error, summary=problem, advice=_ELSEWHERE
        ) from error


class FaissSearch:
    """Lists vectors with a FAISS index, then compares them exactly.

    A :class:`~lightweight_decoder.search.SearchBackend`. The index and how it is to be used for
    ``target_recall`` are kept in files beside the bank.

    ``search=hnsw`` is ``GRAPH_FACTORY``, a graph of neighbors (Malkov and Yashunin,
    https://arxiv.org/abs/1603.09320). Building it takes a minute or more where the default takes
    seconds, and with 150,000 vectors that one is three to four times as fast at the same target. Of
    the libraries FAISS gave the most queries/s and the smallest file. 148,730 x 384 of WordNet, 32
    neighbors, 200 nodes while building, 256 while searching, lists of 30 compared exactly (recall
    of the ten best 0.9991 to 0.9994), 2,048 definitions, 2 cores of an AMD EPYC (Zen 4); searches
    are of one run, the graphs were built while the machine did other work too:

    =======  =======  ======  =======  =========  =========
    library  vectors  file    built    together   one query
    =======  =======  ======  =======  =========  =========
    FAISS    8 bits    98 MB    52 s   3,113 q/s  0.66 ms
    FAISS    bf16     155 MB    65 s   2,629 q/s  0.76 ms
    usearch  bf16     155 MB    88 s   2,073 q/s  1.03 ms
    FAISS    f32      269 MB    87 s   1,844 q/s  1.08 ms
    hnswlib  f32      270 MB    76 s   1,712 q/s  1.06 ms
    usearch  f32      270 MB   138 s     763 q/s  3.51 ms
    =======  =======  ======  =======  =========  =========

    Args:
        bank: The bank, or anything else with ``vectors``, ``owners`` and ``num_phrases``, whose
            index is kept in memory only.
        factory: What to build, in the language of ``faiss.index_factory``. By default 4-bit product
            quantization with fast scanning, one code for three dimensions: about as fast as
            one for two in a third less space (148,730 x 384 of WordNet); inverted lists before it
            (IVF512) reached a recall of 0.985 with 128 lists visited.
        target_recall: Share of the exact answer to be found, measured for 10 and 100 phrases on
            samples made from the bank, in (0, 1].
        folder: Where to keep the files; None: ``BANK.search``, beside the bank's folder.

    Raises:
        MissingDependencyError: If FAISS is not installed.
        ConfigError: If FAISS does not know the factory, or the target is no share.
        BankError: If the files are damaged or belong to another bank.
        BankBuildError: If they cannot be written.
    """

    def __init__(
        self,
        bank: VectorTable,
        *,
        factory: str | None = None,
        target_recall: float = 0.999,
        folder: str | None = None,
    ) -> None:
        import_faiss()
        self._factory = factory or default_factory(bank.vectors.shape[1])
        self._search = approximate_search(
            bank, self._factory, target_recall=target_recall, folder=folder
        )

    def __repr__(self) -> str:
        return f"FaissSearch({self._factory!r})"

    @property
    def recall(self) -> float | None:
        """The lowest index recall that was measured; None where everything is compared."""
        found = self._search
        return min(found.setting.recalls) if isinstance(found, ApproximateSearch) else None

    def search(
        self, queries: Tensor, k: int, *, exclude_vectors: Tensor | None = None
    ) -> Candidates:
        """Find the k best phrases for each query; see :class:`SearchBackend` for the contract."""
        return self._search.search(queries, k, exclude_vectors=exclude_vectors)
