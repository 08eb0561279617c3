"""Embeddings, or a sentence, into text."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from pydantic import Field
from rich.console import Console

from lightweight_decoder.accelerator import AcceleratorPlan
from lightweight_decoder.bank.placement import refuse_output_over
from lightweight_decoder.commands.arguments import Count, Gib, Share, command
from lightweight_decoder.commands.budget import within_budget
from lightweight_decoder.commands.devices import device_of, one_device
from lightweight_decoder.commands.opening import open_decoder, open_encoder, threshold
from lightweight_decoder.decoder.answers import answer_table, write_answers
from lightweight_decoder.decoder.bank_encoder import encoder_of
from lightweight_decoder.encoder import Encoder
from lightweight_decoder.errors import ConfigError
from lightweight_decoder.search import ExactSearch, SearchBackend
from lightweight_decoder.vectors import open_embeddings

logger = logging.getLogger(__name__)


@command
def decode_file(
    *,
    bank: Path | None = None,
    checkpoint: Path | None = None,
    text: str | None = None,
    input: Path | None = None,  # noqa: A002 - the key that people type
    output: Path | None = None,
    top_k: Count = 5,
    abstain_below: Annotated[float, Field(ge=0, le=1)] = 0.0,
    target_precision: Share | None = None,
    target_coverage: Share | None = None,
    cached_queries: Annotated[int, Field(ge=0)] = 0,
    cache: bool = True,
    max_memory_gb: Gib | None = None,
    search: Callable[..., SearchBackend] = ExactSearch,
    embeddings: Callable[..., Encoder] = encoder_of,
    accelerator: Callable[..., AcceleratorPlan] = one_device,
) -> int:
    """Decode a file of embeddings into JSON lines, or a sentence into a table on the terminal.

    Args:
        bank: Folder of a bank; needed without a checkpoint, or where the checkpoint's bank moved.
        checkpoint: A checkpoint of training or calibrating; None decodes by plain cosine search.
        text: A sentence to encode and decode.
        input: Embeddings in any supported format.
        output: JSON lines, one a query; see ``write_answers``.
        top_k: How many phrases to give for each query.
        abstain_below: Answer "no phrase" where the confidence is lower; needs a calibrated
            checkpoint.
        target_precision: Abstain so that this share of the answers is right, or
        target_coverage: so that this share of the queries is answered, as while calibrating.
        cached_queries: Keep the answers of so many of the last queries; pays where queries come
            again.
        cache: Keep the vector of an encoded sentence, for the next run.
        max_memory_gb: GiB that the work may hold above what the process holds at its start; None:
            no limit.
        search: Finds candidates; called with the bank, and the device where it takes one.
        embeddings: Encodes the sentence; called with the bank, the device, and a folder for its
            cache. By default it is the encoder that the bank names.
        accelerator: Decides what to decode on.

    Returns:
        How many queries were decoded.

    Raises:
        ConfigError: Arguments cannot be used, or not together.
        LightweightDecoderError: A file cannot be used, or the memory did not suffice.
    """
    if (text is None) == (input is None):
        raise ConfigError.unexpected(
            "text, input",
            'either text="…" or input=FILE',
            "neither" if text is None else "both",
            summary="one thing to decode is needed",
        )
    if input is not None and output is None:
        raise ConfigError("no value was given", where="output", advice="Add output=FILE.jsonl.")
    if input is not None and output is not None:
        refuse_output_over(output, filter(None, (input, checkpoint)))
    device = device_of(accelerator())
    with within_budget(max_memory_gb, work="decoding", device=device):
        decoder = open_decoder(
            bank,
            checkpoint,
            search=search,
            device=device,
            max_memory_gb=max_memory_gb,
            cached_queries=cached_queries,
        )
        below = threshold(
            decoder,
            abstain_below=abstain_below,
            target_precision=target_precision,
            target_coverage=target_coverage,
        )
        if text is not None:
            encoder = open_encoder(embeddings, bank=decoder.bank, device=device, cache=cache)
            decoded = decoder.decode_texts(text, encoder=encoder, top_k=top_k, abstain_below=below)
            Console().print(answer_table(decoded, title=text))
            return 1
        assert input is not None and output is not None  # noqa: S101, PT018 - checked above
        num_queries = write_answers(
            decoder, open_embeddings(input), output, top_k=top_k, abstain_below=below
        )
    logger.info("%s: %d queries", output, num_queries)
    if decoder.cache is not None:
        share = decoder.cache.stats.hit_rate
        logger.info("%.1f%% of the queries were answered from the cache", 100 * share)
    return num_queries
