"""Commands as people type them: Hydra composes a configuration, the command is called with it."""

from __future__ import annotations

import gc
import inspect
import os
import re
import string
import sys
from contextlib import contextmanager
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lightweight_decoder.commands.arguments import command, takes, unknown_key
from lightweight_decoder.commands.parts import (
    SOURCES,
    as_arguments,
    bound_arguments,
    part_described,
    place_of,
    target_of,
)
from lightweight_decoder.errors import ConfigError
from lightweight_decoder.shell.exit_status import reported_errors, stopped_by_signals
from lightweight_decoder.shell.typed_arguments import (
    MISSING,
    as_hydra_reads,
    described_yaml,
    in_lines,
    mistakes_in,
    overrides_of,
    schema_of_command,
    schemas_of_parts,
    taken_verbatim,
    texts_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from omegaconf import DictConfig


class Command(NamedTuple):
    """A command of the command line.

    Its function is at ``path`` (``package.module.name``); its configuration groups choose from
    ``parts``. The shell gives the ``filled`` arguments, and takes ``verbatim`` ones as they come.
    """

    path: str
    parts: tuple[str, ...] = ()
    filled: tuple[str, ...] = ()
    verbatim: tuple[str, ...] = ()

    def load(self) -> Callable[..., Any]:
        """Import the function."""
        module, _, name = self.path.rpartition(".")
        loaded: Callable[..., Any] = getattr(import_module(module), name)
        return loaded


_COMMANDS = "lightweight_decoder.commands"
_LEARNED = ("query_adapter", "listwise_reranker", "phrase_classifier", "decoder_module")
_ENCODERS = ("text_encoder", "custom_encoder")
_ENCODERS_OF_BANK = ("bank_encoder", *_ENCODERS)
_SEARCHES = ("exact_search", "faiss_search", "auto_search")
COMMANDS = {
    "train": Command(
        f"{_COMMANDS}.train.train",
        (*SOURCES, *_SEARCHES, *_ENCODERS, "batches", *_LEARNED, "trainer", "wandb"),
        filled=("run_dir",),
    ),
    "evaluate": Command(f"{_COMMANDS}.evaluate.evaluate_run", (*_ENCODERS_OF_BANK, "wandb")),
    "build_bank": Command(f"{_COMMANDS}.build_bank.build_bank", _ENCODERS),
    "decode": Command(
        f"{_COMMANDS}.decode.decode_file", (*_ENCODERS_OF_BANK, *_SEARCHES), verbatim=("text",)
    ),
    "verify_bank": Command(f"{_COMMANDS}.verify_bank.verify_bank"),
    "calibrate": Command(f"{_COMMANDS}.calibrate.calibrate"),
    "doctor": Command("lightweight_decoder.accelerator.doctor.run_doctor"),
}
"""By the name of their primary configuration."""

_SWEEP = {"-m", "--multirun"}
_TRACEBACKS = "HYDRA_FULL_ERROR"


def run_command(name: str, typed: Sequence[str] | None = None) -> None:
    """Run a command with what was typed after its name; None: what this process was started with.

    Raises:
        SystemExit: The command said what is wrong, or was stopped, or was asked for help.
    """
    typed = sys.argv[1:] if typed is None else typed
    is_sweep = not _SWEEP.isdisjoint(typed)
    groups = config_groups()
    others, verbatim = taken_verbatim(typed, COMMANDS[name].verbatim)
    others.sort(key=lambda each: each not in _SWEEP)  # behind them Hydra reads no arguments
    arguments = as_hydra_reads(others, groups=groups, is_sweep=is_sweep)
    overrides = overrides_of(arguments)
    _refuse(mistakes_in(overrides, groups))
    # not while libraries are imported: torch's C++ ends with a core dump where it cannot go on
    with _loaded(name), stopped_by_signals(), _errors_in_lines(name, overrides):
        if {"-h", "--help"}.isdisjoint(typed):
            _run(name, verbatim, arguments)
        else:
            print(help_text(name, overrides))  # noqa: T201 - what was asked for


@contextmanager
def _loaded(name: str) -> Iterator[None]:
    """Import a command, and spare what its libraries made from being looked at as garbage.

    It is a million objects that stay; looking at them takes half a second.
    """
    gc.disable()
    try:
        register(name)
        gc.freeze()
    finally:
        gc.enable()
    try:
        yield
    finally:
        gc.unfreeze()


def _refuse(lines: list[str]) -> None:
    """End the program with lines about what was typed, if there are any."""
    if lines:
        sys.stderr.write("\n".join(lines) + ". --help lists all keys\n")
        raise SystemExit(1) from None


@contextmanager
def _errors_in_lines(name: str, overrides: Sequence[str]) -> Iterator[None]:
    """End the program where Hydra refuses what was typed, with a line for each mistake."""
    asked_for = os.environ.get(_TRACEBACKS)
    os.environ[_TRACEBACKS] = "1"  # or Hydra prints errors itself, over many lines, and exits
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        if asked_for == "1":
            raise
        compose = partial(composed, name)
        _refuse(in_lines(error, overrides, compose=compose, groups=config_groups()))
    except (OSError, ValueError) as error:  # of the run's folder; those of a job were reported
        cause = error if isinstance(error, OSError) else error.__cause__
        if asked_for == "1" or not isinstance(cause, OSError) or cause.filename is None:
            raise
        reason = f"{cause.filename}: cannot be made: {cause.strerror}"
        _refuse([f"{reason}. Choose another: hydra.run.dir=DIR, or hydra.sweep.dir=DIR"])
    finally:
        os.environ.pop(_TRACEBACKS)
        if asked_for is not None:
            os.environ[_TRACEBACKS] = asked_for


def config_folder() -> Path:
    """Return the configuration's folder: in the installed package, or beside a checkout's src."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "conf", package.parents[1] / "conf"):
        if (folder / "train.yaml").is_file():
            return folder
    raise FileNotFoundError(package / "conf")


def config_groups() -> dict[str, list[str]]:
    """Return the options of each configuration group."""
    folders = sorted(path for path in config_folder().iterdir() if path.is_dir())
    return {path.name: sorted(option.stem for option in path.glob("*.yaml")) for path in folders}


@cache
def register(name: str) -> None:
    """Make the schema of a command, and those of the parts that it can have, known to Hydra."""
    known, store = COMMANDS[name], ConfigStore.instance()
    if name == "train":
        from lightweight_decoder.shell.optuna_sweep import register_sweeper  # noqa: PLC0415

        register_sweeper()
    function = known.load()
    own = schema_of_command(function, groups=config_groups(), filled=known.filled)
    for schema, node in {name: own, **schemas_of_parts(known.parts, function)}.items():
        store.store(group="schema", name=schema, node=node)


def composed(name: str, overrides: Sequence[str], *, with_hydra: bool = False) -> DictConfig:
    """Return the configuration of a registered command; raises what Hydra raises."""
    with hydra.initialize_config_dir(str(config_folder()), version_base="1.3"):
        return hydra.compose(name, list(overrides), return_hydra_config=with_hydra)


def call(
    name: str,
    config: DictConfig,
    *,
    filled: Mapping[str, object] | None = None,
    overrides: Sequence[str] = (),
) -> Any:  # noqa: ANN401 - what the command returns
    """Call a command with a composed configuration and what is ``filled`` beside it.

    What was typed (``overrides``) tells that ``01`` and ``[a]`` are text where text is wanted,
    though Hydra reads a number and a list.

    Raises:
        LightweightDecoderError: Anything that the configuration or the files it names have wrong.
    """
    try:
        plain: Any = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError.unreadable(error.full_key, str(error.msg).splitlines()[0]) from error
    function, filled = COMMANDS[name].load(), dict(filled or {})
    given = _given(function, as_arguments(plain), texts_of(overrides))
    for key in given.keys() & filled.keys() - set(COMMANDS[name].verbatim):
        raise ConfigError(unknown_key(key, given))
    return command(inspect.unwrap(function))(**given | filled)


def help_text(name: str, overrides: Sequence[str]) -> str:
    """Return what ``--help`` says: how a command is typed, and every key with what it means."""
    config = composed(name, overrides, with_hydra=True)
    plain: Any = OmegaConf.to_container(composed(name, overrides))
    return string.Template(_as_started(config.hydra.help.template)).safe_substitute(
        CONFIG=described_yaml(COMMANDS[name].load(), plain),
        APP_CONFIG_GROUPS="\n".join(
            f"{group}: {', '.join(options)}" for group, options in config_groups().items()
        ),
    )


def _as_started(text: str) -> str:
    """Return a text with the commands in it as they are typed where this one was not a script."""
    if sys.argv[0].endswith(".py"):
        return text
    return re.sub(
        r"python (?:scripts/)?(\w+)\.py",
        lambda match: f"{sys.argv[0]} {match[1].replace('_', '-')}",
        text,
    )


def _run(name: str, verbatim: Mapping[str, str], arguments: list[str]) -> None:
    """Let Hydra run a command, once or many times."""
    task = partial(_job, name, verbatim)
    task.__module__ = name  # after which Hydra names the job and its log
    before, sys.argv = sys.argv, [*sys.argv[:1], *arguments]
    try:
        hydra.main(version_base="1.3", config_path=str(config_folder()), config_name=name)(task)()
    finally:
        sys.argv = before


def _job(name: str, verbatim: Mapping[str, str], config: DictConfig) -> float | None:
    """Do one command's work; what a sweep maximizes comes back, where there is such a thing."""
    with reported_errors():
        if name == "train":
            from lightweight_decoder.shell.sweep_jobs import as_job  # noqa: PLC0415 - needs plots

            return as_job(_train, config)
        overrides = HydraConfig.get().overrides.task
        result = call(name, config, filled=verbatim, overrides=overrides)
    if name in ("doctor", "verify_bank"):
        raise SystemExit(result)
    return None


def _train(config: DictConfig) -> float:
    """Train in the folder that Hydra made; return the best ``val/decoder/mrr``."""
    job = HydraConfig.get()
    wandb = OmegaConf.select(config, "logger.wandb")
    if wandb and wandb.group is None and job.mode == RunMode.MULTIRUN:
        wandb.group = Path(job.sweep.dir).name  # the tracker shows the jobs of one sweep together
    filled = {"run_dir": job.runtime.output_dir}
    best_mrr: float = call("train", config, filled=filled, overrides=job.overrides.task).best_mrr
    return best_mrr


def _given(
    function: Callable[..., Any],
    values: Mapping[str, Any],
    texts: Mapping[str, str],
    prefix: str = "",
) -> dict[str, Any]:
    """Return what is given of the arguments of a command or a part."""
    given: dict[str, Any] = {}
    for name, value in values.items():
        part = part_described(value) if isinstance(value, dict) else None
        text = texts.get(place_of(prefix + name))
        is_other = value is not None and not takes(function, name, value)
        if part is not None:
            target, bound = target_of(part), bound_arguments(part)
            given[name] = partial(target, **_given(target, bound, texts, f"{name}."))
        elif is_other and text is not None and takes(function, name, text):
            given[name] = text
        elif value != MISSING:
            given[name] = value
    return given
