"""Builds a phrase bank from a stream of texts and vectors, in bounded memory."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal

from lightweight_decoder.bank.hashed_file import HashedFile, NpyWriter, reporting_full_disk
from lightweight_decoder.bank.manifest import (
    FORMAT_VERSION,
    MANIFEST_NAME,
    OWNERS_NAME,
    PHRASES_NAME,
    PREPROCESSED_VERSION,
    PREPROCESSING_NAME,
    VECTORS_NAME,
    EncoderInfo,
    Manifest,
    PreprocessingInfo,
    write_manifest,
)
from lightweight_decoder.bank.phrase_writer import PhraseWriter
from lightweight_decoder.bank.placement import placed_when_finished
from lightweight_decoder.bank.preprocessing_file import draw_sample, fit
from lightweight_decoder.bank.rows import BankRows, OnBadRow, RowCheck, choose_dtype, stored_rows
from lightweight_decoder.errors import BankBuildError
from lightweight_decoder.progress import report_progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    import numpy.typing as npt

    from lightweight_decoder.bank.manifest import StorageDtype
    from lightweight_decoder.vectors.preprocessing import Step

    Create = Callable[[str], AbstractContextManager[BinaryIO]]
    """Opens an empty file of this name for writing and reading."""

Dtype = Literal["auto", "float32", "float16"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildReport:
    """Counts of a finished build.

    Rows that came in, dropped ones (by reason) included; p distinct texts; n rows that were kept,
    of width d, and how their vectors are stored.
    """

    num_rows: int
    num_phrases: int
    num_vectors: int
    dim: int
    dtype: str
    dropped: Mapping[str, int] = field(default_factory=dict)

    @property
    def num_repeated(self) -> int:
        """Texts that came again: vectors that went to a phrase that had one."""
        return self.num_vectors - self.num_phrases


def write_bank(
    output: str | Path,
    rows: Iterable[BankRows],
    *,
    encoder: EncoderInfo | None = None,
    preprocessing: Sequence[Step] = (),
    sample: Iterable[npt.ArrayLike] | None = None,
    dtype: Dtype = "auto",
    overwrite: bool = False,
    on_bad_row: OnBadRow = "raise",
    total: int | None = None,
    show_progress: bool = False,
) -> BuildReport:
    """Build a phrase bank.

    Texts are compared in Unicode NFC with white space collapsed; phrases are numbered in the order
    of their first appearance. Vectors go through ``preprocessing``, are scaled to unit length in
    float32, then stored as ``dtype``. Memory: one block of rows, and about 30 bytes for each
    distinct text; while preprocessing is fitted, two samples. Everything is written to a temporary
    sibling of ``output`` and renamed at the end, so ``output`` is either complete or as it was
    before, whatever happens. The same rows give the same files, byte for byte, whatever the blocks
    they come in.

    Args:
        output: Folder to make; its parents are made too.
        rows: Blocks of rows, read once; with preprocessing and without ``sample`` read twice.
        encoder: What made the vectors, kept in the manifest.
        preprocessing: Steps of ``vectors.preprocessing``, fitted on 100,000 rows (256 MiB at most)
            drawn from all; kept in the bank, which applies them to queries.
        sample: What to draw that sample from: blocks of vectors, (b, d); None: ``rows``.
        dtype: How vectors are stored; float16 halves the file and rounds each entry to 11 bits.
            ``"auto"`` is float16 where ``total`` rows would take more than 1 GiB in float32.
        overwrite: Replace a bank that is at ``output``.
        on_bad_row: Whether a vector without direction, or a text without anything in it, is an
            error or is dropped and counted.
        total: How many rows will come, where known.
        show_progress: Show rows, rows/s and the time left.

    Raises:
        BankBuildError: If a row cannot be used (NaN, infinite or all-zero vector, another width,
            empty text, other counts of texts and vectors, nothing left by preprocessing: the
            message has the row's number, from 0), if ``rows`` cannot be read twice and must be, if
            there are no rows, if ``output`` exists or cannot be written, or if the disk is full.
            Nothing is left then.
        ConfigError: If a step of the preprocessing does not go with the sample.
    """
    output = Path(output).absolute()
    with placed_when_finished(output, overwrite=overwrite) as folder:

        @contextlib.contextmanager
        def create(name: str) -> Iterator[BinaryIO]:
            with reporting_full_disk(folder / name, 0):
                file = (folder / name).open("wb+", buffering=0)
            with contextlib.closing(file):
                yield file

        manifest, report = write_files(
            create,
            rows,
            where=folder,
            encoder=encoder,
            preprocessing=preprocessing,
            sample=sample,
            dtype=dtype,
            on_bad_row=on_bad_row,
            total=total,
            show_progress=show_progress,
        )
        with reporting_full_disk(folder / MANIFEST_NAME, 0):
            write_manifest(folder, manifest)
    return report


def write_files(
    create: Create,
    rows: Iterable[BankRows],
    *,
    where: Path,
    encoder: EncoderInfo | None = None,
    preprocessing: Sequence[Step] = (),
    sample: Iterable[npt.ArrayLike] | None = None,
    dtype: Dtype = "auto",
    on_bad_row: OnBadRow = "raise",
    total: int | None = None,
    show_progress: bool = False,
) -> tuple[Manifest, BuildReport]:
    """Write the files of a bank but for its manifest, each opened by ``create``.

    See :func:`write_bank`; ``where`` is the bank's name, for messages.
    """
    if preprocessing and sample is None:
        if iter(rows) is rows:
            raise _read_only_once()
        sample = (block.vectors for block in rows)
    with contextlib.ExitStack() as stack:

        def opened(name: str) -> HashedFile:
            file = stack.enter_context(create(name))
            return stack.enter_context(HashedFile(file, where / name))

        fitted, learned = None, {}
        if preprocessing:
            drawn = draw_sample(
                sample or (), on_bad_row=on_bad_row, total=total, show_progress=show_progress
            )
            fitted, content = fit(preprocessing, drawn)
            file = opened(PREPROCESSING_NAME)
            file.write(content)
            learned[PREPROCESSING_NAME] = file.finish()
        vectors = NpyWriter(opened(VECTORS_NAME), expected_rows=total)
        owners = NpyWriter(opened(OWNERS_NAME), expected_rows=total)
        phrases = PhraseWriter(opened(PHRASES_NAME))
        check = RowCheck(on_bad_row, fitted)
        stored_as: StorageDtype | None = None
        with report_progress(
            "building the bank", unit="rows", total=total, enabled=show_progress
        ) as advance:
            for block in rows:
                usable = check.usable(block)
                if usable.texts:
                    stored_as = choose_dtype(dtype, usable.vectors.shape[1], total)
                    stored = stored_rows(usable.vectors, stored_as, rows=usable.rows)
                    owners.append(phrases.add(usable.texts, usable.metadata, usable.rows))
                    vectors.append(stored)
                advance(len(block.texts))
        if stored_as is None:
            raise BankBuildError.unexpected(
                None, "at least one row", "none", summary="there is nothing to build a bank from"
            )
        files = {
            VECTORS_NAME: vectors.finish(),
            OWNERS_NAME: owners.finish(),
            PHRASES_NAME: phrases.finish(),
            **learned,
        }
    num_vectors, dim = vectors.shape
    manifest = Manifest(
        format_version=FORMAT_VERSION if fitted is None else PREPROCESSED_VERSION,
        num_vectors=num_vectors,
        num_phrases=phrases.num_phrases,
        dim=dim,
        dtype=stored_as,
        metric="cosine",
        normalized=True,
        encoder=encoder,
        files=files,
        preprocessing=None if fitted is None else PreprocessingInfo(fitted.input_dim, fitted.steps),
    )
    report = BuildReport(
        num_rows=check.num_rows,
        num_phrases=manifest.num_phrases,
        num_vectors=num_vectors,
        dim=dim,
        dtype=stored_as,
        dropped=dict(check.dropped),
    )
    return manifest, report


def _read_only_once() -> BankBuildError:
    """Build the error for rows that are gone once the sample is drawn."""
    expected = "rows that can be iterated again, or sample="
    problem = "preprocessing needs the rows twice: to draw a sample, and to build"
    advice = "Give a list of blocks or an object with __iter__, or vectors to fit on in sample="
    return BankBuildError.unexpected(None, expected, "an iterator", summary=problem, advice=advice)
