"""The folder that Hydra makes for a run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.experimental.callback import Callback

if TYPE_CHECKING:
    from omegaconf import DictConfig


class RunFolder(Callback):
    """Makes the run's folder before Hydra does, which would end in a traceback where it cannot."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:  # noqa: ANN401 - Hydra's own
        """Make ``hydra.run.dir``; ends the program with a message where that is refused."""
        make_folder(Path(config.hydra.run.dir), key="hydra.run.dir")

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:  # noqa: ANN401 - Hydra's own
        """Make ``hydra.sweep.dir``; ends the program with a message where that is refused."""
        make_folder(Path(config.hydra.sweep.dir), key="hydra.sweep.dir")


def make_folder(path: Path, *, key: str) -> None:
    """Make a folder; ends the program with a message where that is refused.

    Hydra has not set logging up by then, and turns any exception but this into a warning.

    Raises:
        SystemExit: With a message that names the folder, the reason and ``key``.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        sys.stderr.write(f"{path}: cannot be made: {error.strerror}. Choose another: {key}=DIR\n")
        raise SystemExit(1) from None
