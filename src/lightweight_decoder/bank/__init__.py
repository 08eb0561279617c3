"""The phrase bank on disk: build, open, verify."""

from lightweight_decoder.bank.builder import BankRows, build_bank
from lightweight_decoder.bank.manifest import EncoderInfo, FileInfo, Manifest
from lightweight_decoder.bank.normalization import normalize_text, unit_rows
from lightweight_decoder.bank.phrase_bank import PhraseBank

__all__ = [
    "BankRows",
    "EncoderInfo",
    "FileInfo",
    "Manifest",
    "PhraseBank",
    "build_bank",
    "normalize_text",
    "unit_rows",
]
