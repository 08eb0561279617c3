"""The phrase bank on disk or in memory: build, open, verify."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lightweight_decoder.bank.builder import BuildReport, write_bank
from lightweight_decoder.bank.manifest import EncoderInfo, FileInfo, Manifest, PreprocessingInfo
from lightweight_decoder.bank.normalization import normalize_text
from lightweight_decoder.bank.phrase_bank import PhraseBank
from lightweight_decoder.bank.preprocessing_file import SAMPLE_ROWS
from lightweight_decoder.bank.rows import BankRows

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

__all__ = [
    "SAMPLE_ROWS",
    "BankRows",
    "BuildReport",
    "EncoderInfo",
    "FileInfo",
    "Manifest",
    "PhraseBank",
    "PreprocessingInfo",
    "build_bank",
    "normalize_text",
    "write_bank",
]


def build_bank(output: str | Path, rows: Iterable[BankRows], **options: Any) -> PhraseBank:  # noqa: ANN401, passed on
    """Build a phrase bank and open it; see :func:`write_bank` for arguments and errors."""
    write_bank(output, rows, **options)
    return PhraseBank.open(output)
