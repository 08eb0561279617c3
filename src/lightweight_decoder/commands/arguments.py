"""What a command is given, converted once to the types of its signature, or refused."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from functools import cache, partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ForwardRef, ParamSpec, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from lightweight_decoder.commands.parts import bound_arguments, part_of, place_of, target_of
from lightweight_decoder.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable

Count = Annotated[int, Field(ge=1)]
"""A number of things of which there has to be one."""

Share = Annotated[float, Field(gt=0, le=1)]
"""A share of something."""

Gib = Annotated[float, Field(gt=0, allow_inf_nan=False)]
"""An amount of memory in GiB."""

_ANY_CLASS = ConfigDict(arbitrary_types_allowed=True)
_Given = ParamSpec("_Given")
_Result = TypeVar("_Result")


def command(function: Callable[_Given, _Result]) -> Callable[_Given, _Result]:
    """Return a command that is called with converted arguments, whatever it was given.

    ``"DIR"`` becomes a ``Path``, 5.0 becomes 5, in the bound arguments of parts too. What cannot be
    converted, is unknown or is missing raises one ``ConfigError`` that lists all of it, before any
    work starts.
    """

    @wraps(function)
    def checked(*args: _Given.args, **kwargs: _Given.kwargs) -> _Result:
        given = inspect.signature(function).bind_partial(*args).arguments | kwargs
        return function(**converted(function, given))  # type: ignore[call-arg]

    return checked


def converted(function: Callable[..., Any], given: Mapping[str, object]) -> dict[str, Any]:
    """Return the arguments of a command, converted to the types of its signature.

    Raises:
        ConfigError: Something is wrong; the message lists everything that is.
    """
    problems: list[str] = []
    arguments = _converted(function, given, "", problems)
    _refuse(problems)
    return arguments


def converted_part(part: Callable[..., Any], name: str) -> Callable[..., Any]:
    """Return a part of ours with its bound arguments converted; ``name`` is for messages."""
    problems: list[str] = []
    made = _converted_part(part, name, problems)
    _refuse(problems)
    return made


def _refuse(problems: list[str]) -> None:
    """Raise all problems in one message, if there are any."""
    if problems:
        listed = "the configuration cannot be used:" if len(problems) > 1 else ""
        problem = "\n  ".join(filter(None, [listed, *problems]))
        raise ConfigError(problem, advice="Give values as key=value; --help lists all keys")


def configured_arguments(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Return what can be given to a command or a part: all that no command completes it with."""
    part = part_of(function)
    completed = frozenset() if part is None else part.completed
    parameters = inspect.signature(function).parameters
    return {name: each for name, each in parameters.items() if name not in completed}


@cache
def argument_types(function: Callable[..., Any]) -> dict[str, TypeAdapter[Any]]:
    """Return what converts each configured argument whose annotation is known at run time."""
    types = {}
    for name, parameter in configured_arguments(function).items():
        annotation = parameter.annotation
        if isinstance(annotation, str):
            annotation = ForwardRef(annotation, module=function.__module__)
        try:
            types[name] = TypeAdapter(annotation, config=_ANY_CLASS)
            types[name].rebuild(raise_errors=True)
        except (PydanticUserError, NameError, TypeError):
            types.pop(name, None)
    return types


def takes_part(function: Callable[..., Any], name: str) -> bool:
    """Say whether an argument is a part: something to call."""
    adapter = argument_types(function).get(name)
    schema: Any = {} if adapter is None else adapter.core_schema
    return bool(schema.get("schema", schema).get("type") == "callable")


def takes(function: Callable[..., Any], name: str, value: object) -> bool:
    """Say whether an argument can have a value."""
    adapter = argument_types(function).get(name)
    try:
        return adapter is None or adapter.validate_python(value) is not NotImplemented
    except ValidationError:
        return False


def unknown_key(key: str, known: Iterable[str]) -> str:
    """Return a line about a key that does not exist, with the nearest one that does."""
    keys = list(known)
    below = [each for each in keys if each.startswith(f"{key}.")]
    if below:
        return f"{key}: has keys of its own: expected {', '.join(below)}"
    nearest = get_close_matches(key, keys, n=1)
    return f"{key}: there is no such key" + "".join(f"; {each} is the nearest" for each in nearest)


def _converted(
    function: Callable[..., Any], given: Mapping[str, object], prefix: str, problems: list[str]
) -> dict[str, Any]:
    """Convert what can be; note everything else."""
    known, types = configured_arguments(function), argument_types(function)
    arguments = {}
    for name, value in given.items():
        if name in known:
            arguments[name] = _converted_value(value, types.get(name), prefix + name, problems)
        else:
            keys = [place_of(prefix + each) for each in known]
            problems.append(unknown_key(place_of(prefix + name), keys))
    problems.extend(
        f"{place_of(prefix + name)}: no value was given"
        for name, parameter in known.items()
        if parameter.default is parameter.empty and name not in given
    )
    return arguments


def _converted_value(
    value: object, adapter: TypeAdapter[Any] | None, name: str, problems: list[str]
) -> object:
    """Convert a value, or the bound arguments of a part of ours."""
    if callable(value) and part_of(target_of(value)) is not None:
        return _converted_part(value, name, problems)
    if isinstance(value, Mapping) and "_target_" in value:
        target = value["_target_"]
        problems.append(f"{place_of(name)}._target_: expected the default, found {target!r}")
        return value
    if adapter is None:
        return value
    try:
        made = adapter.validate_python(value)
    except ValidationError as error:
        expected = _expected(error)
    else:
        if isinstance(made, Path) and value == "":
            expected = "a path"
        elif isinstance(value, bool) and not isinstance(made, bool):
            expected = "no truth value"
        else:
            return made
    several = " (several, to try one by one, are for train with -m)" if _is_sweep(value) else ""
    problems.append(f"{place_of(name)}: expected {expected}, found {value!r}{several}")
    return value


def _expected(error: ValidationError) -> str:
    """Return what would have been right, as pydantic says it, in words for people."""
    expected = error.errors()[0]["msg"].removeprefix("Input should be ")
    for said, meant in (
        ("callable", "a part with keys of its own"),
        ("a valid list", "a list, as [a,b]"),
        ("Input is not a valid path for <class 'pathlib.Path'>", "a path"),
    ):
        expected = expected.replace(said, meant)
    return expected


def _is_sweep(value: object) -> bool:
    """Say whether a text is of several numbers."""
    return isinstance(value, str) and re.fullmatch(r"[-+.\de]+(, *[-+.\de]+)+", value) is not None


def _converted_part(part: Callable[..., Any], name: str, problems: list[str]) -> partial[Any]:
    """Convert the bound arguments of a part of ours."""
    target = target_of(part)
    return partial(target, **_converted(target, bound_arguments(part), f"{name}.", problems))
