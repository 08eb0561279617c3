"""The text encoder that a bank's vectors came from."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING

from lightweight_decoder.encoder import Encoder, EncoderPrecision, EncoderSettings, TextEncoder
from lightweight_decoder.encoder.model_files import locate_model, locate_model_of_bank, read_facts
from lightweight_decoder.encoder.prompts import PLACE, prompts_of_model
from lightweight_decoder.errors import EncoderError

if TYPE_CHECKING:
    from pathlib import Path

    from lightweight_decoder.bank import EncoderInfo, PhraseBank
    from lightweight_decoder.encoder import EncodesBothSides

_log = logging.getLogger(__name__)

_PRECISIONS_OF_0_1: tuple[EncoderPrecision, ...] = ("float32", "bfloat16")

_OWN_CODE = r"[\w.]+:[\w.<>]+"
"""What CustomEncoder is called: module and function, or module and class."""


def encoder_of(
    bank: PhraseBank,
    *,
    model: str | None = None,
    device: str = "cpu",
    cache_dir: str | Path | None = "auto",
) -> TextEncoder:
    """Return the encoder that made a bank's vectors, the very same, with all that it did.

    Args:
        bank: The bank.
        model: Where the model is now, as of :class:`~lightweight_decoder.encoder.TextEncoder`;
            None: where the bank says, as far as a bank may; see
            :func:`~lightweight_decoder.encoder.model_files.locate_model_of_bank`.
        device: As of ``TextEncoder``.
        cache_dir: The same.

    Raises:
        EncoderError: The bank names no encoder, or it is not to be found, may not be loaded because
            a bank says so, or has changed since.
    """
    info = bank.manifest.encoder
    if info is None:
        problem = "the bank does not say which encoder made its vectors"
        advice = "Encode the text yourself and decode its vector"
        raise EncoderError(problem, where=bank.path, advice=advice)
    if model is None and re.fullmatch(_OWN_CODE, info.name):
        raise EncoderError(
            "the bank's vectors are of an encoder of one's own, which no bank can load",
            where=bank.path,
            found=info.name,
            advice=(
                f"If you trust it, say embeddings=custom embeddings.factory={info.name}, or "
                "decode_texts(…, encoder=ENCODER)"
            ),
        )
    if model is None:
        folder = locate_model_of_bank(info.name, info.fingerprint, bank=bank.path)
    else:
        folder = locate_model(model)
    name, found = model or info.name, []
    for done in _known_settings(info, name, folder):
        encoder = TextEncoder(
            model=name,
            device=device,
            cache_dir=cache_dir,
            query_prompt=done.query_prompt,
            phrase_prompt=done.phrase_prompt,
            truncate_dim=done.truncate_dim,
            normalize=done.normalize,
            precision=done.precision,
        )
        encoder.identity.folder = folder
        if encoder.fingerprint == info.fingerprint:
            return encoder
        found.append(f"{encoder.fingerprint[:12]} in {done.precision}")
    raise EncoderError.unexpected(
        name,
        f"fingerprint {info.fingerprint[:12]}",
        ", ".join(found),
        summary="the encoder is not the one that made the bank's vectors",
        advice="Install the encoder that the bank was built with, say where it is with "
        "embeddings.model=MODEL, or build the bank again",
    )


def warn_of_another_encoder(bank: PhraseBank, encoder: EncodesBothSides) -> None:
    """Warn where an encoder is not the one that a bank names, as far as both say who they are."""
    info = bank.manifest.encoder
    if info is None or not isinstance(encoder, Encoder) or encoder.fingerprint == info.fingerprint:
        return
    _log.warning(
        "the bank's vectors were made by %s (fingerprint %s), texts are now encoded by %s (%s)",
        info.name,
        info.fingerprint[:12],
        encoder.name,
        encoder.fingerprint[:12],
    )


def _known_settings(info: EncoderInfo, name: str, folder: Path) -> list[EncoderSettings]:
    """Return what the encoder may have done when the bank was built, one of which it did.

    A bank of version 0.1 says nothing: both sides were encoded with what the model puts before any
    text, in a precision that only the fingerprint tells.
    """
    if info.settings is not None:
        return [info.settings]
    facts = read_facts(folder)
    untouched = facts.default_prompt + PLACE
    if {*prompts_of_model(name, facts)[:2]} != {untouched}:
        _log.warning(
            "%s: the bank was built without the prompts of this model, and is asked without them; "
            "build it again to use them",
            name,
        )
    return [
        EncoderSettings(
            query_prompt=untouched,
            phrase_prompt=untouched,
            truncate_dim=None,
            normalize=True,
            routed=False,
            precision=precision,
        )
        for precision in _PRECISIONS_OF_0_1
    ]
