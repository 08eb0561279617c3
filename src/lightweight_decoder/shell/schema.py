"""What Hydra knows of a command: keys and defaults of signatures, what docstrings say of them."""

from __future__ import annotations

import inspect
import re
from functools import cache
from typing import TYPE_CHECKING, Any

import yaml

from lightweight_decoder.commands.arguments import (
    configured_arguments,
    takes_part,
)
from lightweight_decoder.commands.parts import (
    PARTS,
    as_arguments,
    as_configuration,
    described,
    find_part,
    place_of,
    target_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

MISSING = "???"  # Hydra's word for a value that has to be given

_ENTRY = re.compile(r"^ {4}(\w+)(?: \([^)]*\))?:((?:.*\n?)(?:^ {8}.*\n?|^\n)*)", re.MULTILINE)


def schema_of_command(
    function: Callable[..., Any], *, groups: Collection[str], filled: Collection[str] = ()
) -> dict[str, Any]:
    """Return the configuration of a command, all but what its groups bring.

    Args:
        function: The command.
        groups: Names of its configuration groups.
        filled: Arguments that are not configured.
    """
    tree = {}
    for name, parameter in configured_arguments(function).items():
        is_part = takes_part(function, name)
        if name not in filled and not (is_part and place_of(name).partition(".")[0] in groups):
            tree[name] = _schema_of(parameter.default) if is_part else _default(parameter)
    return as_configuration(tree)


def schemas_of_parts(names: Collection[str], function: Callable[..., Any]) -> dict[str, Any]:
    """Return the configuration of parts, with the defaults that a command gives them."""
    defaults = [each.default for each in configured_arguments(function).values()]
    chosen = {target_of(default): default for default in defaults if callable(default)}
    targets = {name: PARTS[name].load() for name in names}
    return {name: _schema_of(chosen.get(target, target)) for name, target in targets.items()}


def described_yaml(function: Callable[..., Any], configuration: Mapping[str, Any]) -> str:
    """Return a configuration as YAML, each key with what the docstrings say of it.

    Args:
        function: The command that it is for.
        configuration: Plain values.
    """
    about = as_configuration(dict(_descriptions(function, as_arguments(configuration))))
    return "\n".join(_lines(configuration, about, indent=0))


def _schema_of(part: Callable[..., Any]) -> dict[str, Any]:
    """Return the keys of a part, with what it is."""
    known, signature = configured_arguments(target_of(part)), inspect.signature(part).parameters
    options = {name: _default(signature[name]) for name in signature if name in known}
    return {"_target_": described(part)["_target_"], **options}


def _default(parameter: inspect.Parameter) -> Any:  # noqa: ANN401 - any plain value
    """Return a default in plain values."""
    return MISSING if parameter.default is parameter.empty else described(parameter.default)


def _descriptions(
    function: Callable[..., Any], arguments: Mapping[str, Any]
) -> Iterator[tuple[str, Any]]:
    """Yield what the docstrings say of each argument, for a part of each of its own."""
    told = _told(function)
    for name, value in arguments.items():
        part = find_part(value.get("_target_")) if isinstance(value, dict) else None
        if part is not None:
            yield name, dict(_descriptions(part.load(), value)) | {"_target_": told.get(name)}
        else:
            yield name, told.get(name)


@cache
def _told(function: Callable[..., Any]) -> dict[str, str]:
    """Return the ``Args`` of a docstring in Google's style, each in one line."""
    doc = inspect.getdoc(function) or ""
    if "Args:" not in doc and inspect.isclass(function):
        doc = inspect.getdoc(function.__init__) or ""
    _, _, section = doc.partition("Args:\n")
    section = re.split(r"\n(?=\S)", section)[0]
    return {name: _plain(text) for name, text in _ENTRY.findall(section)}


def _plain(text: str) -> str:
    """Return the first sentence of a docstring's entry, as people read it on a terminal."""
    sentence = " ".join(text.split()).partition(". ")[0].rstrip(".")
    sentence = re.sub(r":\w+:`~?(?:[\w.]*\.)?(\w+)`", r"\1", sentence).replace("`", "")
    return re.sub(r"\bNone\b", "null", sentence)


def _lines(tree: Mapping[str, Any], about: Mapping[str, Any], *, indent: int) -> Iterator[str]:
    """Yield the lines of a tree, with comments."""
    for key, value in tree.items():
        told = about.get(key)
        if isinstance(value, dict) and value:
            title = told.get("_target_") if isinstance(told, dict) else told
            yield _line(f"{key}:", title, indent)
            yield from _lines(value, told if isinstance(told, dict) else {}, indent=indent + 2)
        elif key != "_target_":
            text = yaml.safe_dump({key: value}, default_flow_style=True, width=10**6).strip()
            yield _line(text[1:-1], told, indent)


def _line(text: str, told: str | None, indent: int) -> str:
    """Return a line with its comment."""
    return " " * indent + text + (f"  # {told}" if told else "")
