"""The parts that commands are put together from, by name, and as plain values.

A *part* is an argument of a command that is called while it runs: a class or function, perhaps with
some arguments bound by ``functools.partial``. The command completes it with what only it knows.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from datetime import timedelta
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

_PACKAGE = __name__.partition(".")[0]
_SOURCES = f"{_PACKAGE}.training.sources"
_SEARCH = frozenset({"bank", "device", "max_block_bytes", "max_copy_bytes", "quantized"})


class Part(NamedTuple):
    """A class or function that a command can be configured with.

    Attributes:
        path: Where it is: ``package.module.Name``.
        completed: Arguments that are not configured, as a command gives them.
    """

    path: str
    completed: frozenset[str] = frozenset()

    def load(self) -> Callable[..., Any]:
        """Import the class or function."""
        module, _, name = self.path.rpartition(".")
        loaded: Callable[..., Any] = getattr(import_module(module), name)
        return loaded


PARTS = {
    "text_encoder": Part(
        f"{_PACKAGE}.encoder.text_encoder.TextEncoder", frozenset({"device", "cache_dir"})
    ),
    "custom_encoder": Part(f"{_PACKAGE}.encoder.custom_encoder.custom_encoder"),
    "bank_encoder": Part(
        f"{_PACKAGE}.decoder.bank_encoder.encoder_of", frozenset({"bank", "device", "cache_dir"})
    ),
    "reverse_dictionary": Part(
        f"{_SOURCES}.reverse_dictionary.ReverseDictionary", frozenset({"encoder"})
    ),
    "labelled_text": Part(f"{_SOURCES}.labelled_text.LabelledText", frozenset({"encoder"})),
    "pairs": Part(f"{_SOURCES}.pairs.Pairs"),
    "denoise": Part(f"{_SOURCES}.denoise.Denoise"),
    "batches": Part(f"{_SOURCES}.datamodule.DecoderDataModule", frozenset({"source", "seed"})),
    "exact_search": Part(f"{_PACKAGE}.search.exact.ExactSearch", _SEARCH),
    "faiss_search": Part(f"{_PACKAGE}.search.faiss_search.FaissSearch", _SEARCH),
    "auto_search": Part(f"{_PACKAGE}.search.auto.AutoSearch", _SEARCH),
    "query_adapter": Part(
        f"{_PACKAGE}.rerank.adapter.QueryAdapter", frozenset({"query_dim", "bank_dim"})
    ),
    "listwise_reranker": Part(
        f"{_PACKAGE}.rerank.reranker.ListwiseReranker",
        frozenset({"query_dim", "bank_dim", "num_phrases"}),
    ),
    "phrase_classifier": Part(
        f"{_PACKAGE}.rerank.phrase_classifier.PhraseClassifier",
        frozenset({"query_dim", "bank_dim", "num_phrases"}),
    ),
    "decoder_module": Part(
        f"{_PACKAGE}.training.module.DecoderModule", frozenset({"decoder", "seed"})
    ),
    "calibration": Part(
        f"{_PACKAGE}.decoder.calibration_fit.fit_calibration",
        frozenset({"decoder", "queries", "targets"})
        | {"out_of_bank", "own_vectors", "preprocessed"},
    ),
    "trainer": Part(
        "lightning.pytorch.trainer.trainer.Trainer",
        frozenset({"accelerator", "devices", "precision", "strategy"})
        | {"callbacks", "default_root_dir", "logger"},
    ),
    "accelerator": Part(f"{_PACKAGE}.accelerator.resolver.resolve_accelerator"),
    "one_device": Part(f"{_PACKAGE}.commands.opening.one_device"),
    "wandb": Part(f"{_PACKAGE}.training.tracking.open_wandb", frozenset({"run_dir"})),
}
"""Everything that a configuration can name; no other code ever runs because a file names it."""

SOURCES = ("reverse_dictionary", "labelled_text", "pairs", "denoise")
"""The parts that queries and right phrases come from."""

_EARLIER = {"calibrate": "calibration", "HnswSearch": "faiss_search"}
"""Parts of earlier versions by their names, as finished runs name them."""

_PART_AT = {part.path: part for part in PARTS.values()}

PLACES = {
    "adapter": "rerank.adapter",
    "reranker": "rerank.reranker",
    "wandb": "logger.wandb",
    "accelerator.accelerator": "trainer.accelerator",
    "accelerator.devices": "trainer.devices",
    "accelerator.precision": "trainer.precision",
    "accelerator.strategy": "trainer.strategy",
}
"""Where an argument stands in a configuration, if not under its own name."""


def complete(part: Callable[..., Any], *given: object, **known: object) -> Any:  # noqa: ANN401 - whatever it makes
    """Call a part with those of the known values that it has arguments for."""
    parameters = inspect.signature(part).parameters
    return part(*given, **{name: value for name, value in known.items() if name in parameters})


def target_of(part: Callable[..., Any]) -> Callable[..., Any]:
    """Return the class or function itself, without the arguments that are bound."""
    return part.func if isinstance(part, partial) else part


def bound_arguments(part: Callable[..., Any]) -> dict[str, Any]:
    """Return the arguments that are bound already, by name."""
    if not isinstance(part, partial):
        return {}
    names = inspect.signature(part.func).parameters
    return dict(zip(names, part.args, strict=False)) | part.keywords


def part_of(target: Callable[..., Any]) -> Part | None:
    """Return the part that a class or function is; None if it is a stranger's."""
    return _PART_AT.get(_path_of(target))


def options_of(part: Callable[..., Any]) -> dict[str, Any]:
    """Return the values that the configured arguments of a part have, bound or by default."""
    known = part_of(target_of(part))
    completed = frozenset() if known is None else known.completed
    return {
        name: parameter.default
        for name, parameter in inspect.signature(part).parameters.items()
        if parameter.default is not parameter.empty and name not in completed
    }


def changed_options(part: Callable[..., Any], default: Callable[..., Any]) -> dict[str, Any]:
    """Return the options of a part that differ from those of a default; all of another part's."""
    usual = options_of(default) if target_of(part) is target_of(default) else {}
    options = options_of(part)
    return {name: each for name, each in options.items() if (name, each) not in usual.items()}


def described(value: object) -> Any:  # noqa: ANN401 - any plain value
    """Return an argument in plain values, a part by its path and options."""
    if callable(value):
        return {"_target_": _path_of(target_of(value)), **described(options_of(value))}
    if isinstance(value, Mapping):
        return {str(name): described(each) for name, each in value.items()}
    if isinstance(value, timedelta):
        return {"seconds": value.total_seconds()}
    if isinstance(value, list | tuple):
        return [described(each) for each in value]
    return str(value) if isinstance(value, Path) else value


def find_part(path: object) -> Part | None:
    """Return the part that a configuration names, or None.

    Paths of earlier versions, whose modules had other names, mean what they did.
    """
    if not isinstance(path, str):
        return None
    if path in _PART_AT or not path.startswith(f"{_PACKAGE}."):
        return _PART_AT.get(path)
    name = path.rpartition(".")[2]
    if name in _EARLIER:
        return PARTS[_EARLIER[name]]
    return next((part for part in PARTS.values() if part.path.endswith(f".{name}")), None)


def part_described(description: Mapping[str, Any]) -> Callable[..., Any] | None:
    """Return the part that ``described`` told of, its arguments not converted yet.

    None where it names something else than one of our parts.
    """
    part = find_part(description.get("_target_"))
    if part is None:
        return None
    bound = {name: value for name, value in description.items() if name != "_target_"}
    return partial(part.load(), **bound)


def place_of(name: str) -> str:
    """Return where an argument, or one of a part, stands in a configuration."""
    for known, place in PLACES.items():
        if name == known or name.startswith(f"{known}."):
            return place + name.removeprefix(known)
    return name


def as_configuration(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return described arguments laid out as a configuration."""
    return _moved(arguments, PLACES)


def as_arguments(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration laid out as arguments; the inverse of ``as_configuration``."""
    return _moved(configuration, {place: name for name, place in PLACES.items()})


def _moved(tree: Mapping[str, Any], places: Mapping[str, str]) -> dict[str, Any]:
    """Return a tree with some of its values at other places; groups left empty are gone."""
    moved = {name: dict(each) if isinstance(each, Mapping) else each for name, each in tree.items()}
    taken = {new: value for old, new in places.items() for value in _popped(moved, old)}
    moved = {name: each for name, each in moved.items() if each != {} or tree[name] == {}}
    for place, value in taken.items():
        group, _, name = place.rpartition(".")
        within = moved.setdefault(group, {}) if group else moved
        if isinstance(within, dict):  # or a value is where a part should be, which will be refused
            within[name] = value
    return moved


def _popped(tree: dict[str, Any], place: str) -> list[Any]:
    """Take the value at a place out of a tree; nothing where there is none."""
    group, _, name = place.rpartition(".")
    within = tree.get(group) if group else tree
    return [within.pop(name)] if isinstance(within, dict) and name in within else []


def _path_of(target: Callable[..., Any]) -> str:
    return f"{target.__module__}.{getattr(target, '__qualname__', type(target).__qualname__)}"
