"""The text encoder that a bank's vectors came from."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

from lightweight_decoder.encoder import EncoderPrecision, TextEncoder
from lightweight_decoder.errors import EncoderError

if TYPE_CHECKING:
    from pathlib import Path

    from lightweight_decoder.bank import PhraseBank


def encoder_of(
    bank: PhraseBank, *, device: str = "cpu", cache_dir: str | Path | None = "auto"
) -> TextEncoder:
    """Return the encoder that made a bank's vectors, the very same, in the precision it had.

    Args:
        bank: The bank.
        device: As of :class:`~lightweight_decoder.encoder.TextEncoder`.
        cache_dir: The same.

    Raises:
        EncoderError: The bank does not name one, or it is not to be found or has changed since.
    """
    info = bank.manifest.encoder
    if info is None:
        raise EncoderError(
            "the bank does not say which encoder made its vectors",
            where=bank.path,
            advice="Encode the text yourself and decode its vector",
        )
    found = []
    for precision in get_args(EncoderPrecision):
        encoder = TextEncoder(
            model=info.name, device=device, cache_dir=cache_dir, precision=precision
        )
        if encoder.fingerprint == info.fingerprint:
            return encoder
        found.append(f"{encoder.fingerprint[:12]} in {precision}")
    raise EncoderError(
        "the encoder is not the one that made the bank's vectors",
        where=info.name,
        expected=f"fingerprint {info.fingerprint[:12]}",
        found=", ".join(found),
        advice="Install the encoder that the bank was built with, or build the bank again",
    )
