"""Embeddings, texts or a sentence into phrases of a bank."""

from __future__ import annotations

import json
import logging
import shutil
import sys
import tempfile
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

from pydantic import Field
from rich.console import Console
from rich.table import Table

from lightweight_decoder.accelerator import AcceleratorPlan
from lightweight_decoder.bank.placement import refuse_output_over
from lightweight_decoder.commands.arguments import Count, Gib, Share, command
from lightweight_decoder.commands.opening import (
    device_of,
    one_device,
    open_decoder,
    open_encoder,
    refuse_encoder_options,
    threshold,
    within_budget,
)
from lightweight_decoder.datatypes import NO_ID
from lightweight_decoder.decoder.bank_encoder import encoder_of
from lightweight_decoder.display import cell
from lightweight_decoder.encoder import Encoder
from lightweight_decoder.errors import ConfigError
from lightweight_decoder.files import whole_file
from lightweight_decoder.progress import report_progress
from lightweight_decoder.search import ExactSearch, SearchBackend
from lightweight_decoder.vectors import open_embeddings
from lightweight_decoder.vectors.text_tables import stream_columns

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from lightweight_decoder.datatypes import Decoded


logger = logging.getLogger(__name__)


STANDARD_STREAM = Path("-")
"""Stands for standard input or output, as in other programs."""


@command
def decode_file(
    *,
    bank: Path | None = None,
    checkpoint: Path | None = None,
    text: str | None = None,
    texts: Path | None = None,
    text_column: str | None = None,
    input: Path | None = None,  # noqa: A002 - the key that people type
    key: str | None = None,
    vector_column: str | None = None,
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
    """Decode a file of embeddings or texts into JSON lines, or a sentence into a table to read.

    >>> from functools import partial
    >>> from lightweight_decoder import resolve_accelerator
    >>> from lightweight_decoder.commands.decode import decode_file
    >>> on_cpu = partial(resolve_accelerator, "cpu")
    >>> decode_file(
    ...     bank="DIR", input="emb.npy", output="o.jsonl", top_k=5, accelerator=on_cpu
    ... )  # doctest: +SKIP

    Args:
        bank: Folder of a bank; needed without a checkpoint, or where the checkpoint's bank moved.
        checkpoint: A checkpoint of training or calibrating; None decodes by plain cosine search.
        text: A sentence to encode and decode; without ``output`` its answers are printed.
        texts: Or a file with a text a line, or a table with a text a row. ``-``: standard input.
        text_column: The column of such a table; None: "text".
        input: Or embeddings in any supported format. ``-``: standard input.
        key: Which array of ``.npz``, ``.pt``, ``.safetensors`` or HDF5, where there are several.
        vector_column: Which column of a table, where several hold vectors.
        output: JSON lines, one a query; see ``write_answers``. ``-``: standard output.
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
        embeddings: Encodes texts; called with the bank, the device, and a folder for its
            cache. By default it is the encoder that the bank names.
        accelerator: Decides what to decode on.

    Returns:
        How many queries were decoded.

    Raises:
        ConfigError: Arguments cannot be used, or not together.
        LightweightDecoderError: A file cannot be used, or the memory did not suffice.
    """
    _check_one_given({"text": text, "texts": texts, "input": input})
    _check_used({"text_column": text_column}, "texts", texts)
    _check_used({"key": key, "vector_column": vector_column}, "input", input)
    if input is not None:
        refuse_encoder_options(embeddings, encoder_of, because="input=FILE has the vectors")
    if text is not None and not text.strip():
        raise ConfigError.unexpected("text", "a sentence", repr(text), summary="nothing to decode")
    if text is None and output is None:
        raise ConfigError("no value was given", where="output", advice="Add output=FILE.jsonl.")
    if output is not None and output != STANDARD_STREAM:
        refuse_output_over(output, filter(None, (input, texts, checkpoint)))
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
        limits: dict[str, Any] = {"top_k": top_k, "abstain_below": below}
        encoder = None
        if input is None:
            encoder = open_encoder(embeddings, bank=decoder.bank, device=device, cache=cache)
        if output is None:
            decoded = decoder.decode_texts(text or "", encoder=encoder, **limits)
            Console().print(answer_table(decoded, title=text or ""))
            return 1
        with _seekable(input or texts) as path:
            if path is None or input is None:
                blocks: Iterable[list[str]] = [[text or ""]]
                if path is not None:
                    blocks = _texts(path, text_column or "text")
                answers = (decoder.decode_texts(b, encoder=encoder, **limits) for b in blocks)
                num_queries = write_answers(answers, output)
            else:
                reader = open_embeddings(path, key=key, vector_column=vector_column)
                answers = (decoder.decode(b.vectors, **limits) for b in reader.blocks())
                num_queries = write_answers(answers, output, num_queries=reader.num_rows)
    logger.info("%s: %d queries", output, num_queries)
    if decoder.cache is not None:
        share = decoder.cache.stats.hit_rate
        logger.info("%.1f%% of the queries were answered from the cache", 100 * share)
    return num_queries


def _check_one_given(things: dict[str, object]) -> None:
    """Refuse several things to decode, and none."""
    given = [name for name, value in things.items() if value is not None]
    if len(given) != 1:
        expected, problem = 'text="…", texts=FILE or input=FILE', "one thing to decode is needed"
        raise ConfigError.unexpected(
            ", ".join(things), expected, " and ".join(given) or "none of them", summary=problem
        )


def _check_used(options: dict[str, str | None], name: str, path: Path | None) -> None:
    """Refuse options of a file that is not given."""
    for option, value in options.items():
        if value is not None and path is None:
            raise ConfigError.unexpected(option, f"{name}=FILE beside it", repr(value))


def _texts(path: Path, column: str) -> Iterator[list[str]]:
    """Yield the texts of a file, some at a time."""
    for block in stream_columns(path, [column]):
        yield block[column]


@contextmanager
def _seekable(path: Path | None) -> Iterator[Path | None]:
    """Give a file that readers can look at twice; what comes on standard input becomes one."""
    if path != STANDARD_STREAM:
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "standard input"
        with copy.open("wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
        yield copy


def write_answers(
    answers: Iterable[Decoded],
    output: Path,
    *,
    num_queries: int | None = None,
    show_progress: bool = True,
) -> int:
    """Write what was decoded as a file of JSON lines, block by block; return their number.

    A line has ``query`` (row, from 0), ``text`` (the first phrase, null where the decoder
    abstained), ``phrases``, ``values``, ``kind`` and ``confidence`` (null where the decoder is not
    calibrated). ``output`` appears when it is complete; an error leaves no part of it behind.
    ``-`` is standard output, line by line, without a progress bar.

    Raises:
        InputDataError: The output cannot be written.
        LightweightDecoderError: What ``answers`` raises.
    """
    num_written = 0
    with (
        report_progress(
            "decoding",
            unit="queries",
            total=num_queries,
            enabled=show_progress and num_queries != 0 and output != STANDARD_STREAM,
        ) as advance,
        _written(output) as file,
    ):
        for decoded in answers:
            for line in _lines(decoded, num_written):
                file.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")
            num_written += len(decoded.texts)
            advance(len(decoded.texts))
    return num_written


@contextmanager
def _written(output: Path) -> Iterator[TextIO]:
    """Open the file that appears when it is complete, or standard output."""
    if output == STANDARD_STREAM:
        yield sys.stdout
        sys.stdout.flush()
        return
    with (
        whole_file(output, advice="Choose another place with output=FILE") as partial,
        partial.open("w", encoding="utf-8") as file,
    ):
        yield file


def answer_table(decoded: Decoded, *, title: str) -> Table:
    """Return the phrases found for the first query, best first, for a terminal."""
    table = Table(title=cell(title), min_width=60)
    table.add_column("", justify="right")
    table.add_column("phrase")
    table.add_column(decoded.kind, justify="right")
    for rank, (text, value) in enumerate(
        zip(decoded.texts[0], decoded.values[0], strict=True), start=1
    ):
        table.add_row(str(rank), cell(text), f"{value:.3f}")
    if decoded.confidence is not None:
        answer = "no phrase" if decoded.abstained[0] else decoded.texts[0][0]
        table.caption = cell(f"answer: {answer}, confidence {decoded.confidence[0]:.2f}")
    return table


def _lines(decoded: Decoded, first_query: int) -> Iterator[dict[str, Any]]:
    """One plain record a query; what an approximate search left empty is left out."""
    for row, texts in enumerate(decoded.texts):
        found = int((decoded.phrase_ids[row] != NO_ID).sum())
        confidence = None if decoded.confidence is None else float(decoded.confidence[row])
        yield {
            "query": first_query + row,
            "text": None if decoded.abstained[row] or not found else texts[0],
            "phrases": texts[:found],
            "values": [round(float(value), 6) for value in decoded.values[row, :found]],
            "kind": decoded.kind,
            "confidence": None if confidence is None else round(confidence, 6),
        }
