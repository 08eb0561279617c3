"""`scripts/calibrate.py`: how sure a decoder may be, learned from queries with known answers."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from lightweight_decoder.decoder.calibration_fit import fit_calibration
from lightweight_decoder.decoder.checkpoints import read_checkpoint, write_checkpoint
from lightweight_decoder.errors import ConfigError, EmbeddingError
from lightweight_decoder.shell.budget import within_budget
from lightweight_decoder.shell.checking import check
from lightweight_decoder.shell.parts import open_decoder, resolve
from lightweight_decoder.shell.schemas import arguments
from lightweight_decoder.training.sources.pairs import read_queries, read_targets

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from lightweight_decoder.accelerator import AcceleratorPlan
    from lightweight_decoder.datatypes import FloatArray
    from lightweight_decoder.decoder.abstention import OperatingPoints
    from lightweight_decoder.decoder.phrase_bank_decoder import PhraseBankDecoder

logger = logging.getLogger(__name__)

_CHECKPOINT_NAME = "calibrated.ckpt"
_PRECISIONS = (0.8, 0.9, 0.95, 0.98, 0.99)
_COVERAGES = (1.0, 0.9, 0.8, 0.5)


def calibrate(config: DictConfig) -> None:
    """Calibrates a decoder, writes it as a checkpoint, and prints thresholds to abstain at.

    Raises:
        LightweightDecoderError: Anything that the configuration or the files it names have wrong.
    """
    check(config)
    options = arguments(config.calibration)
    if config.out_of_bank is not None and options["out_of_bank_share"] == 0:
        raise ConfigError(
            "queries out of the bank would not count",
            where="out_of_bank, calibration.out_of_bank_share",
            expected="the share of such queries in use, above 0",
            found=0,
            advice="Add calibration.out_of_bank_share=0.1, say.",
        )
    plan = resolve(config)
    with within_budget(config, plan, work="calibrating"):
        _calibrate(config, plan, options)


def _calibrate(config: DictConfig, plan: AcceleratorPlan, options: dict[str, Any]) -> None:
    """Calibrates with the options of the calibration."""
    output = _checkpoint_path(Path(config.output))
    decoder = open_decoder(config, plan)
    targets_path = Path(config.targets)
    targets = read_targets(targets_path, decoder.bank, column=config.target_column)
    queries = read_queries(Path(config.queries), of=(targets_path, len(targets)))
    outside = None if config.out_of_bank is None else read_queries(Path(config.out_of_bank))
    for path, vectors in ((config.queries, queries), (config.out_of_bank, outside)):
        _check_width(path, vectors, decoder)
    fit_calibration(decoder, queries, targets, out_of_bank=outside, **options)
    learned: dict[str, Any] = {"state_dict": {}}
    if config.checkpoint is not None:
        learned = dict(read_checkpoint(config.checkpoint).content)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_checkpoint(learned | {"decoder": decoder.recipe()}, output)
    if decoder.calibration is not None and decoder.calibration.operating_points is not None:
        Console().print(_threshold_table(decoder.calibration.operating_points))
    logger.info("%s: abstains with target_precision=… or abstain_below=…", output)


def _checkpoint_path(output: Path) -> Path:
    """Return the file to write."""
    return output if output.suffix == ".ckpt" else output / _CHECKPOINT_NAME


def _check_width(path: str, vectors: FloatArray | None, decoder: PhraseBankDecoder) -> None:
    """Refuse embeddings that the decoder cannot read, with the name of their file."""
    if vectors is not None and vectors.shape[1] != decoder.input_dim:
        raise EmbeddingError.unexpected(path, f"(q, {decoder.input_dim})", vectors.shape)


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
