"""Configuration as plain Python values, which is all that the rest of the package sees."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf


def plain(config: DictConfig | None) -> Any:  # noqa: ANN401 - a container of plain values, or None
    """Return a part of the configuration as plain Python, interpolations resolved."""
    if config is None:
        return None
    return plain_value(OmegaConf.to_container(config, resolve=True, throw_on_missing=True))


def plain_value(value: Any) -> Any:  # noqa: ANN401 - values of any type
    """Return the same value with lists, dictionaries and texts only."""
    if OmegaConf.is_config(value):
        return plain(value)
    if isinstance(value, dict):
        return {key: plain_value(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain_value(item) for item in value]
    return str(value) if isinstance(value, Path) else value
