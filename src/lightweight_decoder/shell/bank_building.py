"""`scripts/build_bank.py`: texts, or texts with vectors, into a bank."""

from __future__ import annotations

import json
import logging
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pydantic import TypeAdapter, ValidationError
from rich.console import Console
from rich.table import Table

from lightweight_decoder.bank import BankRows, BuildReport, EncoderInfo, write_bank
from lightweight_decoder.bank.phrase_files import (
    TextStream,
    encoded_rows,
    encoded_sample,
    open_texts,
    rows_of_embeddings,
    rows_with_vectors,
    vectors_of_embeddings,
)
from lightweight_decoder.errors import ConfigError
from lightweight_decoder.shell.budget import within_budget
from lightweight_decoder.shell.checking import check
from lightweight_decoder.shell.parts import build_encoder, resolve
from lightweight_decoder.shell.plain import plain_value
from lightweight_decoder.vectors import open_embeddings
from lightweight_decoder.vectors.preprocessing import STEPS, at_place

if TYPE_CHECKING:
    from collections.abc import Iterator

    from omegaconf import DictConfig

    from lightweight_decoder.accelerator import AcceleratorPlan
    from lightweight_decoder.datatypes import FloatArray
    from lightweight_decoder.encoder import TextEncoder
    from lightweight_decoder.vectors.preprocessing import Step

logger = logging.getLogger(__name__)


class _Source(NamedTuple):
    """Rows for a bank, and what is known of them beforehand."""

    rows: Iterator[BankRows]
    sample: Iterator[FloatArray]
    num_rows: int | None
    dtype: str
    encoder: EncoderInfo | None = None


def build_bank(config: DictConfig) -> None:
    """Build the bank ``config.output`` and prints what went into it.

    Raises:
        LightweightDecoderError: Anything that the configuration or the files it names have wrong.
    """
    check(config)
    steps = read_steps(plain_value(config.preprocessing))
    if config.vectors is None and config.input is None:
        raise ConfigError(
            "there is nothing to build from",
            where="input",
            expected="a file of texts, or null with vectors=FILE that has texts of its own",
            found="null",
        )
    plan = resolve(config) if config.vectors is None else None
    with within_budget(config, plan, work="building the bank"):
        _build(config, steps, plan)


def _build(config: DictConfig, steps: list[Step], plan: AcceleratorPlan | None) -> None:
    """Build; texts are encoded where there is a plan for that."""
    source = _embeddings(config) if plan is None else _encoded(config, plan)
    # float16 vectors lose nothing as they are, and would be twice the size for nothing
    stays_float16 = (config.dtype, source.dtype) == ("auto", "float16") and not steps
    report = write_bank(
        config.output,
        source.rows,
        encoder=source.encoder,
        preprocessing=steps,
        sample=source.sample,
        dtype="float16" if stays_float16 else config.dtype,
        overwrite=config.overwrite,
        on_bad_row=config.on_bad_row,
        total=source.num_rows,
        show_progress=True,
    )
    logger.info(
        "%s: %d phrases, %d vectors of width %d",
        config.output,
        report.num_phrases,
        report.num_vectors,
        report.dim,
    )
    Console().print(report_table(report))


def read_steps(listed: list[object]) -> list[Step]:
    """Return the steps that a list such as ``["l2", {"pca": {"dim": 128}}]`` names.

    Raises:
        ConfigError: There is no such step or option, or an option cannot have that value.
    """
    return [_read_step(item, f"preprocessing[{place}]") for place, item in enumerate(listed)]


def _read_step(item: object, where: str) -> Step:
    """One step, from its name or from a mapping of its name to its options."""
    named = item if isinstance(item, dict) else {item: {}}
    name, options = next(iter(named.items()), (None, {}))
    if len(named) != 1 or name not in STEPS:
        raise ConfigError(
            "there is no such step",
            where=where,
            expected=f"{', '.join(STEPS)}, or one of them with options: {{pca: {{dim: 128}}}}",
            found=item,
        )
    try:
        # as JSON, of which pydantic makes records even where it is strict about types
        step: Step = TypeAdapter(STEPS[name]).validate_json(json.dumps(options or {}))
    except ValidationError as error:
        wrong = error.errors()[0]
        expected = wrong["msg"].removeprefix("Input should be ")
        if wrong["type"] == "unexpected_keyword_argument":
            known = [option.name for option in fields(STEPS[name]) if option.name != "step"]
            expected = f"an option of {name}: {', '.join(known) or 'there are none'}"
        raise ConfigError(
            "the step cannot be used",
            where=".".join([where, name, *map(str, wrong["loc"])]),
            expected=expected,
            found=repr(wrong["input"]),
        ) from error
    except ConfigError as error:
        raise at_place(error, where) from error
    return step


def report_table(report: BuildReport) -> Table:
    """Return the counts of a build, for a terminal."""
    table = Table("", "rows", min_width=60)
    table.columns[1].justify = "right"
    lines = {
        "rows in": report.num_rows,
        "phrases": report.num_phrases,
        f"vectors, {report.dtype}": report.num_vectors,
        "texts that came again": report.num_repeated,
        **{f"dropped: {reason}": count for reason, count in report.dropped.items()},
    }
    for name, count in lines.items():
        table.add_row(name, f"{count:,}")
    return table


def _embeddings(config: DictConfig) -> _Source:
    """Vectors of a file, with their own texts or those of another one."""
    reader = open_embeddings(Path(config.vectors))
    keep_unusable = config.on_bad_row == "drop"
    sample = vectors_of_embeddings(reader, keep_unusable=keep_unusable)
    if config.input is None:
        rows, num_rows = rows_of_embeddings(reader, keep_unusable=keep_unusable), reader.num_rows
    else:
        texts = _texts(config)
        rows = rows_with_vectors(texts, reader, keep_unusable=keep_unusable)
        num_rows = texts.num_rows
    return _Source(rows, sample, num_rows, reader.dtype)


def _encoded(config: DictConfig, plan: AcceleratorPlan) -> _Source:
    """Texts, encoded here."""
    texts = _texts(config)
    encoder = build_encoder(config, plan)
    info = EncoderInfo(name=encoder.name, fingerprint=encoder.fingerprint)
    rows, sample = encoded_rows(texts, encoder), _encoded_sample(config, encoder)
    return _Source(rows, sample, texts.num_rows, "float32", info)


def _encoded_sample(config: DictConfig, encoder: TextEncoder) -> Iterator[FloatArray]:
    """Return the vectors of some texts, which are read once more."""
    yield from encoded_sample(_texts(config), encoder)


def _texts(config: DictConfig) -> TextStream:
    """Return the texts of ``config.input``."""
    return open_texts(
        Path(config.input),
        text_column=config.text_column,
        metadata_columns=list(config.metadata_columns),
        keep_unusable=config.on_bad_row == "drop",
    )
