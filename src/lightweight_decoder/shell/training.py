"""`train.py`: one decoder, trained and tested."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import lightning as L  # noqa: N812 - the name everyone uses
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch.loggers import WandbLogger
from omegaconf import OmegaConf
from rich.console import Console

from lightweight_decoder.accelerator import (
    forget_verdicts,
    plan_after,
    recognize_kernel_failure,
)
from lightweight_decoder.decoder.phrase_bank_decoder import PhraseBankDecoder
from lightweight_decoder.evaluation.comparison import metric_table
from lightweight_decoder.evaluation.metrics_file import write_metrics
from lightweight_decoder.shell.budget import require_for_training, within_budget
from lightweight_decoder.shell.checking import check
from lightweight_decoder.shell.parts import build_datamodule, build_search, device_of, resolve
from lightweight_decoder.shell.plain import plain
from lightweight_decoder.shell.schemas import arguments, build
from lightweight_decoder.shell.sweep import group_of_sweep
from lightweight_decoder.training.run import build_trainer, fit_and_test
from lightweight_decoder.training.tracking import open_trackers
from lightweight_decoder.training.wandb_records import log_training

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lightning.pytorch.loggers import Logger
    from omegaconf import DictConfig

    from lightweight_decoder.accelerator import AcceleratorPlan
    from lightweight_decoder.training.module import DecoderModule
    from lightweight_decoder.training.sources.datamodule import DecoderDataModule

logger = logging.getLogger(__name__)


def train(config: DictConfig) -> float:
    """Trains and tests one decoder in Hydra's run folder; returns its best ``val/decoder/mrr``.

    Raises:
        LightweightDecoderError: Anything that the configuration or the files it names have wrong.
    """
    check(config)
    run_dir = Path(HydraConfig.get().runtime.output_dir)
    plan = resolve(config)
    _write_run_record(run_dir, config, plan)
    wandb_options = None
    if config.logger.wandb is not None:
        wandb_options = arguments(config.logger.wandb)
        wandb_options["group"] = wandb_options["group"] or group_of_sweep()
    with open_trackers(run_dir, wandb_options) as trackers:
        for tracker in trackers:
            tracker.log_hyperparams({**plain(config), "accelerator_plan": plan.to_dict()})
        try:
            with within_budget(config, plan, work="training"):
                return _train_on(plan, config, run_dir, trackers, ckpt_path=config.ckpt_path)
        except Exception as error:  # noqa: BLE001 - what is no kernel failure is raised again
            plan = _plan_after(error, plan)
            _write_run_record(run_dir, config, plan)
            last = run_dir / "checkpoints" / "last.ckpt"
            ckpt_path = last if last.is_file() else config.ckpt_path
            logger.warning("Going on from %s", ckpt_path or "the start")
            with within_budget(config, plan, work="training"):
                return _train_on(plan, config, run_dir, trackers, ckpt_path=ckpt_path)


def _train_on(
    plan: AcceleratorPlan,
    config: DictConfig,
    run_dir: Path,
    trackers: Sequence[Logger],
    *,
    ckpt_path: str | Path | None,
) -> float:
    """Trains, tests and reports on one accelerator; returns the best ``val/decoder/mrr``."""
    L.seed_everything(config.seed, workers=True, verbose=False)
    trainer = build_trainer(
        run_dir,
        trackers=trackers,
        patience=config.patience,
        ckpt_path=ckpt_path,
        **arguments(config.trainer) | plan.trainer_arguments(),
    )
    datamodule = build_datamodule(config, plan)
    module = build_module(config, datamodule, plan)
    require_for_training(config, module, num_queries=len(datamodule.split("train")))
    metrics = fit_and_test(
        trainer,
        module,
        datamodule,
        ckpt_path=ckpt_path,
        calibration_options=arguments(config.calibration),
    )
    if trainer.is_global_zero:
        write_metrics(metrics, run_dir)
        for tracker in trackers:
            if isinstance(tracker, WandbLogger):
                log_training(
                    tracker.experiment,
                    metrics,
                    bank=module.decoder.bank,
                    checkpoint=run_dir / "checkpoints" / "best.ckpt",
                )
        Console().print(metric_table(metrics))
        logger.info("Run folder: %s", run_dir)
    return module.best_mrr


def _plan_after(error: Exception, plan: AcceleratorPlan) -> AcceleratorPlan:
    """Return the plan to go on with after a kernel failed in spite of the probe.

    Raises:
        AcceleratorError: The plan does not allow a fallback.
        Exception: ``error`` itself, where it is no such failure.
    """
    failure = recognize_kernel_failure(error)
    if failure is None:
        raise error
    logger.warning("%s", failure)
    forget_verdicts()
    return plan_after(failure, plan)


def build_module(
    config: DictConfig, datamodule: DecoderDataModule, plan: AcceleratorPlan
) -> DecoderModule:
    """Return the decoder with its learned parts, ready to be trained."""
    bank = datamodule.bank
    dims = {"query_dim": datamodule.split("train").queries.shape[1], "bank_dim": bank.dim}
    adapter = build(config.rerank.adapter, **dims)
    reranker = build(config.rerank.reranker, num_phrases=bank.num_phrases, **dims)
    decoder = PhraseBankDecoder(
        bank,
        adapter=adapter,
        reranker=reranker,
        search=build_search(config, bank, plan),
        device=device_of(plan),
    )
    module: DecoderModule = build(config.training, decoder=decoder, seed=config.seed)
    module.accelerator_plan = plan.to_dict()
    return module


def _write_run_record(run_dir: Path, config: DictConfig, plan: AcceleratorPlan) -> None:
    """Write the resolved configuration and the accelerator plan into the run folder."""
    OmegaConf.save(OmegaConf.create(plain(config)), run_dir / "config.yaml")
    plan_text = json.dumps(plan.to_dict(), indent=2) + "\n"
    (run_dir / "accelerator.json").write_text(plan_text, encoding="utf-8")
