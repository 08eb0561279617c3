"""Builds a phrase bank from texts, or from texts with vectors of their own."""

import hydra
from omegaconf import DictConfig

from lightweight_decoder import wiring


@hydra.main(version_base="1.3", config_path="../conf", config_name="build_bank")
def main(config: DictConfig) -> None:
    """Runs the job that the configuration describes."""
    with wiring.reported_errors():
        wiring.build_bank(config)


if __name__ == "__main__":
    main()
