"""What ``max_memory_gb`` means for each command."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from lightweight_decoder.memory import memory_budget, require_memory
from lightweight_decoder.shell.parts import device_of

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from omegaconf import DictConfig

    from lightweight_decoder.accelerator import AcceleratorPlan
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
    config: DictConfig, plan: AcceleratorPlan | None, *, work: str
) -> AbstractContextManager[None]:
    """Hold the block to ``config.max_memory_gb``; see ``memory_budget``.

    Args:
        config: A command's configuration.
        plan: What the work runs on; None: nothing but the CPU.
        work: What it is, a key of ``_ADVICE``.

    Raises:
        MemoryBudgetError: The budget is too small for any work.
    """
    limits = {"gib": config.max_memory_gb, "work": work, "advice": _ADVICE[work]}
    require_memory(needed={"the program itself": _LEAST_BYTES}, **limits)
    return memory_budget(device="cpu" if plan is None else device_of(plan), **limits)


def require_for_training(config: DictConfig, module: DecoderModule, *, num_queries: int) -> None:
    """Refuses a budget below what training keeps in any case, besides its data.

    Raises:
        MemoryBudgetError: It is.
    """
    options = module.hparams
    num_mined = 0 if module.reranker is None else min(options["num_mined"], num_queries)
    num_listed = min(options["num_listed"], module.decoder.bank.num_phrases)
    num_parameters = sum(parameter.numel() for parameter in module.parameters())
    require_memory(
        config.max_memory_gb,
        {
            f"{num_mined} x {num_listed} mined candidates": (
                num_mined * num_listed * _BYTES_OF_CANDIDATE
            ),
            f"{num_parameters} parameters": num_parameters * _BYTES_OF_PARAMETER,
        },
        work="training",
        advice=_ADVICE["training"],
    )
