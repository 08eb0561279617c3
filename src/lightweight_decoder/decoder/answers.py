"""Decoded answers as JSON lines and as a table."""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from rich.table import Table

from lightweight_decoder.datatypes import NO_ID
from lightweight_decoder.display import cell
from lightweight_decoder.files import whole_file
from lightweight_decoder.progress import report_progress

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from lightweight_decoder.datatypes import Decoded

STANDARD_STREAM = Path("-")
"""Stands for standard input or output, as in other programs."""


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
