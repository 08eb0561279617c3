"""What can be configured: the signature of each part gives its keys, their types and defaults.

So nothing is written twice, and an unknown key or a wrong type fails before any work starts.
"""

from __future__ import annotations

import inspect
from functools import cache
from typing import TYPE_CHECKING, Any, ForwardRef

import lightning as L  # noqa: N812 - the name everyone uses
from hydra.core.config_store import ConfigStore
from hydra_zen import builds
from omegaconf import DictConfig, OmegaConf
from pydantic import TypeAdapter
from pydantic.errors import PydanticUserError

from lightweight_decoder.accelerator import resolve_accelerator
from lightweight_decoder.decoder.calibration_fit import fit_calibration
from lightweight_decoder.encoder import TextEncoder
from lightweight_decoder.rerank import ListwiseReranker, QueryAdapter
from lightweight_decoder.search import AutoSearch, ExactSearch, FaissSearch
from lightweight_decoder.shell.plain import plain
from lightweight_decoder.training.module import DecoderModule
from lightweight_decoder.training.sources.datamodule import DecoderDataModule
from lightweight_decoder.training.sources.denoise import Denoise
from lightweight_decoder.training.sources.labelled_text import LabelledText
from lightweight_decoder.training.sources.pairs import Pairs
from lightweight_decoder.training.sources.reverse_dictionary import ReverseDictionary
from lightweight_decoder.training.tracking import open_wandb

if TYPE_CHECKING:
    from collections.abc import Callable

_SCHEMAS: dict[str, Callable[..., object]] = {
    "text_encoder": TextEncoder,
    "reverse_dictionary": ReverseDictionary,
    "labelled_text": LabelledText,
    "pairs": Pairs,
    "denoise": Denoise,
    "batches": DecoderDataModule,
    "exact_search": ExactSearch,
    "faiss_search": FaissSearch,
    "auto_search": AutoSearch,
    "query_adapter": QueryAdapter,
    "listwise_reranker": ListwiseReranker,
    "decoder_module": DecoderModule,
    "calibration": fit_calibration,
    "accelerator": resolve_accelerator,
    "trainer": L.Trainer,
    "wandb": open_wandb,
}
PLANNED = frozenset({"accelerator", "devices", "precision", "strategy"})
"""Arguments of the Trainer that the resolver decides."""

_FILLED_IN_HERE: dict[str, frozenset[str]] = {
    "text_encoder": frozenset({"device", "cache_dir"}),
    "reverse_dictionary": frozenset({"encoder"}),
    "labelled_text": frozenset({"encoder"}),
    "batches": frozenset({"source", "seed"}),
    "exact_search": frozenset({"bank", "device", "max_block_bytes", "max_copy_bytes", "quantized"}),
    "faiss_search": frozenset({"bank"}),
    "auto_search": frozenset({"bank", "device"}),
    "query_adapter": frozenset({"query_dim", "bank_dim"}),
    "listwise_reranker": frozenset({"query_dim", "bank_dim", "num_phrases"}),
    "decoder_module": frozenset({"decoder", "seed"}),
    "calibration": frozenset(
        {"decoder", "queries", "targets", "out_of_bank", "own_vectors", "preprocessed"}
    ),
    "accelerator": PLANNED | {"look", "probe"},
    "trainer": frozenset({"callbacks", "default_root_dir", "logger"}),
    "wandb": frozenset({"run_dir"}),
}


def register_schemas() -> None:
    """Make the signatures of everything that can be configured known to Hydra."""
    store = ConfigStore.instance()
    for name, target in _SCHEMAS.items():
        excluded = _FILLED_IN_HERE.get(name, frozenset())
        schema = builds(target, populate_full_signature=True, zen_exclude=excluded)
        store.store(group="schema", name=name, node=schema)


def build(config: DictConfig | None, **more: Any) -> Any:  # noqa: ANN401 - whatever is configured
    """Build what a part of the configuration describes; None where it is switched off."""
    return None if config is None else _known_target(config)(**arguments(config), **more)


def takes(config: DictConfig, name: str) -> bool:
    """Says whether what a part of the configuration builds has an argument of that name."""
    return name in inspect.signature(_known_target(config)).parameters


def arguments(config: DictConfig) -> dict[str, Any]:
    """Return a part of the configuration as keyword arguments of the types they should have."""
    types = argument_types(_known_target(config))
    return {
        name: types[name].validate_python(value) if name in types else value
        for name, value in plain(config).items()
        if not name.startswith("_")
    }


def find_target(path: object) -> Callable[..., Any] | None:
    """Return what a ``_target_`` builds: one of the schemas, never any other code."""
    targets = {f"{target.__module__}.{target.__qualname__}": target for target in _SCHEMAS.values()}
    return targets.get(str(path))


@cache
def argument_types(target: Callable[..., Any]) -> dict[str, TypeAdapter[Any]]:
    """Return what checks each argument, where its annotation can be evaluated here."""
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


def _known_target(config: DictConfig) -> Callable[..., Any]:
    """Return the target of a part that ``check`` has seen."""
    target = find_target(config["_target_"])
    if target is None:
        message = f"{OmegaConf.to_container(config)} was not checked"
        raise AssertionError(message)
    return target
