"""The decoder, the encoder and the threshold that a command's arguments ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lightweight_decoder.bank import PhraseBank
from lightweight_decoder.commands.budget import search_sizes
from lightweight_decoder.commands.parts import changed_options, complete, target_of
from lightweight_decoder.decoder.bank_encoder import encoder_of
from lightweight_decoder.decoder.phrase_bank_decoder import PhraseBankDecoder
from lightweight_decoder.encoder import as_encoder
from lightweight_decoder.errors import ConfigError
from lightweight_decoder.search import ExactSearch

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from lightweight_decoder.encoder import Encoder
    from lightweight_decoder.search import SearchBackend


def open_decoder(
    bank: Path | None,
    checkpoint: Path | None,
    *,
    search: Callable[..., SearchBackend],
    device: str,
    max_memory_gb: float | None = None,
    cached_queries: int = 0,
) -> PhraseBankDecoder:
    """Return the decoder of a checkpoint, or plain search in a bank.

    Args:
        bank: Folder of the bank; None: where it was when the checkpoint was written.
        checkpoint: Written by training or calibrating; None: plain search.
        search: Makes the search, out of the bank and perhaps ``device``.
        device: Torch's name of what to compute on.
        max_memory_gb: GiB that the search has to get along with half of.
        cached_queries: As of ``PhraseBankDecoder``.

    Raises:
        ConfigError: Neither bank nor checkpoint is given.
        CheckpointError: The checkpoint cannot be used.
        BankError: The bank cannot be used.
    """

    def made(opened: PhraseBank) -> SearchBackend | None:
        return completed_search(search, opened, device=device, max_memory_gb=max_memory_gb)

    options: dict[str, Any] = {"device": device, "cached_queries": cached_queries}
    if checkpoint is not None:
        return PhraseBankDecoder.from_checkpoint(checkpoint, bank=bank, search=made, **options)
    if bank is None:
        raise ConfigError.unexpected(
            "bank, checkpoint",
            "bank=DIR or checkpoint=CKPT",
            "neither",
            summary="there is nothing to decode with",
        )
    opened = PhraseBank.open(bank)
    return PhraseBankDecoder(opened, search=made(opened), **options)


def completed_search(
    search: Callable[..., SearchBackend],
    bank: PhraseBank,
    *,
    device: str,
    max_memory_gb: float | None,
) -> SearchBackend | None:
    """Return the search in a bank, on a device and within a budget, as far as it has a choice.

    None for plain exact search, which the decoder makes itself wherever it is moved to.
    """
    sizes = search_sizes(max_memory_gb, device)
    if target_of(search) is ExactSearch and not sizes:
        return None
    made: SearchBackend = complete(search, bank, device=device, **sizes)
    return made


def open_encoder(
    embeddings: Callable[..., Encoder],
    *,
    device: str,
    cache: bool,
    bank: PhraseBank | None = None,
) -> Encoder:
    """Return an encoder, with as much of a device, a cache and a bank as it wants to know.

    Args:
        embeddings: Makes it.
        device: Where its model runs.
        cache: Whether vectors are kept in the cache of this user.
        bank: The bank whose encoder it is; None: it is to build one.

    Raises:
        ConfigError: It is the encoder of a bank, where there is none yet.
    """
    if bank is None and target_of(embeddings) is encoder_of:
        raise ConfigError.unexpected(
            "embeddings", "an encoder to build a bank with: minilm or custom", "that of a bank"
        )
    cache_dir = "auto" if cache else None
    return as_encoder(complete(embeddings, bank=bank, device=device, cache_dir=cache_dir))


def refuse_encoder_options(
    embeddings: Callable[..., Encoder], default: Callable[..., Encoder], *, because: str
) -> None:
    """Refuse what was said of an encoder where no text is encoded.

    Args:
        embeddings: The encoder.
        default: The one of the command.
        because: What has vectors instead.

    Raises:
        ConfigError: It is not the default.
    """
    changed = changed_options(embeddings, default)
    if changed or target_of(embeddings) is not target_of(default):
        name, value = next(iter(changed.items()), (None, target_of(embeddings).__name__))
        raise ConfigError.unexpected(
            f"embeddings.{name}" if name else "embeddings",
            f"no encoder, as {because}",
            repr(value),
            summary="no text is encoded",
        )


def threshold(
    decoder: PhraseBankDecoder,
    *,
    abstain_below: float,
    target_precision: float | None,
    target_coverage: float | None,
) -> float:
    """Return the confidence below which to abstain, by any of the three that can say so.

    Raises:
        ConfigError: More than one is given, the decoder is not calibrated, or no threshold reached
            the wanted precision.
    """
    asked = {
        "abstain_below": abstain_below or None,
        "target_precision": target_precision,
        "target_coverage": target_coverage,
    }
    given = {key: value for key, value in asked.items() if value is not None}
    if len(given) > 1:
        raise ConfigError("only one of these can be given", where=", ".join(given))
    points = None if decoder.calibration is None else decoder.calibration.operating_points
    if given and points is None:
        raise ConfigError(
            "needs a calibrated decoder",
            where=next(iter(given)),
            advice="Train one, or calibrate with scripts/calibrate.py.",
        )
    if points is not None and target_precision is not None:
        return points.for_precision(target_precision)
    if points is not None and target_coverage is not None:
        return points.for_coverage(target_coverage)
    return abstain_below
