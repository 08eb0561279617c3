"""From configuration to objects: the only module that knows Hydra and OmegaConf.

Every configuration group takes its keys, types and defaults from the signature of what it builds,
so nothing is written twice, and an unknown key or a wrong type fails before any work starts.
"""

from __future__ import annotations

import inspect
import json
import logging
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning as L  # noqa: N812 - the name everyone uses
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra_zen import builds, instantiate
from hydra_zen.third_party.pydantic import pydantic_parser
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from lightweight_decoder.accelerator import AcceleratorPlan, resolve_accelerator
from lightweight_decoder.data.datamodule import DecoderDataModule
from lightweight_decoder.data.denoise import Denoise
from lightweight_decoder.data.labelled_text import LabelledText
from lightweight_decoder.data.pairs import Pairs
from lightweight_decoder.data.reverse_dictionary import ReverseDictionary
from lightweight_decoder.decoding import PhraseBankDecoder
from lightweight_decoder.embeddings.text_encoder import TextEncoder
from lightweight_decoder.errors import ConfigError, LightweightDecoderError
from lightweight_decoder.rerank import ListwiseReranker, QueryAdapter
from lightweight_decoder.training.module import DecoderModule
from lightweight_decoder.training.run import (
    build_trainer,
    comparison_table,
    fit_and_test,
    write_metrics,
)
from lightweight_decoder.training.tracking import open_trackers, open_wandb

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lightweight_decoder.bank import PhraseBank

logger = logging.getLogger(__name__)

_SCHEMAS: dict[str, Callable[..., object]] = {
    "text_encoder": TextEncoder,
    "reverse_dictionary": ReverseDictionary,
    "labelled_text": LabelledText,
    "pairs": Pairs,
    "denoise": Denoise,
    "datamodule": DecoderDataModule,
    "query_adapter": QueryAdapter,
    "listwise_reranker": ListwiseReranker,
    "decoder_module": DecoderModule,
    "accelerator": resolve_accelerator,
    "trainer": L.Trainer,
    "wandb": open_wandb,
}
_FILLED_IN_HERE = frozenset(
    {"bank", "bank_dim", "decoder", "device", "encoder", "query_dim", "run_dir", "source"}
)
_PLAN_KEYS = frozenset({"accelerator", "devices", "precision", "strategy"})


def register_schemas() -> None:
    """Makes the signatures of everything that can be configured known to Hydra."""
    store = ConfigStore.instance()
    for name, target in _SCHEMAS.items():
        excluded = _FILLED_IN_HERE & set(inspect.signature(target).parameters)
        schema = builds(target, populate_full_signature=True, zen_exclude=excluded)
        store.store(group="schema", name=name, node=schema)


register_schemas()


@contextmanager
def reported_errors() -> Iterator[None]:
    """Ends the program with our message, and without a traceback, when an error of ours is raised."""
    try:
        yield
    except LightweightDecoderError as error:
        logger.error("%s: %s", type(error).__name__, error)  # noqa: TRY400 - no traceback wanted
        raise SystemExit(1) from None


def train(config: DictConfig) -> float:
    """Trains and tests one decoder in Hydra's run folder; returns its best ``val/decoder/mrr``."""
    _require_complete(config)
    run_dir = Path(HydraConfig.get().runtime.output_dir)
    L.seed_everything(config.seed, workers=True, verbose=False)
    plan = resolve(config)
    _write_run_record(run_dir, config, plan)
    datamodule = _build_datamodule(config, plan)
    module = _build_module(config, datamodule, plan)
    with open_trackers(run_dir, _plain(config.logger).get("wandb")) as trackers:
        for tracker in trackers:
            tracker.log_hyperparams({**_plain(config), "accelerator_plan": plan.to_dict()})
        options = _plain(config.trainer) | {key: getattr(plan, key) for key in _PLAN_KEYS}
        trainer = _call(build_trainer, run_dir=run_dir, trackers=trackers, patience=config.patience, **options)
        metrics = fit_and_test(trainer, module, datamodule, ckpt_path=config.ckpt_path)
        if trainer.is_global_zero:
            write_metrics(metrics, run_dir)
    if trainer.is_global_zero:
        Console().print(comparison_table(metrics))
        logger.info("Run folder: %s", run_dir)
    return module.best_val_mrr


def resolve(config: DictConfig) -> AcceleratorPlan:
    """Returns the accelerator that works, out of what ``config.trainer`` asks for."""
    asked = {key: value for key, value in _plain(config.trainer).items() if key in _PLAN_KEYS}
    plan = resolve_accelerator(**asked, **_plain(config.accelerator))
    for reason in plan.reasons:
        logger.info("Accelerator %s: %s", plan.accelerator, reason)
    return plan


def build_bank(config: DictConfig) -> PhraseBank:
    """Builds the phrase bank ``config.output`` from ``config.input``, encoded or with vectors."""
