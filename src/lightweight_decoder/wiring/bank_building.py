"""`scripts/build_bank.py`: texts, or texts with vectors, into a bank."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rich.console import Console
from rich.table import Table

from lightweight_decoder.bank import BankRows, BuildReport, EncoderInfo, write_bank
from lightweight_decoder.data.phrase_files import (
    TextStream,
    encoded_rows,
    open_texts,
    rows_of_embeddings,
    rows_with_vectors,
)
from lightweight_decoder.embeddings import open_embeddings
from lightweight_decoder.errors import ConfigError
from lightweight_decoder.wiring.checking import check
from lightweight_decoder.wiring.parts import build_encoder, resolve

if TYPE_CHECKING:
    from collections.abc import Iterator

    from omegaconf import DictConfig

logger = logging.getLogger(__name__)


class _Source(NamedTuple):
    """Rows for a bank, and what is known of them beforehand."""

    rows: Iterator[BankRows]
    num_rows: int | None
    dtype: str
    encoder: EncoderInfo | None = None


def build_bank(config: DictConfig) -> None:
    """Builds the bank ``config.output`` and prints what went into it.

    Raises:
        LightweightDecoderError: Anything that the configuration or the files it names have wrong.
    """
    check(config)
    source = _embeddings(config) if config.vectors is not None else _encoded(config)
    report = write_bank(
        config.output,
        source.rows,
        encoder=source.encoder,
        # float16 vectors lose nothing as they are, and would be twice the size for nothing
        dtype="float16" if (config.dtype, source.dtype) == ("auto", "float16") else config.dtype,
        overwrite=config.overwrite,
        interrupted="resume" if config.resume else "keep",
        on_bad_row=config.on_bad_row,
        total=source.num_rows,
        show_progress=True,
    )
    logger.info(
        "%s: %d phrases, %d vectors of width %d",
        config.output,
        report.num_phrases,
        report.num_vectors,
        report.dim,
    )
    Console().print(report_table(report))


def report_table(report: BuildReport) -> Table:
    """Returns the counts of a build, for a terminal."""
    table = Table("", "rows", min_width=60)
    table.columns[1].justify = "right"
    lines = {
        "rows in": report.num_rows,
        "phrases": report.num_phrases,
        f"vectors, {report.dtype}": report.num_vectors,
        "texts that came again": report.num_repeated,
        **{f"dropped: {reason}": count for reason, count in report.dropped.items()},
    }
    for name, count in lines.items():
        table.add_row(name, f"{count:,}")
    return table


def _embeddings(config: DictConfig) -> _Source:
    """Vectors of a file, with their own texts or those of another one."""
    reader = open_embeddings(Path(config.vectors))
    keep_unusable = config.on_bad_row == "drop"
    if config.input is None:
        rows, num_rows = rows_of_embeddings(reader, keep_unusable=keep_unusable), reader.num_rows
    else:
        texts = _texts(config)
        rows = rows_with_vectors(texts, reader, keep_unusable=keep_unusable)
        num_rows = texts.num_rows
    return _Source(rows, num_rows, reader.dtype)


def _encoded(config: DictConfig) -> _Source:
    """Texts, encoded here."""
    if config.input is None:
        raise ConfigError(
            "there is nothing to build from",
            where="input",
            expected="a file of texts, or null with vectors=FILE that has texts of its own",
            found="null",
        )
    texts = _texts(config)
    encoder = build_encoder(config, resolve(config))
    info = EncoderInfo(name=encoder.name, fingerprint=encoder.fingerprint)
    return _Source(encoded_rows(texts, encoder), texts.num_rows, "float32", info)


def _texts(config: DictConfig) -> TextStream:
    """The texts of ``config.input``."""
    return open_texts(
        Path(config.input),
        text_column=config.text_column,
        metadata_columns=list(config.metadata_columns),
        keep_unusable=config.on_bad_row == "drop",
    )
