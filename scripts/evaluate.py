"""Evaluates a finished run: metrics, predictions, and a report to browse."""

import hydra
from omegaconf import DictConfig

from lightweight_decoder import shell


@hydra.main(version_base="1.3", config_path="../conf", config_name="evaluate")
def main(config: DictConfig) -> None:
    """Run the job that the configuration describes."""
    with shell.reported_errors():
        shell.evaluate(config)


if __name__ == "__main__":
    main()
