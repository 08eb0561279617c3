"""A finished run, measured on its own test split."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field
from rich.console import Console

from lightweight_decoder.accelerator import AcceleratorPlan
from lightweight_decoder.bank.placement import refuse_output_over
from lightweight_decoder.commands.arguments import Count, Gib, Share, command
from lightweight_decoder.commands.finished_run import FinishedRun, find_run
from lightweight_decoder.commands.opening import (
    completed_search,
    device_of,
    one_device,
    open_encoder,
    refuse_encoder_options,
    threshold,
    within_budget,
)
from lightweight_decoder.commands.parts import as_configuration, described
from lightweight_decoder.datatypes import NO_ID
from lightweight_decoder.decoder.bank_encoder import encoder_of
from lightweight_decoder.decoder.phrase_bank_decoder import PhraseBankDecoder
from lightweight_decoder.decoder.prediction import (
    label_baseline_metrics,
    plain_search,
    predict,
    size_metrics,
    speed_metrics,
)
from lightweight_decoder.decoder.splits import LEARNED
from lightweight_decoder.encoder import Encoder
from lightweight_decoder.errors import ConfigError, RegressionError
from lightweight_decoder.evaluation.comparison import compare_metrics, metric_table
from lightweight_decoder.evaluation.html_report import render_report
from lightweight_decoder.evaluation.metrics_file import read_metrics, write_metrics
from lightweight_decoder.evaluation.predictions import (
    mark_training_texts,
    read_predictions,
    write_predictions,
)
from lightweight_decoder.evaluation.summary import summarize_predictions
from lightweight_decoder.files import whole_file
from lightweight_decoder.search import ExactSearch

if TYPE_CHECKING:
    import numpy.typing as npt
    import pyarrow as pa

    from lightweight_decoder.training.sources.datamodule import Source

logger = logging.getLogger(__name__)

TOLERANCE = 0.01

PREDICTIONS_NAME, REPORT_NAME = "predictions.parquet", "report.html"


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


@command
def evaluate_run(
    run_dir: Path,
    *,
    bank: Path | None = None,
    output: Path | None = None,
    against: Path | None = None,
    tolerance: Annotated[float, Field(ge=0)] = TOLERANCE,
    top_k: Count = 10,
    abstain_below: Annotated[float, Field(ge=0, le=1)] = 0.0,
    target_precision: Share | None = None,
    target_coverage: Share | None = None,
    cache: bool = True,
    max_memory_gb: Gib | None = None,
    embeddings: Callable[..., Encoder] = encoder_of,
    wandb: Callable[..., AbstractContextManager[Any]] | None = None,
    accelerator: Callable[..., AcceleratorPlan] = one_device,
) -> dict[str, float]:
    """Evaluate a run on its own test split; write metrics, predictions, and a report to browse.

    Args:
        run_dir: Folder of a finished run.
        bank: The bank's new place, where it has moved since.
        output: Folder for what is written; None: the run's own.
        against: ``metrics.json`` of an earlier evaluation: fail where a metric fell below it.
        tolerance: By so much a metric may fall; of the median rank, a share of it.
        top_k: Phrases to keep of each query.
        abstain_below: Answer "no phrase" where the confidence is lower, or
        target_precision: so that this share of the answers was right while calibrating, or
        target_coverage: so that this share of the queries was answered.
        cache: Use kept vectors of encoded texts.
        max_memory_gb: GiB that the work may hold above what the process holds at its start; None:
            no limit.
        embeddings: Encodes the run's texts; called with its bank, the device, and a folder for its
            cache. By default it is the encoder that the bank names.
        wandb: Opens a W&B run; called with the folder. None: no W&B.
        accelerator: Decides what to evaluate on.

    Returns:
        What is in ``metrics.json``.

    Raises:
        ConfigError: Arguments cannot be used, or it is not the folder of a run.
        RegressionError: A metric fell below the earlier evaluation.
        LightweightDecoderError: A file cannot be used, or the memory did not suffice.
    """
    arguments = dict(locals())
    if against is None and tolerance != TOLERANCE:
        raise ConfigError.unexpected("tolerance", "against=FILE beside it", tolerance)
    run = find_run(run_dir, bank=bank)
    refuse_output_over((output or run.path) / REPORT_NAME, [])
    takes_texts = "encoder" in signature(run.data).parameters
    if not takes_texts:
        refuse_encoder_options(embeddings, encoder_of, because="the run's queries are vectors")
    earlier = None if against is None else _read_earlier(against)
    folder = run.path if output is None else output
    folder.mkdir(parents=True, exist_ok=True)
    plan = accelerator()
    device = device_of(plan)
    with nullcontext() if wandb is None else wandb(folder) as tracker:
        if tracker is not None:
            settings = {"evaluate": as_configuration(described(arguments)), "run": run.settings}
            tracker.log_hyperparams(settings | {"accelerator_plan": plan.to_dict()})
        with within_budget(max_memory_gb, work="evaluating", device=device):
            decoder = PhraseBankDecoder.from_checkpoint(
                run.checkpoint,
                bank=run.bank,
                search=lambda opened: completed_search(
                    ExactSearch, opened, device=device, max_memory_gb=max_memory_gb
                ),
                device=device,
            )
            below = threshold(
                decoder,
                abstain_below=abstain_below,
                target_precision=target_precision,
                target_coverage=target_coverage,
            )
            encoder = {}
            if takes_texts:
                encoder["encoder"] = open_encoder(
                    embeddings, bank=decoder.bank, device=device, cache=cache
                )
            source = run.data(**encoder)
            evaluation = _measure(decoder, source, top_k=top_k, abstain_below=below)
            files = _write(evaluation, folder, run, device)
        if tracker is not None:
            # half a second that only its users should pay
            from lightweight_decoder.training.tracking import log_evaluation  # noqa: PLC0415

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
    logger.info("Report: %s", folder / REPORT_NAME)
    if earlier is not None:
        _hold_against(earlier, evaluation, where=against, tolerance=tolerance)
    return evaluation.metrics


def _write(evaluation: Evaluation, output: Path, run: FinishedRun, device: str) -> list[Path]:
    """Write metrics, predictions and report; return their paths."""
    predictions, report = output / PREDICTIONS_NAME, output / REPORT_NAME
    metrics = write_metrics(evaluation.metrics, output)
    write_predictions(evaluation.predictions, predictions)
    page = render_report(
        evaluation.metrics,
        evaluation.predictions,
        title=run.path.absolute().name,
        facts=_facts(run, device, evaluation.metrics),
        latencies_ms=evaluation.latencies_ms,
    )
    with whole_file(report) as temporary:
        temporary.write_text(page, encoding="utf-8", errors="backslashreplace")
    return [metrics, predictions, report]


def _measure(
    decoder: PhraseBankDecoder, source: Source, *, top_k: int, abstain_below: float
) -> Evaluation:
    """Rebuild the run's data, answer its test queries, and measure."""
    source.prepare()
    learned = [source.split(name) for name in LEARNED]
    train = learned[0]
    asked_for = np.unique(train.targets)
    test = source.split("test")
    predictions = predict(
        decoder,
        test,
        top_k=top_k,
        abstain_below=abstain_below,
        seen=asked_for[asked_for != NO_ID],
        show_progress=True,
    )
    predictions = mark_training_texts(predictions, train.texts)
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
    return Evaluation(metrics | label_baseline_metrics(learned, test), predictions, latencies_ms)


def _facts(run: FinishedRun, device: str, metrics: dict[str, float]) -> dict[str, str | Path]:
    """Return what the report says under its title."""
    figure = {name.removeprefix("test/decoder/"): value for name, value in metrics.items()}
    return {
        "run": run.path,
        "bank": run.bank,
        "device": device,
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
    where: Path | None,
    tolerance: float,
) -> None:
    """Fail with a ``RegressionError`` where an evaluation is worse than an earlier one."""
    before, table = earlier
    changes = compare_metrics(
        evaluation.metrics,
        before,
        tolerance=tolerance,
        predictions=None if table is None else (evaluation.predictions, table),
        where=str(where),
    )
    fallen = [str(change) for change in changes if change.fell]
    if fallen:
        raise RegressionError(
            f"{len(fallen)} of {len(changes)} metrics fell by more than {tolerance}:\n  "
            + "\n  ".join(fallen),
            where=where,
        )
    logger.info("None of %d metrics fell by more than %s below %s", len(changes), tolerance, where)
