"""What ``max_memory_gb`` means for each command."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from lightweight_decoder.memory import GIB, memory_budget, require_memory
from lightweight_decoder.search.exact import BLOCKS_HELD, DEFAULT_BLOCK_BYTES, DEFAULT_COPY_BYTES

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

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
    """Hold the block to ``max_memory_gb``; see ``memory_budget``.

    Args:
        gib: The budget; None: no limit.
        work: What is done, a key of ``_ADVICE``.
        device: Torch's name of what it is done on.

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
    """Refuse a budget below what training keeps in any case, besides its data.

    Raises:
        MemoryBudgetError: It is.
    """
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
