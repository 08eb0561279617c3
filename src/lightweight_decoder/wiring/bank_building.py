"""`scripts/build_bank.py`: texts, or texts with vectors, into a bank."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from lightweight_decoder.bank import EncoderInfo
from lightweight_decoder.bank import build_bank as write_bank
from lightweight_decoder.data.phrase_files import encoded_rows, read_texts, rows_with_vectors
from lightweight_decoder.wiring.checking import check
from lightweight_decoder.wiring.parts import build_encoder, resolve

if TYPE_CHECKING:
    from omegaconf import DictConfig

logger = logging.getLogger(__name__)


def build_bank(config: DictConfig) -> None:
    """Builds the bank ``config.output`` from the texts of ``config.input``, and says what it holds.

    Raises:
        LightweightDecoderError: Anything that the configuration or the files it names have wrong.
    """
    check(config)
    path = Path(config.input)
    texts, metadata = read_texts(
        path, text_column=config.text_column, metadata_columns=list(config.metadata_columns)
    )
    if config.vectors is None:
        encoder = build_encoder(config, resolve(config))
        info = EncoderInfo(name=encoder.name, fingerprint=encoder.fingerprint)
        rows = encoded_rows(texts, metadata, encoder)
    else:
        info, vectors = None, Path(config.vectors)
        rows = rows_with_vectors(texts, metadata, vectors, texts_path=path)
    bank = write_bank(
        config.output,
        rows,
        encoder=info,
        dtype=config.dtype,
        overwrite=config.overwrite,
        total=len(texts),
        show_progress=True,
    )
    logger.info(
        "%s: %d phrases, %d vectors of width %d",
        bank.path,
        bank.num_phrases,
        bank.num_vectors,
        bank.dim,
    )
