"""Reads a whole bank and says everything that is wrong with it."""

from __future__ import annotations

import hashlib
import itertools
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from lightweight_decoder.bank.manifest import (
    OWNERS_NAME,
    PHRASES_NAME,
    REBUILD,
    VECTORS_NAME,
    read_manifest,
)
from lightweight_decoder.bank.phrase_bank import IN_MEMORY, PhraseBank
from lightweight_decoder.bank.phrase_writer import TextIndex
from lightweight_decoder.bank.phrases import normalize_text
from lightweight_decoder.bank.stored_file import StoredFile, mismatch
from lightweight_decoder.errors import BankError
from lightweight_decoder.progress import report_progress
from lightweight_decoder.vectors.directions import UNIT_TOLERANCE, rows_of_other_length

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_CHUNK_BYTES = 8 * 2**20
_TEXTS_AT_ONCE = 16_384
_KIB = 2**10


def verify_bank(path: str | Path, *, show_progress: bool = False) -> list[BankError]:
    """Read a whole bank, and compare it with its manifest and with what a build would write.

    Args:
        path: The bank's folder.
        show_progress: Show KiB, KiB/s and the time left.

    Returns:
        What is wrong, in the order of the files: each file that is missing or of another size, each
        block of other content, and, where the files are what was written, of each kind of rows that
        no build would write the first. Nothing where the bank is right.
    """
    folder = Path(path).absolute()
    try:
        manifest = read_manifest(folder)
    except BankError as problem:
        return [problem]
    problems, files = [], {}
    for name, info in manifest.files.items():
        try:
            files[name] = StoredFile.map(folder / name, info)
        except BankError as problem:
            problems.append(problem)
    total = sum(-(-file.info.bytes // _KIB) for file in files.values())
    with report_progress(
        "verifying the bank", unit="KiB", total=total, enabled=show_progress
    ) as advance:
        problems += wrong_files(files.values(), advance=advance)
    if not problems:
        try:
            problems += wrong_rows(PhraseBank(manifest, files, folder))
        except BankError as problem:
            problems.append(problem)
    return problems


def wrong_files(
    files: Iterable[StoredFile], *, advance: Callable[[int], None] = lambda _: None
) -> Iterator[BankError]:
    """Yield an error for each block that has another sum, or each file that has.

    ``advance`` takes how many KiB more were read.
    """
    for file in files:
        checksum, wrong = hashlib.sha256(), list[BankError]()
        blocks = file.info.blocks
        size = _CHUNK_BYTES if blocks is None else blocks.bytes
        for number, start in enumerate(range(0, file.info.bytes, size)):
            checksum.update(memoryview(file.content)[start : start + size])
            if blocks is not None:
                wrong += file.wrong_block(number)
            advance(-(-min(size, file.info.bytes - start) // _KIB))
        if not wrong and checksum.hexdigest() != file.info.sha256:
            expected, found = f"sha256 {file.info.sha256}", f"sha256 {checksum.hexdigest()}"
            wrong = [mismatch(file.path, expected, found)]
        yield from wrong
        if not wrong:
            file.take_as_right()


def wrong_rows(bank: PhraseBank) -> Iterator[BankError]:
    """Yield an error for the first row of each kind that no build would write."""
    folder = bank.path or IN_MEMORY
    rows = (
        _wrong_vectors(bank, folder / VECTORS_NAME),
        _wrong_owners(bank, folder / OWNERS_NAME),
        _wrong_phrases(bank, folder / PHRASES_NAME),
        _wrong_texts(bank, folder / PHRASES_NAME),
    )
    for problems in rows:
        yield from itertools.islice(problems, 1)


def _wrong_vectors(bank: PhraseBank, path: Path) -> Iterator[BankError]:
    """Vectors that are not finite or not of unit length."""
    tolerance = 1e-4 if bank.manifest.dtype == "float32" else UNIT_TOLERANCE
    vectors = torch.from_numpy(bank.vectors)
    for row, length in rows_of_other_length(vectors, tolerance=tolerance):
        yield _altered(path, row, "a vector of length 1", f"length {length}")


def _wrong_owners(bank: PhraseBank, path: Path) -> Iterator[BankError]:
    """Owners that are no phrases."""
    for row in np.flatnonzero((bank.owners < 0) | (bank.owners >= bank.num_phrases)).tolist():
        expected = f"a phrase id from 0 to {bank.num_phrases - 1}"
        yield _altered(path, row, expected, bank.owners[row])


def _wrong_phrases(bank: PhraseBank, path: Path) -> Iterator[BankError]:
    """Phrases that own no vector."""
    owned = np.zeros(bank.num_phrases, dtype=bool)
    owned[bank.owners[(bank.owners >= 0) & (bank.owners < bank.num_phrases)]] = True
    for row in np.flatnonzero(~owned).tolist():
        yield _altered(path, row, "a phrase that owns at least one vector", "none in owners.npy")


def _wrong_texts(bank: PhraseBank, path: Path) -> Iterator[BankError]:
    """Texts that are missing, not normalized or there twice."""
    index = TextIndex()
    for start in range(0, bank.num_phrases, _TEXTS_AT_ONCE):
        texts = bank.texts(range(start, min(start + _TEXTS_AT_ONCE, bank.num_phrases)))
        for row, text in enumerate(texts, start=start):
            if not text or text != normalize_text(text):
                yield _altered(path, row, "a text, normalized and not empty", repr(text))
        ids = index.add([text or "" for text in texts]).ids
        for place in np.flatnonzero(ids != start + np.arange(len(ids))).tolist():
            found = f"{texts[place]!r}, also in row {ids[place]}"
            yield _altered(path, start + place, "a text of its own", found)


def _altered(path: Path, row: int, expected: str, found: object) -> BankError:
    """Build the error for a row that a build would not have written."""
    return BankError.unexpected(
        path, expected, found, at=f"row {row}", summary="the bank was altered", advice=REBUILD
    )
