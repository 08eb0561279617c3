"""Checkpoints of decoders, read without unpickling anything."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lightweight_decoder.errors import CheckpointError
from lightweight_decoder.files import whole_file

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

CHECKPOINT_VERSION = 2


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return a checkpoint's content, with a decoder's recipe of this version in it.

    Raises:
        CheckpointError: It is missing, damaged, of another version, or holds no decoder.
    """
    if not path.is_file():
        raise CheckpointError("there is no such checkpoint", where=path)
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many unrelated types for a damaged file
        raise CheckpointError(
            "cannot be read",
            where=path,
            expected="a checkpoint written by train.py",
            found=f"{type(error).__name__}: {error}".splitlines()[0],
        ) from error
    recipe = checkpoint.get("decoder") if isinstance(checkpoint, dict) else None
    if not isinstance(recipe, dict):
        raise CheckpointError(
            "holds no decoder", where=path, expected="a checkpoint written by train.py"
        )
    if recipe.get("version") != CHECKPOINT_VERSION:
        raise CheckpointError(
            "has another version",
            where=path,
            expected=CHECKPOINT_VERSION,
            found=recipe.get("version"),
            advice="Train again with this version of lightweight-decoder.",
        )
    loaded: dict[str, Any] = checkpoint
    return loaded


@contextmanager
def reporting_misfits(path: str | Path) -> Iterator[None]:
    """Turn what a checkpoint with missing or altered parts raises into our error.

    Raises:
        CheckpointError: Something inside did not fit.
    """
    try:
        yield
    except (KeyError, TypeError, RuntimeError, AttributeError) as error:
        raise CheckpointError(
            "its parts do not fit together",
            where=path,
            expected="a checkpoint written by train.py",
            found=f"{type(error).__name__}: {error}",
            advice="Copy the checkpoint again, or train again.",
        ) from error


def write_checkpoint(checkpoint: dict[str, Any], path: Path) -> None:
    """Write a checkpoint; a failed write leaves what was there before.

    Raises:
        CheckpointError: It cannot be written.
    """
    with whole_file(path, error=CheckpointError) as partial:
        torch.save(checkpoint, partial)


def bank_path(path: str | Path, trained_with: str | None) -> Path:
    """Return where the bank of a checkpoint was during training.

    Raises:
        CheckpointError: It is there no longer, or was in memory.
    """
    if trained_with is None or not Path(trained_with).is_dir():
        raise CheckpointError.unexpected(
            path,
            trained_with or "a bank that was in memory",
            "no such folder",
            summary="the bank it was trained with has moved",
            advice="Name the bank's new place with bank=DIR.",
        )
    return Path(trained_with)


def weights_of(checkpoint: dict[str, Any], part: str) -> dict[str, Tensor]:
    """Return the weights of one learned part, by the names that the part itself gives them."""
    prefix = f"{part}."
    return {
        name.removeprefix(prefix): weight
        for name, weight in checkpoint["state_dict"].items()
        if name.startswith(prefix)
    }
