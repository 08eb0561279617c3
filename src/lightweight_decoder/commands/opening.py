"""What several commands are given: a decoder, an encoder, a threshold, a device, a budget."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from lightweight_decoder.accelerator import resolve_accelerator
from lightweight_decoder.accelerator.request import (
    Devices,  # noqa: TC001 - read at run time
    OnUnusable,  # noqa: TC001 - read at run time
)
from lightweight_decoder.bank import PhraseBank
from lightweight_decoder.commands.parts import changed_options, complete, target_of
from lightweight_decoder.decoder.bank_encoder import encoder_of
from lightweight_decoder.decoder.phrase_bank_decoder import PhraseBankDecoder
from lightweight_decoder.encoder import as_encoder
from lightweight_decoder.errors import ConfigError
from lightweight_decoder.memory import GIB, memory_budget, require_memory
from lightweight_decoder.search import ExactSearch
from lightweight_decoder.search.exact import BLOCKS_HELD, DEFAULT_BLOCK_BYTES, DEFAULT_COPY_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path

    from lightweight_decoder.accelerator import AcceleratorPlan
    from lightweight_decoder.encoder import Encoder
    from lightweight_decoder.search import SearchBackend
    from lightweight_decoder.training.module import DecoderModule


_LEAST_BYTES: Final = 32 * 2**20  # for the code of libraries that are imported late, and its data
_BYTES_OF_CANDIDATE: Final = 16  # its phrase and its vector, int64 each
_BYTES_OF_PARAMETER: Final = 16  # float32, with its gradient and AdamW's two averages
_ADVICE: Final = {
    "decoding": "lower top_k, or give the embeddings in a mapped format such as .npy",
    "building the bank": "give the texts in a text file and the vectors in a mapped one, as .npy",
    "training": "lower training.num_mined, training.num_listed, batches.batch_size or the data",
    "evaluating": "lower top_k",
    "calibrating": "give fewer queries",
}


def within_budget(
    gib: float | None, *, work: str, device: str = "cpu"
) -> AbstractContextManager[None]:
    """Hold the block to ``max_memory_gb``, None: no limit; see ``memory_budget``.

    ``work`` says what is done, a key of ``_ADVICE``.

    Raises:
        MemoryBudgetError: The budget is too small for any work.
    """
    limits: dict[str, Any] = {"gib": gib, "work": work, "advice": _ADVICE[work]}
    require_memory(needed={"the program itself": _LEAST_BYTES}, **limits)
    return memory_budget(device=device, **limits)


def search_sizes(gib: float | None, device: str) -> dict[str, int]:
    """Return sizes for exact search that leave half of a budget to all else, by size and speed.

    Empty without a budget and on a GPU, where the search knows best. The answers are the same.
    """
    if gib is None or device != "cpu":
        return {}
    quarter = round(gib * GIB / 4)  # one for blocks, one for the copy
    return {
        "max_block_bytes": min(quarter // BLOCKS_HELD, DEFAULT_BLOCK_BYTES),
        "max_copy_bytes": min(quarter, DEFAULT_COPY_BYTES),
    }


def require_for_training(gib: float | None, module: DecoderModule, *, num_queries: int) -> None:
    """Refuse a budget below what training keeps in any case, besides its data."""
    options = module.hparams
    num_mined = 0 if module.reranker is None else min(options["num_mined"], num_queries)
    num_listed = min(options["num_listed"], module.decoder.bank.num_phrases)
    num_parameters = sum(parameter.numel() for parameter in module.parameters())
    require_memory(
        gib,
        {
            f"{num_mined} x {num_listed} mined candidates": (
                num_mined * num_listed * _BYTES_OF_CANDIDATE
            ),
            f"{num_parameters} parameters": num_parameters * _BYTES_OF_PARAMETER,
        },
        work="training",
        advice=_ADVICE["training"],
    )


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

    The bank is where it was when the checkpoint was written, if it is None. ``search`` makes the
    search, out of the bank and perhaps the device, and has to get along with half of
    ``max_memory_gb``.

    Raises:
        ConfigError: Neither bank nor checkpoint is given.
        CheckpointError, BankError: One of them cannot be used.
    """

    def made(opened: PhraseBank) -> SearchBackend | None:
        return completed_search(search, opened, device=device, max_memory_gb=max_memory_gb)

    options: dict[str, Any] = {"device": device, "cached_queries": cached_queries}
    if checkpoint is not None:
        return PhraseBankDecoder.from_checkpoint(checkpoint, bank=bank, search=made, **options)
    if bank is None:
        expected, problem = "bank=DIR or checkpoint=CKPT", "there is nothing to decode with"
        raise ConfigError.unexpected("bank, checkpoint", expected, "neither", summary=problem)
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
    embeddings: Callable[..., Encoder], *, device: str, cache: bool, bank: PhraseBank | None = None
) -> Encoder:
    """Return an encoder, with as much of a device, a cache and a bank as it wants to know.

    Without a bank it is to build one; ``cache`` says whether vectors are kept for this user.

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
        advice = "Train one, or calibrate it: lightweight-decoder calibrate."
        raise ConfigError("needs a calibrated decoder", where=next(iter(given)), advice=advice)
    if points is not None and target_precision is not None:
        return points.for_precision(target_precision)
    if points is not None and target_coverage is not None:
        return points.for_coverage(target_coverage)
    return abstain_below


def one_device(
    accelerator: str = "auto",
    devices: Devices = 1,
    *,
    on_unusable: OnUnusable = "auto",
    cache: bool = True,
) -> AcceleratorPlan:
    """Resolve a device to decode or encode on; all arguments as of ``resolve_accelerator``.

    Args:
        accelerator: ``"auto"``, ``"cpu"``, ``"gpu"``, ``"cuda"``, ``"rocm"`` or ``"mps"``.
        devices: Which to look at; the first that works is used.
        on_unusable: What to do where it cannot be used: ``"auto"``, ``"fallback"``, ``"raise"`` or
            ``"force"``.
        cache: Whether a verdict of an earlier run may be used and this one kept.
    """
    return resolve_accelerator(accelerator, devices, on_unusable=on_unusable, cache=cache)


def device_of(plan: AcceleratorPlan) -> str:
    """Return torch's name of the plan's first device."""
    if plan.accelerator == "cuda" and isinstance(plan.devices, list):
        return f"cuda:{plan.devices[0]}"
    return plan.accelerator
