"""Builds a phrase bank from texts, or from texts with vectors of their own."""

import hydra
from omegaconf import DictConfig

from lightweight_decoder import shell


@hydra.main(version_base="1.3", config_path="../conf", config_name="build_bank")
def main(config: DictConfig) -> None:
    """Run the job that the configuration describes."""
    with shell.reported_errors():
        shell.build_bank(config)


if __name__ == "__main__":
    main()
