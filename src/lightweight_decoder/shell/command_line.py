"""Commands as Hydra runs them: where their configuration lies, and what they start."""

from __future__ import annotations

import sys
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from omegaconf import OmegaConf

from lightweight_decoder.errors import LightweightDecoderError
from lightweight_decoder.shell.errors import reported_errors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from omegaconf import DictConfig

TASKS = {
    "train": "lightweight_decoder.shell:train",
    "build_bank": "lightweight_decoder.shell:build_bank",
    "decode": "lightweight_decoder.shell:decode",
    "evaluate": "lightweight_decoder.shell:evaluate",
    "calibrate": "lightweight_decoder.shell:calibrate",
    "doctor": "lightweight_decoder.shell.command_line:doctor",
}
"""Each command, which is also the name of its configuration, and the function of a composed
configuration that does its work, imported when it is called."""


def run(name: str, arguments: Sequence[str]) -> None:
    """Run a command with what was typed after its name.

    Raises:
        SystemExit: Wherever the command cannot go on, after a message.
    """
    task = partial(_job, name)
    task.__module__ = name  # after which Hydra names the job and its log
    sys.argv[1:] = arguments
    hydra.main(version_base="1.3", config_path=str(config_folder()), config_name=name)(task)()


def config_folder() -> Path:
    """Return the folder of the configuration: in the installed package, or beside a checkout's src.

    Raises:
        FileNotFoundError: The package lies in neither.
    """
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "conf", package.parents[1] / "conf"):
        if (folder / "train.yaml").is_file():
            return folder
    raise FileNotFoundError(package / "conf")


def command_as_typed(name: str) -> list[str]:
    """Return the words that start a command in the way this process was started."""
    program = sys.argv[0]
    if program.endswith(".py"):
        return ["python", program]
    return [program, name.replace("_", "-")]


def doctor(config: DictConfig) -> None:
    """Say which accelerators work; exit status 1 where what is asked for would fail."""
    from lightweight_decoder.accelerator.doctor import run_doctor  # noqa: PLC0415 - for one command

    arguments: Any = OmegaConf.to_container(config, resolve=True)
    try:
        sys.exit(run_doctor(**arguments))
    except LightweightDecoderError as error:
        sys.exit(f"error: {error}")


def _job(name: str, config: DictConfig) -> float | None:
    """Do one command's work; what a sweep maximizes comes back, where there is such a thing."""
    module, function = TASKS[name].split(":")
    work = getattr(import_module(module), function)
    with reported_errors():
        if name == "train":
            from lightweight_decoder.shell.sweep import as_job  # noqa: PLC0415 - for one command

            return as_job(work, config)
        work(config)
        return None
