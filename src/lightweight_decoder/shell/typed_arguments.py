"""What people type, made into what Hydra reads; and what Hydra says of it, made into lines."""

from __future__ import annotations

import os
import re
from itertools import pairwise
from typing import TYPE_CHECKING

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Quote, QuotedString
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lightweight_decoder.commands.arguments import unknown_key

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

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
    """Take the values of some keys out of arguments, just as the shell handed them over.

    Returns:
        The other arguments, and the values by key.
    """
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
    """Return what is wrong with overrides that Hydra refuses: a line each.

    Args:
        error: Hydra's.
        overrides: What was given to Hydra.
        compose: Raises what Hydra raises.
        groups: Names of the configuration groups.
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
