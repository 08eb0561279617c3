"""Builds a phrase bank from a stream of texts and vectors, in bounded memory."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from lightweight_decoder.bank.arrays import NpyWriter, reporting_full_disk
from lightweight_decoder.bank.manifest import (
    FILE_NAMES,
    FORMAT_VERSION,
    MANIFEST_NAME,
    OWNERS_NAME,
    PHRASES_NAME,
    VECTORS_NAME,
    EncoderInfo,
    FileInfo,
    Manifest,
    write_manifest,
)
from lightweight_decoder.bank.normalization import unit_rows
from lightweight_decoder.bank.phrase_bank import PhraseBank
from lightweight_decoder.bank.phrase_writer import PhraseWriter
from lightweight_decoder.bank.placement import placed_when_finished
from lightweight_decoder.errors import BankBuildError
from lightweight_decoder.progress import report_progress

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import numpy.typing as npt

    from lightweight_decoder.datatypes import FloatArray


@dataclass(frozen=True)
class BankRows:
    """A block of rows for a bank: one vector a row.

    Attributes:
        texts: b texts; a text that was there before gets one more vector.
        vectors: (b, d) floating point of any length above zero.
        metadata: Columns of b values each, the same columns in every block: numbers, texts, truth
            values, or None. Of a text that comes again, the first row's metadata is kept.
    """

    texts: Sequence[str]
    vectors: FloatArray
    metadata: Mapping[str, Sequence[object]] = field(default_factory=dict)


def build_bank(
    output: str | Path,
    rows: Iterable[BankRows],
    *,
    encoder: EncoderInfo | None = None,
    dtype: Literal["float32", "float16"] = "float32",
    overwrite: bool = False,
    total: int | None = None,
    show_progress: bool = False,
) -> PhraseBank:
    """Build a phrase bank and open it.

    Texts are compared in Unicode NFC with white space collapsed; phrases are numbered in the order
    of their first appearance. Vectors are scaled to unit length in float32, then stored as
    ``dtype``. Memory: one block of rows, and the distinct texts. Everything is written to a
    temporary sibling of ``output`` and renamed at the end, so ``output`` is either complete or as
    it was before, whatever happens. The same rows give the same files, byte for byte.

    Args:
        output: Folder to make; its parents are made too.
        rows: Blocks of rows, read once.
        encoder: What made the vectors, kept in the manifest.
        dtype: How vectors are stored; float16 halves the file and rounds each entry to 11 bits.
        overwrite: Replace a bank that is at ``output``.
        total: How many rows will come, where known; only shown.
        show_progress: Show rows, rows/s and the time left.

    Returns:
        The bank, opened.

    Raises:
        BankBuildError: If a row cannot be used (NaN, infinite or all-zero vector, another width,
            empty text, other counts of texts and vectors: the message has the row's number, from
            0), if there are no rows, if ``output`` exists or cannot be written, or if the disk is
            full.
    """
    with placed_when_finished(Path(output).absolute(), overwrite=overwrite) as folder:
        num_rows, dim, num_phrases = 0, None, 0
        with (
            NpyWriter(folder / VECTORS_NAME, dtype) as vectors_file,
            NpyWriter(folder / OWNERS_NAME, np.int64) as owners_file,
            PhraseWriter(folder / PHRASES_NAME) as phrases_file,
            report_progress(
                "building the bank", unit="rows", total=total, enabled=show_progress
            ) as advance,
        ):
            for block in rows:
                vectors = _checked_vectors(block, num_rows, dim)
                owners = phrases_file.add(block.texts, block.metadata, first_row=num_rows)
                vectors_file.append(vectors)
                owners_file.append(owners)
                num_rows, dim = num_rows + len(vectors), vectors.shape[1]
                advance(len(vectors))
            num_phrases = phrases_file.num_phrases
            if not num_rows or dim is None:
                raise BankBuildError(
                    "there is nothing to build a bank from",
                    where=output,
                    expected="at least one row",
                    found="none",
                )
        manifest = Manifest(
            format_version=FORMAT_VERSION,
            num_vectors=num_rows,
            num_phrases=num_phrases,
            dim=dim,
            dtype=dtype,
            metric="cosine",
            normalized=True,
            encoder=encoder,
            files={name: _file_info(folder / name) for name in FILE_NAMES},
        )
        with reporting_full_disk(folder / MANIFEST_NAME, 0):
            write_manifest(folder, manifest)
    return PhraseBank.open(output)


def _checked_vectors(block: BankRows, first_row: int, dim: int | None) -> npt.NDArray[np.float32]:
    """Return a block's vectors as float32 unit rows, or name the row that cannot be used."""
    at = f"rows from {first_row}"
    try:
        with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite, is refused
            vectors = np.array(block.vectors, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise BankBuildError(
            "the vectors are not an array of numbers", at=at, found=error
        ) from error
    if vectors.ndim != 2 or not vectors.shape[1] or vectors.shape[1] != (dim or vectors.shape[1]):  # noqa: PLR2004
        expected = f"(rows, {dim or 'width'})"
        raise BankBuildError(
            "the vectors have another shape", at=at, expected=expected, found=vectors.shape
        )
    if len(block.texts) != len(vectors):
        raise BankBuildError(
            "texts and vectors differ in number",
            at=at,
            expected=f"{len(vectors)} texts (one per vector)",
            found=len(block.texts),
        )
    return unit_rows(torch.from_numpy(vectors), first_row=first_row, error=BankBuildError).numpy()


def _file_info(path: Path) -> FileInfo:
    """Measure a finished file."""
    with path.open("rb") as file:
        checksum = hashlib.file_digest(file, "sha256").hexdigest()
    return FileInfo(bytes=path.stat().st_size, sha256=checksum)
