"""`scripts/decode.py`: embeddings, or a sentence, into text."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from lightweight_decoder.decoder.answers import answer_table, write_answers
from lightweight_decoder.decoder.bank_encoder import encoder_of
from lightweight_decoder.errors import ConfigError
from lightweight_decoder.shell.budget import within_budget
from lightweight_decoder.shell.checking import check
from lightweight_decoder.shell.parts import (
    abstain_below,
    cache_dir_of,
    device_of,
    open_decoder,
    resolve,
)
from lightweight_decoder.vectors import open_embeddings

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from lightweight_decoder.accelerator import AcceleratorPlan

logger = logging.getLogger(__name__)


def decode(config: DictConfig) -> None:
    """Decode the sentence ``config.text``, or the embeddings ``config.input``.

    Raises:
        LightweightDecoderError: Anything that the configuration or the files it names have wrong.
    """
    check(config)
    if (config.text is None) == (config.input is None):
        raise ConfigError(
            "one thing to decode is needed",
            where="text, input",
            expected='either text="…" or input=FILE',
            found="both" if config.text is not None else "neither",
        )
    if config.input is not None and config.output is None:
        raise ConfigError("no value was given", where="output", advice="Add output=FILE.jsonl.")
    plan = resolve(config)
    with within_budget(config, plan, work="decoding"):
        _decode(config, plan)


def _decode(config: DictConfig, plan: AcceleratorPlan) -> None:
    """Decode what the configuration asks for."""
    decoder = open_decoder(config, plan, cached_queries=config.cached_queries)
    limits = {"top_k": config.top_k, "abstain_below": abstain_below(config, decoder)}
    if config.text is not None:
        text = str(config.text)
        encoder = encoder_of(decoder.bank, device=device_of(plan), cache_dir=cache_dir_of(config))
        decoded = decoder.decode_texts(text, encoder=encoder, **limits)
        Console().print(answer_table(decoded, title=text))
    else:
        output = Path(config.output)
        num_queries = write_answers(decoder, open_embeddings(config.input), output, **limits)
        logger.info("%s: %d queries", output, num_queries)
        if decoder.cache is not None:
            share = decoder.cache.stats.hit_rate
            logger.info("%.1f%% of the queries were answered from the cache", 100 * share)
