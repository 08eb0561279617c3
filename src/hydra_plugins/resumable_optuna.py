# ruff: noqa: INP001 - Hydra looks for plugins in a namespace package
"""Hydra finds its sweepers in this namespace; the work is in lightweight_decoder.shell.

hydra-optuna-sweeper 1.3.0, the newest for Hydra 1.3, needs Optuna 2, whose SQLite storage fails
with SQLAlchemy 2; and it starts a killed sweep anew.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper

if TYPE_CHECKING:
    from hydra.types import HydraContext, TaskFunction
    from omegaconf import DictConfig


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
        n_trials: int,
        n_jobs: int,
        n_startup_trials: int,
        seed: int,
        params: dict[str, str],
    ) -> None:
        self._options = {
            "n_trials": n_trials,
            "n_jobs": n_jobs,
            "n_startup_trials": n_startup_trials,
            "seed": seed,
        }
        self._params = params

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Keep what Hydra gives, and makes the launcher."""
        self.config, self._sweep_config = config, config
        self.hydra_context = hydra_context
        self._launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Run the sweep of the typed overrides."""
        # Hydra loads all plugins, always
        from lightweight_decoder.shell.exit_status import reported_errors  # noqa: PLC0415
        from lightweight_decoder.shell.optuna_sweep import sweep  # noqa: PLC0415

        overrides = [*(f"{key}={value}" for key, value in self._params.items()), *arguments]
        with reported_errors():
            sweep(
                overrides,
                config=self._sweep_config,
                launcher=self._launcher,
                compose=self.validate_batch_is_legal,
                **self._options,
            )


ConfigStore.instance().store(
    group="hydra/sweeper",
    name="resumable_optuna",
    node={
        "_target_": f"{__name__}.{ResumableOptunaSweeper.__name__}",
        "n_trials": 20,
        "n_jobs": 1,
        "n_startup_trials": 5,
        "seed": 0,
        "params": {},
    },
)
