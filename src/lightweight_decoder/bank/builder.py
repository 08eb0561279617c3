"""Builds a phrase bank from a stream of texts and vectors, in bounded memory."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from lightweight_decoder.bank.arrays import NpyWriter
from lightweight_decoder.bank.journal import JOURNAL_NAME, keeping_journal, read_journal
from lightweight_decoder.bank.manifest import (
    FORMAT_VERSION,
    MANIFEST_NAME,
    OWNERS_NAME,
    PHRASES_NAME,
    PREPROCESSED_VERSION,
    PREPROCESSING_NAME,
    VECTORS_NAME,
    EncoderInfo,
    FileInfo,
    Manifest,
    PreprocessingInfo,
    StorageDtype,
    write_manifest,
)
from lightweight_decoder.bank.output_file import OutputFile, reporting_full_disk
from lightweight_decoder.bank.phrase_bank import PhraseBank
from lightweight_decoder.bank.phrase_writer import PhraseWriter
from lightweight_decoder.bank.placement import Interrupted, placed_when_finished
from lightweight_decoder.bank.preprocessing_file import file_info, fit_or_resume
from lightweight_decoder.bank.report import BuildReport
from lightweight_decoder.bank.rows import (
    BankRows,
    OnBadRow,
    RowCheck,
    UsableRows,
    choose_dtype,
    stored_rows,
)
from lightweight_decoder.bank.sampling import draw_sample
from lightweight_decoder.errors import BankBuildError
from lightweight_decoder.progress import report_progress

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from types import TracebackType

    import numpy as np
    import numpy.typing as npt

    from lightweight_decoder.vectors.preprocessing import Preprocessing, Step


def build_bank(
    output: str | Path,
    rows: Iterable[BankRows],
    *,
    encoder: EncoderInfo | None = None,
    preprocessing: Sequence[Step] = (),
    sample: Iterable[npt.NDArray[np.generic]] | None = None,
    dtype: Literal["auto", "float32", "float16"] = "auto",
    overwrite: bool = False,
    total: int | None = None,
    show_progress: bool = False,
) -> PhraseBank:
    """Build a phrase bank and open it; see :func:`write_bank` for arguments and errors.

    An interrupted build leaves nothing.
    """
    write_bank(
        output,
        rows,
        encoder=encoder,
        preprocessing=preprocessing,
        sample=sample,
        dtype=dtype,
        overwrite=overwrite,
        total=total,
        show_progress=show_progress,
    )
    return PhraseBank.open(output)


def write_bank(
    output: str | Path,
    rows: Iterable[BankRows],
    *,
    encoder: EncoderInfo | None = None,
    preprocessing: Sequence[Step] = (),
    sample: Iterable[npt.NDArray[np.generic]] | None = None,
    dtype: Literal["auto", "float32", "float16"] = "auto",
    overwrite: bool = False,
    interrupted: Interrupted = "discard",
    on_bad_row: OnBadRow = "raise",
    total: int | None = None,
    show_progress: bool = False,
) -> BuildReport:
    """Build a phrase bank.

    Texts are compared in Unicode NFC with white space collapsed; phrases are numbered in the order
    of their first appearance. Vectors go through ``preprocessing``, are scaled to unit length in
    float32, then stored as ``dtype``. Memory: one block of rows, and about 30 bytes for each
    distinct text; while preprocessing is fitted, two samples. Everything is
    written to a temporary sibling of ``output`` and renamed at the end, so ``output`` is either
    complete or as it was before, whatever happens. The same rows give the same files, byte for
    byte, whatever the blocks they come in and however often the build was interrupted.

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
        interrupted: What happens with an unfinished build of ``output``: ``"discard"`` it,
            ``"keep"`` it for a later call when Ctrl-C or a kill ends this one, or ``"resume"`` the
            one that was kept. To resume, give the same rows from their start: those that are on the
            disk already are compared with it instead of written.
        on_bad_row: Whether a vector without direction, or a text without anything in it, is an
            error or is dropped and counted.
        total: How many rows will come, where known.
        show_progress: Show rows, rows/s and the time left.

    Returns:
        What came in and what was written.

    Raises:
        BankBuildError: If a row cannot be used (NaN, infinite or all-zero vector, another width,
            empty text, other counts of texts and vectors, nothing left by preprocessing: the
            message has the row's number, from 0), if ``rows`` cannot be read twice and must be, if
            there are no rows, if ``output`` exists or cannot be written, or if the disk is full.
            Nothing is left then.
        ResumeError: If the build to resume was of other rows or had other preprocessing; it is left
            as it was.
        ConfigError: If a step of the preprocessing does not go with the sample.
    """
    if preprocessing and sample is None:
        if iter(rows) is rows:
            raise _read_only_once(output)
        sample = (block.vectors for block in rows)
    with placed_when_finished(
        Path(output).absolute(), overwrite=overwrite, interrupted=interrupted
    ) as folder:
        fitted = fit_or_resume(
            folder,
            preprocessing,
            lambda: draw_sample(
                sample or (), on_bad_row=on_bad_row, total=total, show_progress=show_progress
            ),
        )
        check = RowCheck(on_bad_row, fitted)
        with contextlib.ExitStack() as stack:
            files = stack.enter_context(_BankFiles(folder, expected_rows=total))
            if interrupted != "discard":
                stack.enter_context(keeping_journal(folder, files.by_name))
            advance = stack.enter_context(
                report_progress(
                    "building the bank", unit="rows", total=total, enabled=show_progress
                )
            )
            for block in rows:
                usable = check.usable(block)
                if usable.texts:
                    files.append(usable, choose_dtype(dtype, usable.vectors.shape[1], total))
                advance(len(block.texts))
            manifest = files.finish(encoder, fitted, output)
        with reporting_full_disk(folder / MANIFEST_NAME, 0):
            write_manifest(folder, manifest)
            (folder / JOURNAL_NAME).unlink(missing_ok=True)
    return BuildReport(
        num_rows=check.num_rows,
        num_phrases=manifest.num_phrases,
        num_vectors=manifest.num_vectors,
        dim=manifest.dim,
        dtype=manifest.dtype,
        dropped=dict(check.dropped),
    )


class _BankFiles:
    """The three files of a bank that are written as streams."""

    def __init__(self, folder: Path, *, expected_rows: int | None) -> None:
        self._folder = folder
        kept = read_journal(folder)
        with contextlib.ExitStack() as stack:
            self._vectors, self._owners = (
                stack.enter_context(
                    contextlib.closing(
                        NpyWriter(folder / name, expected_rows=expected_rows, kept_bytes=kept[name])
                    )
                )
                for name in (VECTORS_NAME, OWNERS_NAME)
            )
            self._phrases = stack.enter_context(
                contextlib.closing(
                    PhraseWriter(folder / PHRASES_NAME, kept_bytes=kept[PHRASES_NAME])
                )
            )
            self._opened = stack.pop_all()
        self._dtype: StorageDtype | None = None
        self._num_vectors, self._dim = 0, 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._opened.close()

    @property
    def by_name(self) -> dict[str, OutputFile]:
        """The files themselves."""
        return {
            VECTORS_NAME: self._vectors.file,
            OWNERS_NAME: self._owners.file,
            PHRASES_NAME: self._phrases.file,
        }

    def append(self, rows: UsableRows, dtype: StorageDtype) -> None:
        """Write rows behind those already there."""
        vectors = stored_rows(rows.vectors, dtype, rows=rows.rows)
        self._owners.append(self._phrases.add(rows.texts, rows.metadata, rows.rows))
        self._vectors.append(vectors)
        self._num_vectors += len(vectors)
        self._dtype, self._dim = dtype, vectors.shape[1]

    def finish(
        self, encoder: EncoderInfo | None, fitted: Preprocessing | None, output: str | Path
    ) -> Manifest:
        """Complete the files and return the manifest that describes them."""
        if self._dtype is None:
            raise BankBuildError(
                "there is nothing to build a bank from",
                where=output,
                expected="at least one row",
                found="none",
            )
        files: dict[str, FileInfo] = {
            VECTORS_NAME: self._vectors.finish(),
            OWNERS_NAME: self._owners.finish(),
            PHRASES_NAME: self._phrases.finish(),
        }
        preprocessing = None
        if fitted is not None:
            preprocessing = PreprocessingInfo(fitted.input_dim, fitted.steps)
            files[PREPROCESSING_NAME] = file_info(self._folder / PREPROCESSING_NAME)
        return Manifest(
            format_version=FORMAT_VERSION if fitted is None else PREPROCESSED_VERSION,
            num_vectors=self._num_vectors,
            num_phrases=self._phrases.num_phrases,
            dim=self._dim,
            dtype=self._dtype,
            metric="cosine",
            normalized=True,
            encoder=encoder,
            files=files,
            preprocessing=preprocessing,
        )


def _read_only_once(output: str | Path) -> BankBuildError:
    """Build the error for rows that are gone once the sample is drawn."""
    return BankBuildError(
        "preprocessing needs the rows twice: to draw a sample, and to build",
        where=output,
        expected="rows that can be iterated again, or sample=",
        found="an iterator",
        advice="Give a list of blocks or an object with __iter__, or vectors to fit on in sample=",
    )
