"""The parts that several commands build."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from lightweight_decoder.bank import PhraseBank
from lightweight_decoder.decoder.phrase_bank_decoder import PhraseBankDecoder
from lightweight_decoder.errors import ConfigError
from lightweight_decoder.memory import GIB
from lightweight_decoder.search import ExactSearch
from lightweight_decoder.search.exact import BLOCKS_HELD, DEFAULT_BLOCK_BYTES, DEFAULT_COPY_BYTES
from lightweight_decoder.shell.plain import plain
from lightweight_decoder.shell.schemas import PLANNED, build, find_target, takes

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from lightweight_decoder.accelerator import AcceleratorPlan
    from lightweight_decoder.encoder import TextEncoder
    from lightweight_decoder.search import SearchBackend
    from lightweight_decoder.training.sources.datamodule import DecoderDataModule


def resolve(config: DictConfig) -> AcceleratorPlan:
    """Return the accelerator that works, out of what ``config.trainer`` asks for."""
    asked = {key: value for key, value in plain(config.trainer).items() if key in PLANNED}
    return cast("AcceleratorPlan", build(config.accelerator, **asked))


def device_of(plan: AcceleratorPlan) -> str:
    """Torch's name for the plan's first device."""
    if plan.accelerator == "cuda" and isinstance(plan.devices, list):
        return f"cuda:{plan.devices[0]}"
    return plan.accelerator


def build_encoder(config: DictConfig, plan: AcceleratorPlan) -> TextEncoder:
    """Return the configured text encoder on the device that works, with the cache of this user."""
    cache_dir = cache_dir_of(config)
    return cast(
        "TextEncoder", build(config.embeddings, device=device_of(plan), cache_dir=cache_dir)
    )


def cache_dir_of(config: DictConfig) -> str | None:
    """Return where vectors of texts are kept, as ``TextEncoder`` takes it."""
    return "auto" if config.cache else None


def build_datamodule(config: DictConfig, plan: AcceleratorPlan) -> DecoderDataModule:
    """Return the configured source, with its bank built, in batches."""
    encoder = {"encoder": build_encoder(config, plan)} if takes(config.data, "encoder") else {}
    source = build(config.data, **encoder)
    datamodule = cast("DecoderDataModule", build(config.batches, source=source, seed=config.seed))
    datamodule.prepare_data()
    return datamodule


def build_search(
    config: DictConfig, bank: PhraseBank, plan: AcceleratorPlan
) -> SearchBackend | None:
    """Return the configured search; None for exact search, which the decoder makes itself."""
    if "search" not in config or find_target(config.search["_target_"]) is ExactSearch:
        return exact_search(bank, config.max_memory_gb, plan)
    device = {"device": device_of(plan)} if takes(config.search, "device") else {}
    return cast("SearchBackend", build(config.search, bank=bank, **device))


def exact_search(
    bank: PhraseBank, max_memory_gb: float | None, plan: AcceleratorPlan
) -> ExactSearch | None:
    """Exact search in blocks that leave half of a memory budget to all else, by size and speed.

    None where the decoder makes its own: without a budget, or on a GPU. The answers are the same.
    """
    if max_memory_gb is None or device_of(plan) != "cpu":
        return None
    quarter = round(max_memory_gb * GIB / 4)  # one for blocks, one for the copy
    return ExactSearch(
        bank,
        max_block_bytes=min(quarter // BLOCKS_HELD, DEFAULT_BLOCK_BYTES),
        max_copy_bytes=min(quarter, DEFAULT_COPY_BYTES),
    )


def open_decoder(
    config: DictConfig, plan: AcceleratorPlan, *, cached_queries: int = 0
) -> PhraseBankDecoder:
    """Return the decoder of ``config.checkpoint``, or plain search in ``config.bank``.

    Raises:
        ConfigError: Neither is given.
        CheckpointError: The checkpoint cannot be used.
        BankError: The bank cannot be used.
    """
    if config.checkpoint is not None:
        return PhraseBankDecoder.from_checkpoint(
            config.checkpoint,
            bank=config.bank,
            search=lambda bank: build_search(config, bank, plan),
            device=device_of(plan),
            cached_queries=cached_queries,
        )
    if config.bank is None:
        raise ConfigError(
            "there is nothing to decode with",
            where="bank, checkpoint",
            expected="bank=DIR or checkpoint=CKPT",
            found="neither",
        )
    bank = PhraseBank.open(config.bank)
    return PhraseBankDecoder(
        bank,
        search=build_search(config, bank, plan),
        device=device_of(plan),
        cached_queries=cached_queries,
    )


def abstain_below(config: DictConfig, decoder: PhraseBankDecoder) -> float:
    """Return the confidence below which to abstain, by any of the three keys that can say so.

    Raises:
        ConfigError: More than one is given, the decoder is not calibrated, or no threshold reached
            the wanted precision.
    """
    asked = {
        "abstain_below": config.abstain_below or None,
        "target_precision": config.target_precision,
        "target_coverage": config.target_coverage,
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
    if points is not None and config.target_precision is not None:
        return points.for_precision(config.target_precision)
    if points is not None and config.target_coverage is not None:
        return points.for_coverage(config.target_coverage)
    return float(config.abstain_below)
