"""Decodes embeddings, or a sentence, into phrases of a bank."""

import hydra
from omegaconf import DictConfig

from lightweight_decoder import shell


@hydra.main(version_base="1.3", config_path="../conf", config_name="decode")
def main(config: DictConfig) -> None:
    """Run the job that the configuration describes."""
    with shell.reported_errors():
        shell.decode(config)


if __name__ == "__main__":
    main()
