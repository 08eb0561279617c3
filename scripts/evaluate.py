"""Evaluates a finished run: metrics, predictions, and a report to browse."""

import hydra
from omegaconf import DictConfig

from lightweight_decoder import wiring


@hydra.main(version_base="1.3", config_path="../conf", config_name="evaluate")
def main(config: DictConfig) -> None:
    """Runs the job that the configuration describes."""
    with wiring.reported_errors():
        wiring.evaluate(config)


if __name__ == "__main__":
    main()
