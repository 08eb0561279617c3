"""What a training run left in its folder; a stranger's folder has no powers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from lightweight_decoder.commands.arguments import converted_part
from lightweight_decoder.commands.parts import (
    PARTS,
    SOURCES,
    as_configuration,
    described,
    find_part,
    part_described,
    part_of,
    target_of,
)
from lightweight_decoder.decoder.checkpoints import read_checkpoint
from lightweight_decoder.errors import CheckpointError, ConfigError
from lightweight_decoder.files import whole_file

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from lightweight_decoder.training.sources.datamodule import Source

SETTINGS_NAME = "config.yaml"
_MOST_BYTES = 2**18  # a hundred times what we write


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """What a training run left in its folder: plain settings, the best checkpoint, its bank.

    ``data`` makes its source again, with its bank where the bank is now.
    """

    path: Path
    settings: dict[str, Any]
    data: Callable[..., Source]
    checkpoint: Path
    bank: Path


class _PlainLoader(yaml.SafeLoader):
    """Reads YAML without aliases, of which a few lines can stand for more than fits anywhere."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Refuse an alias, compose anything else."""
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it has an alias")
        return super().compose_node(parent, index)


class _PlainDumper(yaml.SafeDumper):
    """Writes what ``_PlainLoader`` reads."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002 - PyYAML's signature
        """Write a value again where it comes again."""
        return True


def write_settings(arguments: Mapping[str, Any], run_dir: Path) -> dict[str, Any]:
    """Write the arguments of a training into its folder, and return them as they were written."""
    settings = as_configuration(described(arguments))
    with whole_file(run_dir / SETTINGS_NAME) as path:
        text = yaml.dump(settings, Dumper=_PlainDumper, sort_keys=False)
        path.write_text(text, encoding="utf-8")
    return settings


def find_run(path: Path, *, bank: Path | None = None) -> FinishedRun:
    """Return what a training run left in its folder; ``bank`` is where its bank has moved.

    Raises:
        ConfigError: It is not the folder of a run, or its settings cannot be used any more.
        CheckpointError: It has no checkpoint, one of another version, or the bank has moved.
    """
    settings_path, checkpoint = path / SETTINGS_NAME, path / "checkpoints" / "best.ckpt"
    if not settings_path.is_file():
        expected = f"{SETTINGS_NAME}, as training writes it"
        problem = "this is not the folder of a run"
        advice = "Name the run's folder with run_dir=outputs/train/…"
        raise ConfigError.unexpected(path, expected, "no such file", summary=problem, advice=advice)
    if not checkpoint.is_file():
        expected = "checkpoints/best.ckpt"
        advice = "Let it finish: lightweight-decoder train ckpt_path=RUN/checkpoints/last.ckpt"
        raise CheckpointError.unexpected(
            path, expected, "no such file", summary="the run has no checkpoint", advice=advice
        )
    saved = read_checkpoint(checkpoint)
    place = bank if bank is not None else saved.find_bank()
    settings = read_settings(settings_path)
    settings["data"]["bank"] = str(place.absolute())
    return FinishedRun(path, settings, _source(settings), checkpoint, place)


def read_settings(path: Path) -> dict[str, Any]:
    """Read a run's settings: plain values and parts of ours; nothing is resolved or run."""
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
        if len(content) > _MOST_BYTES:
            raise _no_settings(path, f"at most {_MOST_BYTES} bytes", "more")
        settings = yaml.load(content, Loader=_PlainLoader)  # noqa: S506 - a kind of SafeLoader
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        found = " ".join(str(error).split())
        raise ConfigError.unreadable(path, found, expected="what training writes") from error
    if not isinstance(settings, dict) or not isinstance(settings.get("data"), dict):
        raise _no_settings(path, "what training writes", "no part 'data'")
    _check_plain(settings, path, "")
    return settings


def _check_plain(value: object, path: Path, name: str) -> None:
    """Refuse what is no plain value, stands for another one, or names code that is not ours."""
    if name.rpartition(".")[2] == "_target_" and find_part(value) is None:
        raise _no_settings(path, "a part of lightweight-decoder", f"{value!r:.80}", at=name)
    if isinstance(value, dict):
        for key, each in value.items():
            _check_plain(each, path, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list):
        for place, each in enumerate(value):
            _check_plain(each, path, f"{name}[{place}]")
    elif isinstance(value, str) and "${" in value:
        raise _no_settings(path, "a value", "an interpolation", at=name)
    elif not isinstance(value, str | int | float | None):
        raise _no_settings(path, "text, a number or null", f"{value!r:.80}", at=name)


def _source(settings: dict[str, Any]) -> Callable[..., Source]:
    """Return the source of the settings with its options converted; no other part is ever made."""
    part = part_described(settings["data"])
    if part is None or part_of(target_of(part)) not in [PARTS[name] for name in SOURCES]:
        raise ConfigError.unexpected(
            "data._target_", f"one of {', '.join(SOURCES)}", settings["data"].get("_target_")
        )
    return converted_part(part, "data")


def _no_settings(path: Path, expected: str, found: str, *, at: str | None = None) -> ConfigError:
    """Build the error for a file that training did not write."""
    return ConfigError.unexpected(
        path, expected, found, at=at, summary="is not the configuration of a run"
    )
