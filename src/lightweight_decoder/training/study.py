"""An Optuna study that is told job by job, and goes on after a kill as if nothing had happened.

What a job is given follows from the seed, the job's number and the results of the jobs before it,
and from nothing else: every job is drawn by a sampler of its own seed, in memory, and only then
written down, at once, with all its parameters. A job that was running when its process was killed
keeps its number and parameters, so an interrupted study and an uninterrupted one are the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
from optuna.trial import TrialState

from lightweight_decoder.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

STUDY_NAME = "sweep"


class SweepStudy:
    """A study in an SQLite file, which is made where it does not exist.

    Args:
        path: The file. Optuna's own tools open it as ``sqlite:///PATH``, study ``"sweep"``.
        space: What is drawn for each job.
        overrides: What was typed; a study goes on only with the same.
        seed: Decides, with the results, everything that is drawn.
        n_startup_trials: Jobs that are drawn at random before Optuna's tree-structured Parzen
            estimator takes over.

    Raises:
        ConfigError: The file holds a study of something else.
    """

    def __init__(
        self,
        path: Path,
        space: Mapping[str, BaseDistribution],
        *,
        overrides: tuple[str, ...] = (),
        seed: int = 0,
        n_startup_trials: int = 5,
    ) -> None:
        self._space = dict(space)
        self._seed = seed
        self._n_startup_trials = n_startup_trials
        self._study = optuna.create_study(
            storage=f"sqlite:///{path.absolute()}",
            study_name=STUDY_NAME,
            direction="maximize",
            load_if_exists=True,
        )
        options = {"seed": seed, "n_startup_trials": n_startup_trials}
        typed = [*(f"hydra.sweeper.{key}={value}" for key, value in options.items()), *overrides]
        self._check_same(path, typed)

    def next_jobs(self, *, n_trials: int, n_jobs: int) -> dict[int, dict[str, Any]]:
        """Return the parameters of the next jobs to run at a time, by consecutive number.

        Jobs that were given out and not told about come again; there are none after ``n_trials``.
        Jobs at a time know nothing of each other's results, so another ``n_jobs`` makes another
        study.
        """
        running = [trial for trial in self._trials() if trial.state == TrialState.RUNNING]
        known = len(self._trials())
        first = running[0].number if running else known
        end = min(n_trials, (first // n_jobs + 1) * n_jobs)
        drawn = [self._draw(number) for number in range(known, end)]
        for trial in drawn:
            self._study.add_trial(trial)
        given = [*running, *drawn]
        return {first + i: trial.params for i, trial in enumerate(given)}

    def tell(self, number: int, objective: float | None) -> None:
        """End a job with its result, higher is better; None: it failed."""
        if objective is None:
            self._study.tell(number, state=TrialState.FAIL)
        else:
            self._study.tell(number, objective)

    def _trials(self) -> list[FrozenTrial]:
        """All jobs, by number."""
        return self._study.get_trials(deepcopy=False)

    def _draw(self, number: int) -> FrozenTrial:
        """Return a job that is about to run, drawn from what is known now."""
        seed = int(np.random.SeedSequence([self._seed, number]).generate_state(1)[0])
        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=self._n_startup_trials)
        memory = optuna.create_study(direction="maximize", sampler=sampler)
        memory.add_trials([trial for trial in self._trials() if trial.state.is_finished()])
        params = memory.ask(self._space).params
        return optuna.trial.create_trial(
            state=TrialState.RUNNING, params=params, distributions=self._space
        )

    def _check_same(self, path: Path, typed: list[str]) -> None:
        """Write down what was typed, or compares it with what was typed before."""
        known: list[str] = self._study.user_attrs.get("typed", typed)
        if set(known) != set(typed):
            raise ConfigError(
                "holds another sweep",
                where=path,
                expected=" ".join(each for each in known if each not in typed) or "nothing more",
                found=" ".join(each for each in typed if each not in known) or "nothing more",
                advice="Type what was typed then, or name another hydra.sweep.dir",
            )
        self._study.set_user_attr("typed", typed)
