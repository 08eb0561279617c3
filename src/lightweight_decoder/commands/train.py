"""One decoder, trained and tested."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import lightning as L  # noqa: N812 - the name everyone uses
from lightning.pytorch.loggers import WandbLogger
from pydantic import Field
from rich.console import Console

from lightweight_decoder.accelerator import (
    AcceleratorPlan,
    forget_verdicts,
    plan_after,
    recognize_kernel_failure,
    resolve_accelerator,
)
from lightweight_decoder.bank.placement import refuse_output_over
from lightweight_decoder.commands.arguments import Count, Gib, command
from lightweight_decoder.commands.finished_run import write_settings
from lightweight_decoder.commands.opening import (
    completed_search,
    device_of,
    open_encoder,
    refuse_encoder_options,
    require_for_training,
    within_budget,
)
from lightweight_decoder.commands.parts import changed_options, complete, options_of, target_of
from lightweight_decoder.decoder.calibration_fit import fit_calibration
from lightweight_decoder.decoder.phrase_bank_decoder import PhraseBankDecoder
from lightweight_decoder.decoder.prediction import label_baseline_metrics
from lightweight_decoder.decoder.splits import LEARNED
from lightweight_decoder.encoder import Encoder, TextEncoder
from lightweight_decoder.errors import ConfigError
from lightweight_decoder.evaluation.comparison import metric_table
from lightweight_decoder.evaluation.metrics_file import METRICS_NAME, write_metrics
from lightweight_decoder.rerank import (
    ListwiseReranker,
    PhraseClassifier,
    QueryAdapter,
    Reranker,
)
from lightweight_decoder.search import ExactSearch, SearchBackend
from lightweight_decoder.training.module import DecoderModule
from lightweight_decoder.training.run import build_trainer, fit_and_test
from lightweight_decoder.training.sources.datamodule import DecoderDataModule, Source
from lightweight_decoder.training.tracking import log_training, open_trackers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lightning.pytorch.loggers import Logger

    from lightweight_decoder.bank import PhraseBank

logger = logging.getLogger(__name__)

TRAINER = partial(L.Trainer, max_epochs=3, enable_model_summary=False, num_sanity_val_steps=0)


class TrainedRun(NamedTuple):
    """What a training came to.

    Attributes:
        run_dir: Its folder.
        metrics: What is in ``metrics.json``.
        best_mrr: The best ``val/decoder/mrr`` in [0, 1]; NaN where nothing was trained.
    """

    run_dir: Path
    metrics: dict[str, float]
    best_mrr: float


@command
def train(
    *,
    data: Callable[..., Source],
    run_dir: Path,
    embeddings: Callable[..., Encoder] = TextEncoder,
    batches: Callable[..., DecoderDataModule] = DecoderDataModule,
    search: Callable[..., SearchBackend] = ExactSearch,
    adapter: Callable[..., QueryAdapter] | None = QueryAdapter,
    reranker: Callable[..., Reranker] | None = ListwiseReranker,
    training: Callable[..., DecoderModule] = DecoderModule,
    calibration: Callable[..., object] = fit_calibration,
    trainer: Callable[..., L.Trainer] = TRAINER,
    accelerator: Callable[..., AcceleratorPlan] = resolve_accelerator,
    wandb: Callable[..., AbstractContextManager[Any]] | None = None,
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 0,
    patience: Count = 3,
    cache: bool = True,
    max_memory_gb: Gib | None = None,
    ckpt_path: Path | None = None,
) -> TrainedRun:
    """Train a decoder, test it against plain search, and save it in a run folder.

    >>> from functools import partial
    >>> from lightweight_decoder.commands.train import train
    >>> from lightweight_decoder.training.sources.labelled_text import LabelledText
    >>> data = partial(LabelledText, train="a.csv", test="b.csv")
    >>> train(data=data, run_dir="run", seed=1, patience=20)  # doctest: +SKIP

    Args:
        data: Where queries, right phrases and the bank come from; called with the encoder where it
            takes one.
        run_dir: The folder: settings, accelerator, metrics, checkpoints, logs.
        embeddings: Encodes texts; called with the device, and a folder for its cache.
        batches: Makes batches; called with the source and the seed.
        search: Finds candidates; called with the bank, and the device where it takes one.
        adapter: Moves queries; called with the widths of queries and bank. None: none.
        reranker: Re-orders candidates; called with the widths and the number of phrases. None:
            none.
        training: What is learned how; called with the decoder and the seed.
        calibration: Fits confidence; called with the decoder and a split.
        trainer: Lightning's Trainer; called with the device, folder, loggers and callbacks.
        accelerator: Decides what to train on.
        wandb: Opens a W&B run; called with the folder. None: no W&B.
        seed: Decides everything that is drawn.
        patience: Validations without a better ``val/decoder/mrr`` before training stops.
        cache: Keep the vectors of encoded texts, for the next run.
        max_memory_gb: GiB that the work may hold above what the process holds at its start; None:
            no limit.
        ckpt_path: Checkpoint of an interrupted run to go on from.

    Raises:
        ConfigError: Arguments cannot be used, or not together.
        LightweightDecoderError: A file cannot be used, the accelerator cannot, or the memory did
            not suffice.
    """
    arguments = {name: value for name, value in locals().items() if name != "run_dir"}
    if "encoder" not in signature(data).parameters:
        refuse_encoder_options(embeddings, TextEncoder, because="data has vectors of its own")
    if adapter is None and (reranker is None or target_of(reranker) is PhraseClassifier):
        _say_what_takes_no_steps(training, ckpt_path)
    refuse_output_over(run_dir / METRICS_NAME, [])
    plan = accelerator()
    run_dir.mkdir(parents=True, exist_ok=True)
    settings = _write_record(arguments, plan, run_dir)

    def attempt(plan: AcceleratorPlan, ckpt_path: Path | None) -> TrainedRun:
        """Train and test on one accelerator."""
        device = device_of(plan)
        with within_budget(max_memory_gb, work="training", device=device):
            L.seed_everything(seed, workers=True, verbose=False)
            lightning = build_trainer(
                run_dir,
                trackers=trackers,
                patience=patience,
                ckpt_path=ckpt_path,
                **options_of(trainer) | plan.trainer_arguments(),
            )
            encoder = open_encoder(embeddings, device=device, cache=cache)
            datamodule = complete(batches, complete(data, encoder=encoder), seed=seed)
            datamodule.prepare_data()
            bank, split = datamodule.bank, datamodule.split("train")
            dims = {"query_dim": split.queries.shape[1], "bank_dim": bank.dim}
            known = dims | {"num_phrases": bank.num_phrases}
            decoder = PhraseBankDecoder(
                bank,
                adapter=adapter and complete(adapter, **known),
                reranker=reranker and complete(reranker, **known),
                search=completed_search(search, bank, device=device, max_memory_gb=max_memory_gb),
                device=device,
            )
            module = complete(training, decoder=decoder, seed=seed)
            module.accelerator_plan = plan.to_dict()
            require_for_training(max_memory_gb, module, num_queries=len(split))
            metrics = fit_and_test(
                lightning,
                module,
                datamodule,
                ckpt_path=ckpt_path,
                calibration_options=options_of(calibration),
            )
        if lightning.is_global_zero:
            learned = [datamodule.split(name) for name in LEARNED]
            metrics |= label_baseline_metrics(learned, datamodule.split("test"))
            _report(metrics, decoder.bank, trackers, run_dir)
        return TrainedRun(run_dir, metrics, module.best_mrr)

    with open_trackers(run_dir, wandb and options_of(wandb)) as trackers:
        for tracker in trackers:
            tracker.log_hyperparams({**settings, "accelerator_plan": plan.to_dict()})
        try:
            return attempt(plan, ckpt_path)
        except Exception as error:  # noqa: BLE001 - what is no kernel failure is raised again
            plan = _plan_after(error, plan)
            _write_record(arguments, plan, run_dir)
            last = run_dir / "checkpoints" / "last.ckpt"
            ckpt_path = last if last.is_file() else ckpt_path
            logger.warning("Going on from %s", ckpt_path or "the start")
            return attempt(plan, ckpt_path)


def _say_what_takes_no_steps(
    training: Callable[..., DecoderModule], ckpt_path: Path | None
) -> None:
    """Tell that settings of training in steps are not used, or cannot be.

    Raises:
        ConfigError: There is a checkpoint to go on from.
    """
    if ckpt_path is not None:
        raise ConfigError.unexpected(
            "ckpt_path", "nothing, as nothing is trained in steps that could go on", ckpt_path
        )
    logger.info("Nothing is trained in steps: epochs, batches and patience have no part in it")
    for name in changed_options(training, DecoderModule):
        logger.warning("Nothing is trained in steps, so training.%s is not used", name)


def _report(
    metrics: dict[str, float], bank: PhraseBank, trackers: Sequence[Logger], run_dir: Path
) -> None:
    """Write what a run came to, for people and trackers."""
    write_metrics(metrics, run_dir)
    for tracker in trackers:
        if isinstance(tracker, WandbLogger):
            checkpoint = run_dir / "checkpoints" / "best.ckpt"
            log_training(tracker.experiment, metrics, bank=bank, checkpoint=checkpoint)
    Console().print(metric_table(metrics))
    logger.info("Run folder: %s", run_dir)


def _plan_after(error: Exception, plan: AcceleratorPlan) -> AcceleratorPlan:
    """Return the plan to go on with after a kernel failed in spite of the probe.

    Raises what it got where that is no such failure.
    """
    failure = recognize_kernel_failure(error)
    if failure is None:
        raise error
    logger.warning("%s", failure)
    forget_verdicts()
    return plan_after(failure, plan)


def _write_record(
    arguments: dict[str, Any], plan: AcceleratorPlan, run_dir: Path
) -> dict[str, Any]:
    """Write settings and plan into the run's folder; return the settings."""
    plan_text = json.dumps(plan.to_dict(), indent=2) + "\n"
    (run_dir / "accelerator.json").write_text(plan_text, encoding="utf-8")
    return write_settings(arguments, run_dir)
