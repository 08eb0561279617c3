"""The phrase bank on disk: build, open, verify."""

from lightweight_decoder.bank.builder import build_bank, write_bank
from lightweight_decoder.bank.manifest import EncoderInfo, FileInfo, Manifest, PreprocessingInfo
from lightweight_decoder.bank.normalization import normalize_text, unit_rows
from lightweight_decoder.bank.phrase_bank import PhraseBank
from lightweight_decoder.bank.report import BuildReport
from lightweight_decoder.bank.rows import BankRows
from lightweight_decoder.bank.sampling import SAMPLE_ROWS

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
    "unit_rows",
    "write_bank",
]
