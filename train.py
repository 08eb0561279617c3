"""Trains, tests and saves a decoder; ``python train.py --help`` lists everything to set."""

import hydra
from omegaconf import DictConfig

from lightweight_decoder import wiring


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(config: DictConfig) -> float | None:
    """Runs one job; a sweep calls it once per job and optimizes what it returns."""
    with wiring.reported_errors():
        return wiring.as_job(wiring.train, config)


if __name__ == "__main__":
    main()
