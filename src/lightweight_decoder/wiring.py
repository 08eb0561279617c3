"""From configuration to objects: the only module that knows Hydra and OmegaConf.

Every configuration group takes its keys, types and defaults from the signature of what it builds,
so nothing is written twice, and an unknown key or a wrong type fails before any work starts.
"""

from __future__ import annotations

import inspect
import json
import logging
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ForwardRef

import lightning as L  # noqa: N812 - the name everyone uses
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra_zen import builds
from omegaconf import DictConfig, OmegaConf
from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError
from rich.console import Console

from lightweight_decoder.accelerator import (
    AcceleratorPlan,
    forget_verdicts,
    plan_after,
    recognize_kernel_failure,
    resolve_accelerator,
)
from lightweight_decoder.answers import answer_table, write_answers
from lightweight_decoder.bank import EncoderInfo, PhraseBank
from lightweight_decoder.bank import build_bank as write_bank
from lightweight_decoder.data.datamodule import DecoderDataModule
from lightweight_decoder.data.denoise import Denoise
from lightweight_decoder.data.labelled_text import LabelledText
from lightweight_decoder.data.pairs import Pairs
from lightweight_decoder.data.phrase_files import (
    encoded_rows,
    read_texts,
    rows_with_vectors,
)
from lightweight_decoder.data.reverse_dictionary import ReverseDictionary
from lightweight_decoder.decoding import PhraseBankDecoder
from lightweight_decoder.embeddings import TextEncoder, default_cache_dir, open_embeddings
from lightweight_decoder.errors import ConfigError, EncoderError, LightweightDecoderError
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
    from collections.abc import Callable, Iterator, Sequence

    from lightning.pytorch.loggers import Logger

logger = logging.getLogger(__name__)

_SCHEMAS: dict[str, Callable[..., object]] = {
    "text_encoder": TextEncoder,
    "reverse_dictionary": ReverseDictionary,
    "labelled_text": LabelledText,
    "pairs": Pairs,
    "denoise": Denoise,
    "batches": DecoderDataModule,
    "query_adapter": QueryAdapter,
    "listwise_reranker": ListwiseReranker,
    "decoder_module": DecoderModule,
    "accelerator": resolve_accelerator,
    "trainer": L.Trainer,
    "wandb": open_wandb,
}
_PLANNED = frozenset({"accelerator", "devices", "precision", "strategy"})
_FILLED_IN_HERE: dict[str, frozenset[str]] = {
    "text_encoder": frozenset({"device", "cache_dir"}),
    "reverse_dictionary": frozenset({"encoder"}),
    "labelled_text": frozenset({"encoder"}),
    "batches": frozenset({"source", "seed"}),
    "query_adapter": frozenset({"query_dim", "bank_dim"}),
    "listwise_reranker": frozenset({"query_dim", "bank_dim", "num_phrases"}),
    "decoder_module": frozenset({"decoder", "seed"}),
    "accelerator": _PLANNED | {"look", "probe"},
    "trainer": frozenset({"callbacks", "default_root_dir", "logger"}),
    "wandb": frozenset({"run_dir"}),
}


def register_schemas() -> None:
    """Makes the signatures of everything that can be configured known to Hydra."""
    store = ConfigStore.instance()
    for name, target in _SCHEMAS.items():
        excluded = _FILLED_IN_HERE.get(name, frozenset())
        schema = builds(target, populate_full_signature=True, zen_exclude=excluded)
        store.store(group="schema", name=name, node=schema)


register_schemas()


@contextmanager
def reported_errors() -> Iterator[None]:
    """Ends the program with our message, and no traceback, when an error of ours is raised."""
    try:
        yield
    except LightweightDecoderError as error:
        logger.error("%s", error)  # noqa: TRY400 - the message is for people, who need no traceback
        raise SystemExit(1) from None


def train(config: DictConfig) -> float:
    """Trains and tests one decoder in Hydra's run folder; returns its best ``val/decoder/mrr``.

    Raises:
        LightweightDecoderError: Anything that the configuration or the files it names have wrong.
    """
    check(config)
    run_dir = Path(HydraConfig.get().runtime.output_dir)
    plan = resolve(config)
    _write_run_record(run_dir, config, plan)
    wandb_options = None if config.logger.wandb is None else _arguments(config.logger.wandb)
    with open_trackers(run_dir, wandb_options) as trackers:
        for tracker in trackers:
            tracker.log_hyperparams({**_plain(config), "accelerator_plan": plan.to_dict()})
        try:
            return _train_on(plan, config, run_dir, trackers, ckpt_path=config.ckpt_path)
        except Exception as error:  # noqa: BLE001 - what is no kernel failure is raised again
            plan = _plan_after(error, plan)
            _write_run_record(run_dir, config, plan)
            last = run_dir / "checkpoints" / "last.ckpt"
            ckpt_path = last if last.is_file() else config.ckpt_path
            logger.warning("Going on from %s", ckpt_path or "the start")
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
    datamodule = _build_datamodule(config, plan)
    module = _build_module(config, datamodule, plan)
    trainer = build_trainer(
        run_dir,
        trackers=trackers,
        patience=config.patience,
        ckpt_path=ckpt_path,
        **_arguments(config.trainer) | plan.trainer_arguments(),
    )
    metrics = fit_and_test(trainer, module, datamodule, ckpt_path=ckpt_path)
    if trainer.is_global_zero:
        write_metrics(metrics, run_dir)
        Console().print(comparison_table(metrics))
        logger.info("Run folder: %s", run_dir)
    return module.best_mrr


def _plan_after(error: Exception, plan: AcceleratorPlan) -> AcceleratorPlan:
    """The plan to go on with after a kernel failed in spite of the probe.

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


def build_bank(config: DictConfig) -> None:
    """Builds the bank ``config.output`` from the texts of ``config.input``, and says what it holds.

    Raises:
        LightweightDecoderError: Anything that the configuration or the files it names have wrong.
    """
    check(config)
    path = Path(config.input)
    texts, metadata = read_texts(
        path, text_column=config.text_column, metadata_columns=list(config.metadata_columns)
    )
    if config.vectors is None:
        encoder = _build_encoder(config, resolve(config))
        info = EncoderInfo(name=encoder.name, fingerprint=encoder.fingerprint)
        rows = encoded_rows(texts, metadata, encoder)
    else:
        info, vectors = None, Path(config.vectors)
        rows = rows_with_vectors(texts, metadata, vectors, texts_path=path)
    bank = write_bank(
        config.output,
        rows,
        encoder=info,
        dtype=config.dtype,
        overwrite=config.overwrite,
        total=len(texts),
        show_progress=True,
    )
    logger.info(
        "%s: %d phrases, %d vectors of width %d",
        bank.path,
        bank.num_phrases,
        bank.num_vectors,
        bank.dim,
    )


def decode(config: DictConfig) -> None:
    """Decodes the sentence ``config.text``, or the embeddings ``config.input``.

    Raises:
        LightweightDecoderError: Anything that the configuration or the files it names have wrong.
    """
    check(config)
    if (config.text is None) == (config.input is None):
        raise ConfigError(
            "one thing to decode is needed",
            where="text, input",
            expected='either text="…" or input=FILE',
            found="both" if config.text is not None else "neither",
        )
    if config.input is not None and config.output is None:
        raise ConfigError("no value was given", where="output", advice="Add output=FILE.jsonl.")
    plan = resolve(config)
    decoder = _open_decoder(config, plan)
    limits = {"top_k": config.top_k, "abstain_below": config.abstain_below}
    if config.text is not None:
        queries = _encoder_of(decoder.bank, config, plan).encode([config.text])
        Console().print(answer_table(decoder.decode(queries, **limits), title=config.text))
    else:
        output = Path(config.output)
        num_queries = write_answers(decoder, open_embeddings(config.input), output, **limits)
        logger.info("%s: %d queries", output, num_queries)


def _open_decoder(config: DictConfig, plan: AcceleratorPlan) -> PhraseBankDecoder:
    """The decoder of ``config.checkpoint``, or plain search in ``config.bank``."""
    if config.checkpoint is not None:
        return PhraseBankDecoder.from_checkpoint(
            config.checkpoint, bank=config.bank, device=_device(plan)
        )
    if config.bank is None:
        raise ConfigError(
            "there is nothing to decode with",
            where="bank, checkpoint",
            expected="bank=DIR or checkpoint=CKPT",
            found="neither",
        )
    return PhraseBankDecoder(PhraseBank.open(config.bank), device=_device(plan))


def _encoder_of(bank: PhraseBank, config: DictConfig, plan: AcceleratorPlan) -> TextEncoder:
    """The encoder that made a bank's vectors, the very same.

    Raises:
        EncoderError: The bank does not name one, or it has changed since.
    """
    info = bank.manifest.encoder
    if info is None:
        raise EncoderError(
            "the bank does not say which encoder made its vectors",
            where=bank.path,
            advice="Encode the text yourself and decode it with input=FILE",
        )
    encoder = TextEncoder(
        model=info.name,
        device=_device(plan),
        cache_dir=default_cache_dir() if config.cache else None,
    )
    if encoder.fingerprint != info.fingerprint:
        raise EncoderError(
            "the encoder is not the one that made the bank's vectors",
            where=info.name,
            expected=f"fingerprint {info.fingerprint[:12]}",
            found=encoder.fingerprint[:12],
            advice="Install the encoder that the bank was built with, or build the bank again",
        )
    return encoder


def resolve(config: DictConfig) -> AcceleratorPlan:
    """Returns the accelerator that works, out of what ``config.trainer`` asks for."""
    asked = {key: value for key, value in _plain(config.trainer).items() if key in _PLANNED}
    plan: AcceleratorPlan = _build(config.accelerator, **asked)
    return plan


def check(config: DictConfig) -> None:
    """Finds everything that is wrong with a composed configuration, before any work starts.

    Raises:
        ConfigError: A value is missing, has the wrong type, or is none of those that exist; the
            message lists all of them.
    """
    problems = [f"{key}: no value was given" for key in sorted(OmegaConf.missing_keys(config))]
    if not problems:
        problems = list(_wrong_values(config, ""))
    if problems:
        raise ConfigError(
            "the configuration cannot be used:\n  " + "\n  ".join(problems) + "\n",
            advice="Give values as key=value; --help lists all keys",
        )


def _build_datamodule(config: DictConfig, plan: AcceleratorPlan) -> DecoderDataModule:
    """The configured source, with its bank built, in batches."""
    encoder = {}
    if "encoder" in inspect.signature(_target(config.data)).parameters:
        encoder = {"encoder": _build_encoder(config, plan)}
    source = _build(config.data, **encoder)
    datamodule: DecoderDataModule = _build(config.batches, source=source, seed=config.seed)
    datamodule.prepare_data()
    return datamodule


def _build_encoder(config: DictConfig, plan: AcceleratorPlan) -> TextEncoder:
    """The configured text encoder on the device that works, with the cache of this user."""
    cache_dir = default_cache_dir() if config.cache else None
    encoder: TextEncoder = _build(config.embeddings, device=_device(plan), cache_dir=cache_dir)
    return encoder


def _build_module(
    config: DictConfig, datamodule: DecoderDataModule, plan: AcceleratorPlan
) -> DecoderModule:
    """The decoder with its learned parts, ready to be trained."""
    bank = datamodule.bank
    dims = {"query_dim": datamodule.split("train").queries.shape[1], "bank_dim": bank.dim}
    adapter = _build(config.rerank.adapter, **dims)
    reranker = _build(config.rerank.reranker, num_phrases=bank.num_phrases, **dims)
    decoder = PhraseBankDecoder(bank, adapter=adapter, reranker=reranker, device=_device(plan))
    module: DecoderModule = _build(config.training, decoder=decoder, seed=config.seed)
    module.accelerator_plan = plan.to_dict()
    return module


def _device(plan: AcceleratorPlan) -> str:
    """Torch's name for the plan's first device."""
    if plan.accelerator == "cuda" and isinstance(plan.devices, list):
        return f"cuda:{plan.devices[0]}"
    return plan.accelerator


def _write_run_record(run_dir: Path, config: DictConfig, plan: AcceleratorPlan) -> None:
    """Writes the resolved configuration and the accelerator plan into the run folder."""
    OmegaConf.save(OmegaConf.create(_plain(config)), run_dir / "config.yaml")
    plan_text = json.dumps(plan.to_dict(), indent=2) + "\n"
    (run_dir / "accelerator.json").write_text(plan_text, encoding="utf-8")


def _build(config: DictConfig | None, **more: Any) -> Any:  # noqa: ANN401 - whatever is configured
    """Builds what a part of the configuration describes; None where it is switched off."""
    return None if config is None else _target(config)(**_arguments(config), **more)


def _target(config: DictConfig) -> Callable[..., Any]:
    """What a part of the configuration builds: one of the schemas, never any other code."""
    path: str = config["_target_"]
    return next(
        target
        for target in _SCHEMAS.values()
        if f"{target.__module__}.{target.__qualname__}" == path
    )


def _arguments(config: DictConfig) -> dict[str, Any]:
    """A part of the configuration as keyword arguments, converted to the types they should have."""
    types = _types(_target(config))
    return {
        name: types[name].validate_python(value) if name in types else value
        for name, value in _plain(config).items()
        if not name.startswith("_")
    }


def _wrong_values(config: DictConfig, prefix: str) -> Iterator[str]:
    """Each value that does not have the type that its schema's signature gives it."""
    types = _types(_target(config)) if "_target_" in config else {}
    for key, value in config.items():
        name = str(key)
        if isinstance(value, DictConfig):
            yield from _wrong_values(value, f"{prefix}{name}.")
        elif name in types:
            try:
                types[name].validate_python(_plain_value(value))
            except ValidationError as error:
                expected = error.errors()[0]["msg"].removeprefix("Input should be ")
                yield f"{prefix}{name}: expected {expected}, found {value!r}"


@cache
def _types(target: Callable[..., Any]) -> dict[str, TypeAdapter[Any]]:
    """What checks each argument, where its annotation can be evaluated outside a type checker."""
    types = {}
    for name, parameter in inspect.signature(target).parameters.items():
        annotation = parameter.annotation
        if isinstance(annotation, str):
            annotation = ForwardRef(annotation, module=target.__module__)
        try:
            types[name] = TypeAdapter(annotation)
            types[name].rebuild(raise_errors=True)
        except (PydanticUserError, NameError, TypeError):
            types.pop(name, None)
    return types


def _plain(config: DictConfig | None) -> Any:  # noqa: ANN401 - a container of plain values, or None
    """A part of the configuration as plain Python, interpolations resolved, paths as text."""
    if config is None:
        return None
    return _plain_value(OmegaConf.to_container(config, resolve=True, throw_on_missing=True))


def _plain_value(value: Any) -> Any:  # noqa: ANN401 - values of any type
    """The same value with lists, dictionaries and texts only."""
    if OmegaConf.is_config(value):
        return _plain(value)
    if isinstance(value, dict):
        return {key: _plain_value(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain_value(item) for item in value]
    return str(value) if isinstance(value, Path) else value
