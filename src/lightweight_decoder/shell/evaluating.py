"""`scripts/evaluate.py`: a finished run, measured on its own test split."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from lightweight_decoder.datatypes import NO_ID
from lightweight_decoder.decoder.checkpoints import read_checkpoint
from lightweight_decoder.decoder.phrase_bank_decoder import PhraseBankDecoder
from lightweight_decoder.decoder.prediction import (
    plain_search,
    predict,
    size_metrics,
    speed_metrics,
)
from lightweight_decoder.errors import CheckpointError, ConfigError, RegressionError
from lightweight_decoder.evaluation.comparison import compare_metrics, metric_table
from lightweight_decoder.evaluation.html_report import render_report
from lightweight_decoder.evaluation.metrics_file import read_metrics, write_metrics
from lightweight_decoder.evaluation.predictions import read_predictions, write_predictions
from lightweight_decoder.evaluation.summary import summarize_predictions
from lightweight_decoder.files import whole_file
from lightweight_decoder.shell.budget import within_budget
from lightweight_decoder.shell.checking import check
from lightweight_decoder.shell.parts import (
    abstain_below,
    build_datamodule,
    device_of,
    exact_search,
    resolve,
)
from lightweight_decoder.shell.plain import plain
from lightweight_decoder.shell.schemas import arguments
from lightweight_decoder.training.tracking import open_wandb
from lightweight_decoder.training.wandb_records import log_evaluation

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    import numpy.typing as npt
    import pyarrow as pa
    from lightning.pytorch.loggers import WandbLogger

    from lightweight_decoder.accelerator import AcceleratorPlan

logger = logging.getLogger(__name__)

PREDICTIONS_NAME, REPORT_NAME = "predictions.parquet", "report.html"


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """What a training run left in its folder.

    Attributes:
        path: The folder.
        config: The configuration it was trained with, its bank where the bank is now.
        checkpoint: The best checkpoint.
        bank: Folder of the bank.
    """

    path: Path
    config: DictConfig
    checkpoint: Path
    bank: Path


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What was measured.

    Attributes:
        metrics: By the names of ``metrics.json``.
        predictions: See ``evaluation.predictions``.
        latencies_ms: (calls,) time of single queries of the decoder.
    """

    metrics: dict[str, float]
    predictions: pa.Table
    latencies_ms: npt.NDArray[np.float64]


def evaluate(config: DictConfig) -> None:
    """Evaluate the run ``config.run_dir`` and writes metrics, predictions and report.

    Raises:
        RegressionError: A metric fell below the earlier evaluation ``config.against``.
        LightweightDecoderError: Anything that the configuration or the files it names have wrong.
    """
    check(config)
    run = find_run(Path(config.run_dir), bank=config.bank)
    run.config.cache = config.cache
    earlier = None if config.against is None else _read_earlier(Path(config.against))
    output = run.path if config.output is None else Path(config.output)
    output.mkdir(parents=True, exist_ok=True)
    plan = resolve(config)
    with _tracker(config, output) as tracker:
        if tracker is not None:
            settings = {"evaluate": plain(config), "run": plain(run.config)}
            tracker.log_hyperparams(settings | {"accelerator_plan": plan.to_dict()})
        with within_budget(config, plan, work="evaluating"):
            decoder = PhraseBankDecoder.from_checkpoint(
                run.checkpoint,
                bank=run.bank,
                search=lambda bank: exact_search(bank, config.max_memory_gb, plan),
                device=device_of(plan),
            )
            evaluation = _measure(decoder, run, plan, config)
            files = _write(evaluation, output, run, plan)
        if tracker is not None:
            log_evaluation(
                tracker.experiment,
                evaluation.metrics,
                evaluation.predictions,
                latencies_ms=evaluation.latencies_ms,
                bank=decoder.bank,
                checkpoint=run.checkpoint,
                files=files,
            )
    Console().print(metric_table(evaluation.metrics))
    logger.info("Report: %s", output / REPORT_NAME)
    if earlier is not None:
        _hold_against(earlier, evaluation, where=config.against, tolerance=config.tolerance)


def find_run(path: Path, *, bank: str | None = None) -> FinishedRun:
    """Return what a training run left in its folder.

    Args:
        path: The folder.
        bank: Where the bank is now; None: where it was.

    Raises:
        ConfigError: It is not the folder of a run, or its configuration cannot be used any more.
        CheckpointError: It has no checkpoint, one of another version, or the bank has moved.
    """
    config_path, checkpoint = path / "config.yaml", path / "checkpoints" / "best.ckpt"
    if not config_path.is_file():
        raise ConfigError(
            "this is not the folder of a run",
            where=path,
            expected="config.yaml, as train.py writes it",
            found="no such file",
            advice="Name the run's folder with run_dir=outputs/train/…",
        )
    if not checkpoint.is_file():
        raise CheckpointError(
            "the run has no checkpoint",
            where=path,
            expected="checkpoints/best.ckpt",
            found="no such file",
            advice="Let the training finish: python train.py ckpt_path=RUN/checkpoints/last.ckpt",
        )
    saved = read_checkpoint(checkpoint)
    place = Path(bank) if bank is not None else saved.find_bank()
    config = _read_config(config_path)
    OmegaConf.update(config, "data.bank", str(place.absolute()), force_add=True)
    check(config)
    return FinishedRun(path=path, config=config, checkpoint=checkpoint, bank=place)


def _read_config(path: Path) -> DictConfig:
    """Return the configuration of a run, as it was saved."""
    try:
        config = OmegaConf.load(path)
    except Exception as error:  # the YAML parser raises many types
        raise ConfigError("cannot be read", where=path, found=error) from error
    if not isinstance(config, DictConfig) or "data" not in config:
        raise ConfigError(
            "is not the configuration of a run", where=path, expected="what train.py writes"
        )
    return config


def _tracker(
    config: DictConfig, output: Path
) -> AbstractContextManager[WandbLogger] | nullcontext[None]:
    """Return the W&B run that was asked for, in a folder beside what is written."""
    if config.logger.wandb is None:
        return nullcontext()
    return open_wandb(output, **arguments(config.logger.wandb))


def _write(
    evaluation: Evaluation, output: Path, run: FinishedRun, plan: AcceleratorPlan
) -> list[Path]:
    """Write metrics, predictions and report; returns their paths."""
    predictions, report = output / PREDICTIONS_NAME, output / REPORT_NAME
    metrics = write_metrics(evaluation.metrics, output)
    write_predictions(evaluation.predictions, predictions)
    page = render_report(
        evaluation.metrics,
        evaluation.predictions,
        title=run.path.absolute().name,
        facts=_facts(run, plan, evaluation.metrics),
        latencies_ms=evaluation.latencies_ms,
    )
    with whole_file(report) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return [metrics, predictions, report]


def _measure(
    decoder: PhraseBankDecoder, run: FinishedRun, plan: AcceleratorPlan, config: DictConfig
) -> Evaluation:
    """Rebuilds the run's data, answers its test queries, and measures."""
    top_k = config.top_k
    threshold = abstain_below(config, decoder)
    datamodule = build_datamodule(run.config, plan)
    asked_for = np.unique(datamodule.split("train").targets)
    test = datamodule.split("test")
    predictions = predict(
        decoder,
        test,
        top_k=top_k,
        abstain_below=threshold,
        seen=asked_for[asked_for != NO_ID],
        show_progress=True,
    )
    speed, latencies_ms = speed_metrics(decoder, test.queries, top_k=top_k)
    figures = {"decoder": speed}
    searched = plain_search(decoder)
    if searched is not None:
        figures["baseline"] = speed_metrics(searched, test.queries, top_k=top_k)[0]
    figures["decoder"] |= size_metrics(decoder)
    metrics = summarize_predictions(predictions) | {
        f"test/{system}/{name}": figure
        for system, named in figures.items()
        for name, figure in named.items()
    }
    return Evaluation(metrics, predictions, latencies_ms)


def _facts(
    run: FinishedRun, plan: AcceleratorPlan, metrics: dict[str, float]
) -> dict[str, str | Path]:
    """Return what the report says under its title."""
    figure = {name.removeprefix("test/decoder/"): value for name, value in metrics.items()}
    return {
        "run": run.path,
        "bank": run.bank,
        "device": device_of(plan),
        "one query": ", ".join(
            f"p{share} {figure[f'latency_p{share}_ms']:.2f} ms" for share in (50, 95, 99)
        ),
        "in batches": f"{figure['queries_per_s']:,.0f} queries/s",
        "learned": f"{figure['model_bytes'] / 1e6:,.1f} MB",
        "peak memory": f"{figure['peak_memory_bytes'] / 1e6:,.0f} MB",
    }


def _read_earlier(path: Path) -> tuple[dict[str, float], pa.Table | None]:
    """Metrics of an earlier evaluation, and its predictions where they lie beside them."""
    predictions = path.with_name(PREDICTIONS_NAME)
    table = read_predictions(predictions) if predictions.is_file() else None
    return read_metrics(path), table


def _hold_against(
    earlier: tuple[dict[str, float], pa.Table | None],
    evaluation: Evaluation,
    *,
    where: str,
    tolerance: float,
) -> None:
    """Return the regression gate.

    Raises:
        RegressionError: A metric fell by more than the tolerance.
        InputDataError: The earlier evaluation has other metrics, or is of other queries.
    """
    before, table = earlier
    changes = compare_metrics(
        evaluation.metrics,
        before,
        tolerance=tolerance,
        predictions=None if table is None else (evaluation.predictions, table),
        where=where,
    )
    fallen = [str(change) for change in changes if change.fell]
    if fallen:
        raise RegressionError(
            f"{len(fallen)} of {len(changes)} metrics fell by more than {tolerance}:\n  "
            + "\n  ".join(fallen),
            where=where,
        )
    logger.info("None of %d metrics fell by more than %s below %s", len(changes), tolerance, where)
