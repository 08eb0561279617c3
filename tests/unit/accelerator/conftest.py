"""A cache of its own for each test, and no verdict left in the environment."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    for name in (
        "LIGHTWEIGHT_DECODER_ACCELERATOR_VERDICT",
        "LOCAL_RANK",
        "SLURM_LOCALID",
        "CUDA_VISIBLE_DEVICES",
    ):
        # Set first, so that what a test leaves there is taken away again.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    folder = tmp_path / "cache"
    monkeypatch.setenv("LIGHTWEIGHT_DECODER_CACHE", str(folder))
    return folder
