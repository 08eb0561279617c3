"""`scripts/calibrate.py`: how sure a decoder may be, learned from queries with known answers."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from rich.table import Table

from lightweight_decoder.decoder.checkpoints import read_checkpoint, write_checkpoint
from lightweight_decoder.decoder.splits import Split, no_own_vectors, out_of_bank_split
from lightweight_decoder.errors import ConfigError, EmbeddingError
from lightweight_decoder.shell.budget import within_budget
from lightweight_decoder.shell.checking import check
from lightweight_decoder.shell.parts import open_decoder, resolve
from lightweight_decoder.shell.schemas import arguments
from lightweight_decoder.training.calibration_fit import calibrate as fit
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
    fit(decoder, _read_split(config, decoder), **options)
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


def _read_split(config: DictConfig, decoder: PhraseBankDecoder) -> Split:
    """Return the queries with their right phrases, and those that no phrase answers."""
    path = Path(config.targets)
    targets = read_targets(path, decoder.bank, column=config.target_column)
    vectors = read_queries(Path(config.queries), of=(path, len(targets)))
    queries = _as_queries(vectors, decoder, config.queries)
    outside = None
    if config.out_of_bank is not None:
        vectors = read_queries(Path(config.out_of_bank))
        vectors = _as_queries(vectors, decoder, config.out_of_bank)
        outside = out_of_bank_split("calib", vectors, None)
    return Split(
        name="calib",
        queries=queries,
        targets=targets[:, None],
        own_vectors=no_own_vectors(len(queries)),
        texts=None,
        out_of_bank=outside,
    )


def _as_queries(vectors: FloatArray, decoder: PhraseBankDecoder, path: str) -> FloatArray:
    """Return the vectors after the bank's preprocessing; refuse what the decoder cannot read."""
    if vectors.shape[1] != decoder.input_dim:
        raise EmbeddingError(
            "the embeddings have another width than the decoder's queries",
            where=path,
            expected=f"(q, {decoder.input_dim})",
            found=vectors.shape,
        )
    queries: FloatArray = decoder.preprocess(torch.from_numpy(vectors)).numpy()
    return queries


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
