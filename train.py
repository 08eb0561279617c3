"""Trains, tests and saves a decoder; ``python train.py --help`` lists everything to set."""

import hydra
from omegaconf import DictConfig

from lightweight_decoder import shell


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(config: DictConfig) -> float | None:
    """Run one job; a sweep calls it once per job and optimizes what it returns."""
    with shell.reported_errors():
        return shell.as_job(shell.train, config)


if __name__ == "__main__":
    main()
