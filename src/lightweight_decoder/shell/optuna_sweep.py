"""Bayesian sweeps: Hydra's overrides become an Optuna search space, its launchers run the jobs.

hydra-optuna-sweeper 1.3.0, the newest for Hydra 1.3, needs Optuna 2, whose SQLite storage fails
with SQLAlchemy 2; and it starts a killed sweep anew.
"""

from __future__ import annotations

import importlib.util
import inspect
import logging
import math
from contextlib import contextmanager
from dataclasses import make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from filelock import FileLock, Timeout
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep, Sweep, ValueType
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from omegaconf import OmegaConf

from lightweight_decoder.errors import ConfigError, MissingDependencyError
from lightweight_decoder.evaluation.sweep_summary import read_jobs
from lightweight_decoder.shell.exit_status import reported_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from hydra.plugins.launcher import Launcher
    from hydra.types import HydraContext, TaskFunction
    from omegaconf import DictConfig
    from optuna.distributions import BaseDistribution

    from lightweight_decoder.evaluation.sweep_summary import SweepJob
    from lightweight_decoder.training.study import SweepStudy

logger = logging.getLogger(__name__)


class ResumableOptunaSweeper(Sweeper):
    """Bayesian search that goes on where it stopped.

    Args:
        n_trials: Jobs of the whole sweep, those of an earlier start included.
        n_jobs: Jobs at a time, for launchers that run several.
        n_startup_trials: Jobs drawn at random, before there is something to learn from.
        seed: Decides, with the results, what is drawn.
        params: Search space as key: sweep; the command line goes before it.
    """

    def __init__(
        self,
        *,
        n_trials: int = 20,
        n_jobs: int = 1,
        n_startup_trials: int = 5,
        seed: int = 0,
        params: dict[str, Any] | None = None,
    ) -> None:
        self._options = {"n_trials": n_trials, "n_jobs": n_jobs, "seed": seed}
        self._options["n_startup_trials"] = n_startup_trials
        self._params = params or {}

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Keep what Hydra gives, and make the launcher."""
        self.config, self._sweep_config = config, config
        self.hydra_context = hydra_context
        self._launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Run the sweep of the typed overrides."""
        overrides = [*(f"{key}={value}" for key, value in self._params.items()), *arguments]
        with reported_errors():
            sweep(
                overrides,
                config=self._sweep_config,
                launcher=self._launcher,
                compose=self.validate_batch_is_legal,
                **self._options,
            )


def register_sweeper() -> None:
    """Make ``hydra/sweeper=resumable_optuna`` known to Hydra in this process.

    The processes that a launcher starts need no sweeper, and compose from a copy of Hydra's store.
    """
    plugins = Plugins.instance()
    plugins.register(ResumableOptunaSweeper)
    # Hydra 1.3 registers a sweeper of any package, and then makes only those of hydra_plugins:
    # a package that every Hydra program in the environment would load.
    name = f"{ResumableOptunaSweeper.__module__}.{ResumableOptunaSweeper.__name__}"
    allowed = plugins.is_in_toplevel_plugins_module
    plugins.is_in_toplevel_plugins_module = lambda clazz: (  # type: ignore[method-assign]
        clazz == name or allowed(clazz)
    )
    types = get_type_hints(ResumableOptunaSweeper.__init__)
    parameters = inspect.signature(ResumableOptunaSweeper).parameters
    options = [(key, types[key], parameter.default) for key, parameter in parameters.items()]
    ConfigStore.instance().store(
        group="hydra/sweeper",
        name="resumable_optuna",
        node=make_dataclass("SweeperOptions", [("_target_", str, name), *options]),
    )


def sweep(
    overrides: Sequence[str],
    *,
    config: DictConfig,
    launcher: Launcher,
    compose: Callable[[Sequence[Sequence[str]]], None],
    n_trials: int,
    n_jobs: int,
    n_startup_trials: int,
    seed: int,
) -> None:
    """Run jobs until the study in ``study.db`` of the sweep folder has ``n_trials``.

    Args:
        overrides: As typed; those that are sweeps are what is searched through.
        config: Hydra's, of the sweep.
        launcher: Runs jobs, here or elsewhere.
        compose: Raises where the overrides of a job cannot be composed.
        n_trials: As of :class:`ResumableOptunaSweeper`, like those that follow.
        n_jobs: At a time.
        n_startup_trials: Drawn at random.
        seed: Decides what is drawn.

    Raises:
        MissingDependencyError: Optuna is not installed.
        ConfigError: A number is out of range, there is nothing to draw from, the sweep folder holds
            another sweep, or one is running there.
        HydraException: The overrides cannot be composed; nothing was written.
    """
    if importlib.util.find_spec("optuna") is None:
        raise MissingDependencyError("optuna", extra="sweeps", purpose="hparams_search=optuna")
    import optuna  # noqa: PLC0415 - a second that only its users should pay

    from lightweight_decoder.training.study import SweepStudy  # noqa: PLC0415 - the same

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    given = {"n_trials": n_trials, "n_jobs": n_jobs}
    for name, value in {**given, "n_startup_trials": n_startup_trials, "seed": seed}.items():
        if value < (least := int(name in given)):
            where, expected = f"hydra.sweeper.{name}", f"{least} or more"
            raise ConfigError.unexpected(where, expected, value, summary="out of range")
    space, fixed = search_space(overrides)
    compose([_overrides(fixed, optuna.create_study().ask(space).params)])
    sweep_dir = Path(config.hydra.sweep.dir)
    sweep_dir.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(config, sweep_dir / "multirun.yaml")
    with _alone_in(sweep_dir):
        study = SweepStudy(
            sweep_dir / "study.db",
            space,
            overrides=tuple(overrides),
            seed=seed,
            n_startup_trials=n_startup_trials,
        )
        while batch := study.next_jobs(n_trials=n_trials, n_jobs=n_jobs):
            run_batch(study, batch, fixed=fixed, launcher=launcher, sweep_dir=sweep_dir)


@contextmanager
def _alone_in(sweep_dir: Path) -> Iterator[None]:
    """Keep a second sweep out, which would do the same jobs; a kill opens the lock."""
    lock = FileLock(sweep_dir / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        problem = "another sweep is running there"
        advice = "Wait until it ends, or name another hydra.sweep.dir"
        raise ConfigError(problem, where=sweep_dir, advice=advice) from None
    try:
        yield
    finally:
        lock.release()


def run_batch(
    study: SweepStudy,
    batch: dict[int, dict[str, Any]],
    *,
    fixed: tuple[str, ...],
    launcher: Launcher,
    sweep_dir: Path,
) -> None:
    """Run some jobs and tell the study what their own records say.

    The launcher's answers are not used: it has none where a job's process died. An error of the
    launcher is raised where it started no job at all.
    """
    overrides = [_overrides(fixed, params) for params in batch.values()]
    try:
        launcher.launch(overrides, initial_job_idx=min(batch))
    except Exception:
        if not batch.keys() & _jobs(sweep_dir).keys():
            raise
        logger.exception("A job ended without a result")
    jobs = _jobs(sweep_dir)
    for number in batch:
        study.tell(number, jobs[number].objective if number in jobs else None)


def _jobs(sweep_dir: Path) -> dict[int, SweepJob]:
    """Return the jobs that have begun, by number."""
    return {job.number: job for job in read_jobs(sweep_dir).values()}


def _overrides(fixed: tuple[str, ...], params: dict[str, Any]) -> list[str]:
    """Return the overrides of a job."""
    return [*fixed, *(f"{key}={value}" for key, value in params.items())]


def search_space(overrides: Sequence[str]) -> tuple[dict[str, BaseDistribution], tuple[str, ...]]:
    """Return the parameters to draw, and the overrides that all jobs share.

    The last override of a key counts, so the command line comes after a file's search space.
    """
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    last = {override.key_or_group: override for override in parsed}.values()
    space = {
        each.get_key_element(): _distribution(each) for each in last if each.is_sweep_override()
    }
    fixed = [str(each.input_line) for each in last if not each.is_sweep_override()]
    return space, tuple(fixed)


def _distribution(override: Override) -> BaseDistribution:
    """Return what ``interval``, ``range`` or a choice means to Optuna, if it means anything."""
    value = override.value()
    tags = value.tags if isinstance(value, Sweep) else set()
    if tags - {"log"}:
        raise _unusable(override, "no tag but log")
    if isinstance(value, IntervalSweep):
        return _between(override, value.start, value.end, log="log" in tags)
    if isinstance(value, RangeSweep):
        numbers = value.range() if value.step else ()
        if isinstance(numbers, range) and numbers:
            low, high, step = min(numbers), max(numbers), abs(numbers.step)
            return _between(override, low, high, log="log" in tags, step=step)
    if "log" in tags:
        raise _unusable(override, "tag(log, …) of an interval, or of a range of whole numbers")
    return _one_of(override)


def _between(
    override: Override, low: float | None, high: float | None, *, log: bool, step: int = 1
) -> BaseDistribution:
    """Return the distribution of numbers between two, both included; whole ones if they are."""
    from optuna.distributions import FloatDistribution, IntDistribution  # noqa: PLC0415 - a second

    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        raise _unusable(override, "two numbers")
    if low > high:
        raise _unusable(override, "the lower number first")
    if log and low <= 0:
        raise _unusable(override, "numbers above 0, as their logarithm is drawn")
    if log and step != 1:
        raise _unusable(override, "steps of 1 on a logarithmic scale")
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, log=log, step=step)
    return FloatDistribution(low, high, log=log)


def _one_of(override: Override) -> BaseDistribution:
    """Return the distribution of listed values."""
    from optuna.distributions import CategoricalDistribution  # noqa: PLC0415 - a second

    value = override.value()
    endless = isinstance(value, RangeSweep) and not value.step
    if endless or override.value_type == ValueType.GLOB_CHOICE_SWEEP:
        raise _unusable(override, "an interval, a range, or a list of values")
    choices = list(override.sweep_string_iterator())
    if not choices:
        raise _unusable(override, "at least one value")
    return CategoricalDistribution(choices)


def _unusable(override: Override, expected: str) -> ConfigError:
    """Return the error of a search space that says nothing."""
    problem, found = "cannot be searched through", override.get_value_string()
    return ConfigError.unexpected(override.get_key_element(), expected, found, summary=problem)
