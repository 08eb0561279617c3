"""How sure a decoder may be, learned from queries with known answers."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from lightweight_decoder.accelerator import AcceleratorPlan
from lightweight_decoder.bank.placement import refuse_output_over
from lightweight_decoder.commands.arguments import Gib, command
from lightweight_decoder.commands.opening import device_of, one_device, open_decoder, within_budget
from lightweight_decoder.commands.parts import options_of
from lightweight_decoder.decoder.calibration_fit import fit_calibration
from lightweight_decoder.decoder.checkpoints import read_checkpoint, write_checkpoint
from lightweight_decoder.errors import ConfigError, EmbeddingError
from lightweight_decoder.search import ExactSearch
from lightweight_decoder.training.sources.pairs import read_queries, read_targets

if TYPE_CHECKING:
    from lightweight_decoder.datatypes import FloatArray
    from lightweight_decoder.decoder.abstention import OperatingPoints
    from lightweight_decoder.decoder.phrase_bank_decoder import PhraseBankDecoder

logger = logging.getLogger(__name__)

_CHECKPOINT_NAME = "calibrated.ckpt"
_PRECISIONS = (0.8, 0.9, 0.95, 0.98, 0.99)
_COVERAGES = (1.0, 0.9, 0.8, 0.5)


@command
def calibrate(
    *,
    queries: Path,
    targets: Path,
    output: Path,
    bank: Path | None = None,
    checkpoint: Path | None = None,
    key: str | None = None,
    vector_column: str | None = None,
    target_column: str = "text",
    out_of_bank: Path | None = None,
    max_memory_gb: Gib | None = None,
    calibration: Callable[..., object] = fit_calibration,
    accelerator: Callable[..., AcceleratorPlan] = one_device,
) -> Path:
    """Calibrate a decoder, write it as a checkpoint, and print thresholds to abstain at.

    Args:
        queries: Embeddings in any supported format, none of which the decoder was trained on.
        targets: The phrase that each should decode to: a table, or a text file with a phrase a
            line.
        output: The checkpoint to write, or a folder for ``calibrated.ckpt``.
        bank: Folder of a bank; needed without a checkpoint, or where the checkpoint's bank moved.
        checkpoint: A checkpoint of training; None calibrates plain cosine search.
        key: Which array of the embeddings' files, where there are several in one.
        vector_column: Which column of them, where several hold vectors.
        target_column: The column of a table.
        out_of_bank: Embeddings that no phrase answers.
        max_memory_gb: GiB that the work may hold above what the process holds at its start; None:
            no limit.
        calibration: Fits; called with the decoder, queries and targets.
        accelerator: Decides what to calibrate on.

    Returns:
        The checkpoint.

    Raises:
        ConfigError: Arguments cannot be used, or not together.
        LightweightDecoderError: A file cannot be used, or the memory did not suffice.
    """
    if out_of_bank is not None and options_of(calibration).get("out_of_bank_share") == 0:
        raise ConfigError.unexpected(
            "out_of_bank, calibration.out_of_bank_share",
            "the share of such queries in use, above 0",
            0,
            summary="queries out of the bank would not count",
            advice="Add calibration.out_of_bank_share=0.1, say.",
        )
    if output.suffix != ".ckpt":
        output /= _CHECKPOINT_NAME
    refuse_output_over(output, filter(None, (queries, targets, out_of_bank)))
    device = device_of(accelerator())
    with within_budget(max_memory_gb, work="calibrating", device=device):
        decoder = open_decoder(
            bank, checkpoint, search=ExactSearch, device=device, max_memory_gb=max_memory_gb
        )
        phrase_ids = read_targets(targets, decoder.bank, column=target_column)
        read = partial(read_queries, key=key, vector_column=vector_column)
        vectors = read(queries, of=(targets, len(phrase_ids)))
        outside = None if out_of_bank is None else read(out_of_bank)
        for path, found in ((queries, vectors), (out_of_bank, outside)):
            _check_width(path, found, decoder)
        calibration(decoder, vectors, phrase_ids, out_of_bank=outside)
        learned: dict[str, Any] = {"state_dict": {}}
        if checkpoint is not None:
            learned = dict(read_checkpoint(checkpoint).content)
        write_checkpoint(learned | {"decoder": decoder.recipe()}, output)
    if decoder.calibration is not None and decoder.calibration.operating_points is not None:
        Console().print(_threshold_table(decoder.calibration.operating_points))
    logger.info("%s: abstains with target_precision=… or abstain_below=…", output)
    return output


def _check_width(path: Path | None, vectors: FloatArray | None, decoder: PhraseBankDecoder) -> None:
    """Refuse embeddings that the decoder cannot read, with the name of their file."""
    if vectors is not None and vectors.shape[1] != decoder.input_dim:
        expected = f"(q, {decoder.input_dim})"
        problem = "the embeddings have another width than the decoder's queries"
        raise EmbeddingError.unexpected(path, expected, vectors.shape, summary=problem)


def _threshold_table(points: OperatingPoints) -> Table:
    """Return what abstaining comes to, on the calibration's queries in the bank."""
    table = Table(title="abstain below")
    for name in ("threshold", "precision", "coverage"):
        table.add_column(name, justify="right")
    reachable = [target for target in _PRECISIONS if target <= max(points.precisions)]
    thresholds = {points.for_precision(target) for target in reachable}
    thresholds |= {points.for_coverage(target) for target in _COVERAGES}
    for threshold in sorted(thresholds):
        place = points.thresholds.index(threshold)
        shares = (points.precisions[place], points.coverages[place])
        table.add_row(f"{threshold:.4f}", *(f"{share:.1%}" for share in shares))
    return table
