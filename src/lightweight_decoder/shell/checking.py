"""Finds what is wrong with a configuration before any work starts."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Literal

from omegaconf import DictConfig, OmegaConf
from pydantic import Field, TypeAdapter, ValidationError

from lightweight_decoder.errors import ConfigError
from lightweight_decoder.shell.plain import plain_value
from lightweight_decoder.shell.schemas import argument_types, find_target

if TYPE_CHECKING:
    from collections.abc import Iterator

_COMMAND_VALUES: dict[str, Any] = {
    "abstain_below": Annotated[float, Field(ge=0, le=1)],
    "against": str | None,
    "bank": str | None,
    "cache": bool,
    "cached_queries": Annotated[int, Field(ge=0)],
    "checkpoint": str | None,
    "ckpt_path": str | None,
    "dtype": Literal["auto", "float16", "float32"],
    "input": str | None,
    "max_memory_gb": Annotated[float, Field(gt=0, allow_inf_nan=False)] | None,
    "metadata_columns": list[str],
    "on_bad_row": Literal["raise", "drop"],
    "out_of_bank": str | None,
    "output": str | None,
    "overwrite": bool,
    "patience": Annotated[int, Field(ge=1)],
    "preprocessing": list[str | dict[str, Any]],
    "queries": str,
    "resume": bool,
    "run_dir": str,
    "seed": Annotated[int, Field(ge=0)],
    "target_column": str,
    "target_coverage": Annotated[float, Field(gt=0, le=1)] | None,
    "target_precision": Annotated[float, Field(gt=0, le=1)] | None,
    "targets": str,
    "text": str | int | float | bool | None,
    "text_column": str,
    "tolerance": Annotated[float, Field(ge=0)],
    "top_k": Annotated[int, Field(ge=1)],
    "trainer.accelerator": str,
    "trainer.devices": str | int | list[int],
    "trainer.precision": str | int,
    "trainer.strategy": str,
    "vectors": str | None,
}
"""Types of the values that belong to a command itself; those of its parts are in their signatures.
One name means the same in every command."""


def check(config: DictConfig) -> None:
    """Find everything that is wrong with a composed configuration, before any work starts.

    Raises:
        ConfigError: A value is missing, has the wrong type, or is none of those that exist; the
            message lists all of them.
    """
    problems = [f"{key}: no value was given" for key in sorted(OmegaConf.missing_keys(config))]
    if not problems:
        problems = list(_wrong_values(config, "", _command_types()))
    if problems:
        raise ConfigError(
            "the configuration cannot be used:\n  " + "\n  ".join(problems) + "\n",
            advice="Give values as key=value; --help lists all keys",
        )


def _wrong_values(
    config: DictConfig, prefix: str, types: dict[str, TypeAdapter[Any]]
) -> Iterator[str]:
    """Each value below ``prefix`` that does not have its type."""
    for key, value in config.items():
        name = f"{prefix}{key!s}"
        if isinstance(value, DictConfig):
            yield from _wrong_part(value, name, types)
        elif name in types:
            yield from _wrong_value(name, value, types[name])
        elif value is not None:
            yield f"{name}: expected a part with keys of its own or null, found {value!r}"


def _wrong_part(part: DictConfig, name: str, types: dict[str, TypeAdapter[Any]]) -> Iterator[str]:
    """Each value of a part that does not have the type that its signature gives it."""
    if "_target_" not in part:
        yield from _wrong_values(part, f"{name}.", types)
        return
    target = find_target(part["_target_"])
    if target is None:
        yield f"{name}._target_: expected the default, found {part['_target_']!r}"
        return
    for key, value in part.items():
        expected = argument_types(target).get(str(key))
        if expected is not None:
            yield from _wrong_value(f"{name}.{key!s}", value, expected)


def _wrong_value(name: str, value: object, expected: TypeAdapter[Any]) -> Iterator[str]:
    """Return a message where the value does not have its type."""
    try:
        expected.validate_python(plain_value(value))
    except ValidationError as error:
        message = error.errors()[0]["msg"].removeprefix("Input should be ")
        yield f"{name}: expected {message}, found {value!r}"


@cache
def _command_types() -> dict[str, TypeAdapter[Any]]:
    """Return what checks the values of a command itself."""
    return {name: TypeAdapter(kind) for name, kind in _COMMAND_VALUES.items()}
