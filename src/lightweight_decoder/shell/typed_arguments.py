"""What can be typed and what it means; what is typed, made into what Hydra reads; its answers."""

from __future__ import annotations

import inspect
import os
import re
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Quote, QuotedString
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lightweight_decoder.commands.arguments import configured_arguments, takes_part, unknown_key
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
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    from omegaconf import DictConfig


_KEY = re.compile(r"(?:--|\+\+?)?([A-Za-z_][\w./@-]*)=(.*)", re.DOTALL)
_OPTIONS = {
    "cfg": "-c",
    "package": "-p",
    "info": "-i",
    "config-path": "-cp",
    "config-name": "-cn",
    "config-dir": "-cd",
    "experimental-rerun": None,
}
"""Hydra's own that have a value, as ``--name value`` or ``--name=value``, and their short forms."""

_UNKNOWN = re.compile(r"(?s)(?:In '.*?': )?Could not override '(?P<key>[^']*)'")
_TWICE = re.compile(r"Multiple values for ([^ ]+)\.")
_NO_OPTION = re.compile(
    r"(?s)(?:In '.*?': )?Could not find '(?P<group>.*)/(?P<option>[^'/]*)'.*?"
    r"Available options in '[^']*':\n(?P<options>.*?)\nConfig search path"
)

MISSING = "???"  # Hydra's word for a value that has to be given

_ENTRY = re.compile(r"^ {4}(\w+)(?: \([^)]*\))?:((?:.*\n?)(?:^ {8}.*\n?|^\n)*)", re.MULTILINE)


def schema_of_command(
    function: Callable[..., Any], *, groups: Collection[str], filled: Collection[str] = ()
) -> dict[str, Any]:
    """Return a command's configuration, but for what is ``filled`` or comes from its groups."""
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
    """Return a command's configuration as YAML, each key with what the docstrings say of it."""
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


def as_hydra_reads(
    arguments: Sequence[str], *, groups: Collection[str], is_sweep: bool
) -> list[str]:
    """Return arguments in Hydra's grammar.

    A value that is none in that grammar is taken as the shell handed it over: ``a, b (c).npy``. So
    is a list of values where nothing is swept. ``~/a`` is in the user's folder. ``--key=value`` is
    ``key=value``, as agents of experiment trackers type it.
    """
    return [_as_hydra_reads(each, groups=groups, is_sweep=is_sweep) for each in arguments]


def _as_hydra_reads(argument: str, *, groups: Collection[str], is_sweep: bool) -> str:
    """Return one argument in Hydra's grammar."""
    found = _KEY.fullmatch(argument)
    if found is None or (argument.startswith("--") and found[1] in _OPTIONS):
        return argument
    argument = argument.removeprefix("--")
    if re.match(r"~(?:/|\Z)", found[2]):  # which shells leave alone behind a key
        in_home = _quoted(os.path.expanduser(found[2]))  # noqa: PTH111 - it need be no path
        return argument.removesuffix(found[2]) + in_home
    as_text = f"{argument.removesuffix(found[2])}{_quoted(found[2])}"
    try:
        value = OverridesParser.create().parse_override(argument).value()
        OmegaConf.create({"value": value if isinstance(value, str) else None})
    except (HydraException, OmegaConfBaseException):
        return as_text
    is_list = isinstance(value, ChoiceSweep) and value.simple_form
    is_no_option = found[1] in groups and isinstance(value, int | float | dict)
    is_stripped = isinstance(value, str) and value != found[2] and value == found[2].strip()
    return as_text if is_no_option or is_stripped or (is_list and not is_sweep) else argument


def _quoted(text: str) -> str:
    """Return what Hydra and OmegaConf read as this text, with no interpolation in it."""
    escaped = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)
    return str(QuotedString(escaped, Quote.single).with_quotes())


def overrides_of(arguments: Sequence[str]) -> list[str]:
    """Return what is no option of Hydra's, and no value of one."""
    with_value = {*(f"--{name}" for name in _OPTIONS), *filter(None, _OPTIONS.values())}
    return [
        each
        for before, each in pairwise(["", *arguments])
        if not each.startswith("-") and before not in with_value
    ]


def mistakes_in(overrides: Sequence[str], groups: Collection[str]) -> list[str]:
    """Return what is wrong with overrides before Hydra sees them: a line each.

    Of two options of one group Hydra would take the last without a word.
    """
    lines = [
        f"{each}: expected key=value"
        for each in overrides
        if not (_KEY.fullmatch(each) or each.startswith("~"))
    ]
    for group in groups:
        options = [each.partition("=")[2] for each in overrides if _key_of(each) == group]
        if len(options) > 1:
            lines.append(f"{group}: was given twice: expected one option, found {options}")
    return lines


def taken_verbatim(
    arguments: Sequence[str], keys: Collection[str]
) -> tuple[list[str], dict[str, str]]:
    """Take the values of some keys out of arguments, just as the shell handed them over, by key."""
    found = [(each, _KEY.fullmatch(each)) for each in arguments]
    others = [each for each, match in found if match is None or match[1] not in keys]
    return others, {match[1]: match[2] for _, match in found if match and match[1] in keys}


def texts_of(overrides: Sequence[str]) -> dict[str, str]:
    """Return the text of each override's value, by key."""
    return {_key_of(each): each.partition("=")[2] for each in overrides}


def in_lines(
    error: Exception,
    overrides: Sequence[str],
    *,
    compose: Callable[[Sequence[str]], DictConfig],
    groups: Collection[str],
) -> list[str]:
    """Return what is wrong with overrides that Hydra refuses with an error: a line each.

    ``compose`` raises what Hydra raises; ``groups`` are the names of the configuration groups.
    """
    left, lines = list(overrides), list[str]()
    unknown: list[str] = []
    known: Iterable[str] | None = None
    while known is None:
        match = _UNKNOWN.match(str(error))
        rest = [each for each in left if match is None or _key_of(each) != match["key"]]
        if match is None or rest == left:
            lines.append(_in_one_line(error))
            known = _keys(OmegaConf.to_container(compose([]))) if unknown else ()
            break
        unknown.append(match["key"])
        left = rest
        try:
            known = list(_keys(OmegaConf.to_container(compose(left))))
        except HydraException as another:
            error = another
    keys = [*known, *groups]
    return [*(unknown_key(key, keys) for key in unknown), *lines]


def _in_one_line(error: Exception) -> str:
    """Return what Hydra says, in our words where these are better."""
    no_option, twice = _NO_OPTION.match(str(error)), _TWICE.match(str(error))
    if no_option is not None:
        options = ", ".join(no_option["options"].split())
        return (
            f"{no_option['group']}: there is no such option: expected {options}, "
            f"found {no_option['option']}"
        )
    if twice is not None:
        return f"{twice[1]}: has an option already: expected {twice[1]}=OPTION, without +"
    cause = f" {error.__cause__}" if error.__cause__ is not None else ""
    return " ".join(f"{error}{cause}".split()).rstrip(".")


def _key_of(override: str) -> str:
    """Return the key of an override, without what comes before or after it."""
    return override.partition("=")[0].lstrip("+~").partition("@")[0]


def _keys(tree: object, prefix: str = "") -> Iterator[str]:
    """Yield the keys of a configuration, those of its groups too."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield f"{prefix}{key}"
            yield from _keys(value, f"{prefix}{key}.")
