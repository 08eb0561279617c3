"""Say which accelerators work on this machine and why the others do not."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import hydra
from omegaconf import OmegaConf

from lightweight_decoder.accelerator.doctor import run_doctor
from lightweight_decoder.errors import LightweightDecoderError

if TYPE_CHECKING:
    from omegaconf import DictConfig


@hydra.main(version_base="1.3", config_path="../conf", config_name="doctor")
def main(config: DictConfig) -> None:
    """Run the doctor with a configuration's values."""
    arguments: Any = OmegaConf.to_container(config, resolve=True)
    try:
        sys.exit(run_doctor(**arguments))
    except LightweightDecoderError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
