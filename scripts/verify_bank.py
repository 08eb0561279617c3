"""Reads a whole bank and says everything that is wrong with it."""

import sys

import hydra
from omegaconf import DictConfig

from lightweight_decoder.bank import verify_bank


@hydra.main(version_base="1.3", config_path="../conf", config_name="verify_bank")
def main(config: DictConfig) -> None:
    """Verify the bank that the configuration names; the exit status is 1 if anything is wrong."""
    problems = verify_bank(config.bank, show_progress=True)
    for problem in problems:
        print(problem)
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
