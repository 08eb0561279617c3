"""Jobs as Hydra starts them, without Hydra's command line."""

from __future__ import annotations

import pytest
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import OmegaConf


@pytest.fixture
def hydra_job(monkeypatch):
    """Says which job of which sweep runs now; by default one of its own."""

    def hydra_job(folder, overrides=(), *, number=0, mode=RunMode.MULTIRUN):
        folder.mkdir(parents=True, exist_ok=True)
        config = {
            "mode": mode,
            "runtime": {"output_dir": str(folder)},
            "job": {"num": number},
            "overrides": {"task": list(overrides)},
            "sweep": {"dir": str(folder.parent)},
        }
        monkeypatch.setattr(
            HydraConfig.instance(), "cfg", OmegaConf.create({"hydra": config}), raising=False
        )

    return hydra_job
