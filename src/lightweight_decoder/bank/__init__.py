"""The phrase bank on disk or in memory: build, open, verify."""

from lightweight_decoder.bank.builder import BuildReport, write_bank
from lightweight_decoder.bank.manifest import EncoderInfo, FileInfo, Manifest, PreprocessingInfo
from lightweight_decoder.bank.phrase_bank import PhraseBank
from lightweight_decoder.bank.phrases import normalize_text
from lightweight_decoder.bank.placement import refuse_output_over
from lightweight_decoder.bank.preprocessing_file import SAMPLE_ROWS
from lightweight_decoder.bank.rows import BankRows
from lightweight_decoder.bank.verification import verify_bank

__all__ = [
    "SAMPLE_ROWS",
    "BankRows",
    "BuildReport",
    "EncoderInfo",
    "FileInfo",
    "Manifest",
    "PhraseBank",
    "PreprocessingInfo",
    "normalize_text",
    "refuse_output_over",
    "verify_bank",
    "write_bank",
]
