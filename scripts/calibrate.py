"""Calibrates a decoder on queries whose right phrases are known."""

import hydra
from omegaconf import DictConfig

from lightweight_decoder import shell


@hydra.main(version_base="1.3", config_path="../conf", config_name="calibrate")
def main(config: DictConfig) -> None:
    """Run the job that the configuration describes."""
    with shell.reported_errors():
        shell.calibrate(config)


if __name__ == "__main__":
    main()
