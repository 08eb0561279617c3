"""Texts, or texts with vectors, into a bank."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import TypeAdapter, ValidationError
from rich.console import Console
from rich.table import Table

from lightweight_decoder.accelerator import AcceleratorPlan
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
from lightweight_decoder.bank.phrases import TEXT_COLUMN
from lightweight_decoder.commands.arguments import Gib, command
from lightweight_decoder.commands.opening import (
    device_of,
    one_device,
    open_encoder,
    refuse_encoder_options,
    within_budget,
)
from lightweight_decoder.display import cell
from lightweight_decoder.encoder import Encoder, TextEncoder
from lightweight_decoder.errors import ConfigError
from lightweight_decoder.vectors import open_embeddings
from lightweight_decoder.vectors.preprocessing import STEPS, at_place

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lightweight_decoder.datatypes import FloatArray
    from lightweight_decoder.vectors.preprocessing import Step

logger = logging.getLogger(__name__)


class _Rows(NamedTuple):
    """Rows for a bank, and what is known of them beforehand."""

    rows: Iterator[BankRows]
    sample: Iterator[FloatArray]
    num_rows: int | None
    dtype: str
    encoder: EncoderInfo | None = None


@command
def build_bank(
    *,
    input: Path | None,  # noqa: A002 - the key that people type
    output: Path,
    vectors: Path | None = None,
    key: str | None = None,
    vector_column: str | None = None,
    text_column: str | None = None,
    metadata_columns: list[str] = [],  # noqa: B006 - never changed
    preprocessing: list[str | dict[str, Any]] = [],  # noqa: B006 - never changed
    dtype: Literal["auto", "float16", "float32"] = "auto",
    overwrite: bool = False,
    on_bad_row: Literal["raise", "drop"] = "raise",
    cache: bool = True,
    max_memory_gb: Gib | None = None,
    embeddings: Callable[..., Encoder] = TextEncoder,
    accelerator: Callable[..., AcceleratorPlan] = one_device,
) -> BuildReport:
    """Build a phrase bank from texts, or from texts with vectors, and print what went into it.

    Args:
        input: CSV, TSV, JSON lines or Parquet with a text column, or a text file with a phrase a
            line; None: the texts beside the vectors.
        output: Folder of the bank.
        vectors: Embeddings in any supported format, row by row; None encodes the texts.
        key: Which array of ``.npz``, ``.pt``, ``.safetensors`` or HDF5, where there are several.
        vector_column: Which column of a table, where several hold vectors.
        text_column: The column of the texts in a table, or the entry beside the vectors; None:
            "text", or the only one that it can be.
        metadata_columns: Further columns of the table to keep; "frequency" helps the reranker.
        preprocessing: What vectors, and queries later, go through in this order: names of
            ``vectors.preprocessing.STEPS``, or one with its options: ``{"pca": {"dim": 128}}``.
        dtype: Of the vectors; float16 is half the size. ``"auto"`` is float16 above 1 GiB, or where
            the vectors are.
        overwrite: Replace the bank that is at ``output``.
        on_bad_row: ``"drop"`` leaves out rows without a usable text or vector, and counts them.
        cache: Keep the vectors of encoded texts, for the next run.
        max_memory_gb: GiB that the work may hold above what the process holds at its start; None:
            no limit.
        embeddings: Encodes texts; called with the device, and a folder for its cache.
        accelerator: Decides what to encode on.

    Returns:
        What went into the bank.

    Raises:
        ConfigError: Arguments cannot be used, or not together.
        LightweightDecoderError: A file cannot be used, or the memory did not suffice.
    """
    steps = read_steps(preprocessing)
    if vectors is None and input is None:
        expected = "a file of texts, or null with vectors=FILE that has texts of its own"
        problem = "there is nothing to build from"
        raise ConfigError.unexpected("input", expected, "null", summary=problem)
    names = {"key": key, "vector_column": vector_column}
    for name, value in names.items():
        if vectors is None and value is not None:
            raise ConfigError.unexpected(name, "vectors=FILE beside it", repr(value))
    if vectors is not None:
        refuse_encoder_options(embeddings, TextEncoder, because="vectors=FILE has the vectors")
    _check_columns(metadata_columns)
    device = device_of(accelerator()) if vectors is None else "cpu"

    def texts() -> TextStream:
        assert input is not None  # noqa: S101 - or there is nothing to open
        return open_texts(
            input,
            text_column=text_column or "text",
            metadata_columns=metadata_columns,
            keep_unusable=on_bad_row == "drop",
        )

    with within_budget(max_memory_gb, work="building the bank", device=device):
        if vectors is None:
            read = _encoded(texts, open_encoder(embeddings, device=device, cache=cache))
        else:
            column = text_column if input is None else None
            reader = open_embeddings(vectors, text_column=column, **names)
            keep = on_bad_row == "drop"
            if input is None:
                rows = rows_of_embeddings(
                    reader, metadata_columns=metadata_columns, keep_unusable=keep
                )
            else:
                rows = rows_with_vectors(texts(), reader, keep_unusable=keep)
            sample = vectors_of_embeddings(reader, keep_unusable=keep)
            read = _Rows(rows, sample, reader.num_rows, reader.dtype)
        # float16 vectors lose nothing as they are, and would be twice the size for nothing
        stays_float16 = (dtype, read.dtype) == ("auto", "float16") and not steps
        report = write_bank(
            output,
            read.rows,
            encoder=read.encoder,
            preprocessing=steps,
            sample=read.sample,
            dtype="float16" if stays_float16 else dtype,
            overwrite=overwrite,
            on_bad_row=on_bad_row,
            total=read.num_rows,
            show_progress=True,
        )
    logger.info(
        "%s: %d phrases, %d vectors of width %d",
        output,
        report.num_phrases,
        report.num_vectors,
        report.dim,
    )
    Console().print(_report_table(report))
    return report


def read_steps(listed: list[str | dict[str, Any]]) -> list[Step]:
    """Return the steps that a list such as ``["l2", {"pca": {"dim": 128}}]`` names.

    Raises:
        ConfigError: There is no such step or option, or an option cannot have that value.
    """
    return [_read_step(item, f"preprocessing[{place}]") for place, item in enumerate(listed)]


def _read_step(item: str | dict[str, Any], where: str) -> Step:
    """One step, from its name or from a mapping of its name to its options."""
    named = item if isinstance(item, dict) else {item: {}}
    name, options = next(iter(named.items()), (None, {}))
    if len(named) != 1 or name not in STEPS:
        expected = f"{', '.join(STEPS)}, or one of them with options: {{pca: {{dim: 128}}}}"
        raise ConfigError.unexpected(where, expected, item, summary="there is no such step")
    try:
        # as JSON, of which pydantic makes records even where it is strict about types
        step: Step = TypeAdapter(STEPS[name]).validate_json(json.dumps(options or {}))
    except ValidationError as error:
        wrong = error.errors()[0]
        expected = wrong["msg"].removeprefix("Input should be ")
        if wrong["type"] == "unexpected_keyword_argument":
            known = [option.name for option in fields(STEPS[name]) if option.name != "step"]
            expected = f"an option of {name}: {', '.join(known) or 'there are none'}"
        place = ".".join([where, name, *map(str, wrong["loc"])])
        raise ConfigError.unexpected(
            place, expected, repr(wrong["input"]), summary="the step cannot be used"
        ) from error
    except ConfigError as error:
        raise at_place(error, where) from error
    return step


def _check_columns(names: list[str]) -> None:
    """Refuse metadata columns that a bank could not tell apart."""
    for place, name in enumerate(names):
        if name == TEXT_COLUMN or name in names[:place]:
            expected = f"columns of different names, none of them {TEXT_COLUMN!r}"
            raise ConfigError.unexpected(
                "metadata_columns", expected, repr(name), advice="The texts are kept anyway"
            )


def _encoded(texts: Callable[[], TextStream], encoder: Encoder) -> _Rows:
    """Texts, encoded here."""
    stream = texts()
    rows, sample = encoded_rows(stream, encoder), _encoded_sample(texts, encoder)
    info = EncoderInfo.of(encoder)
    return _Rows(rows, sample, stream.num_rows, "float32", info)


def _encoded_sample(texts: Callable[[], TextStream], encoder: Encoder) -> Iterator[FloatArray]:
    """Vectors of some texts, which are read once more, if they are asked for."""
    yield from encoded_sample(texts(), encoder)


def _report_table(report: BuildReport) -> Table:
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
        table.add_row(cell(name), f"{count:,}")
    return table
