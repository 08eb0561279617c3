"""``metrics.json``: the figures of a run by name."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

from lightweight_decoder.errors import InputDataError
from lightweight_decoder.files import whole_file

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

METRICS_NAME = "metrics.json"


def write_metrics(metrics: Mapping[str, float], run_dir: Path) -> Path:
    """Write ``metrics.json`` in ``run_dir``, sorted by name, and returns its path.

    Raises:
        InputDataError: The file cannot be written; what was there before is still there.
    """
    path = run_dir / METRICS_NAME
    with whole_file(path) as temporary:
        text = json.dumps(metrics, indent=2, sort_keys=True) + "\n"
        temporary.write_text(text, encoding="utf-8")
    return path


def read_metrics(path: Path) -> dict[str, float]:
    """Read a file that ``write_metrics`` wrote.

    Raises:
        InputDataError: It is missing, or holds anything but names and finite numbers.
    """
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputDataError(
            "the metrics cannot be read", where=path, found=error.strerror
        ) from error
    except ValueError as error:
        raise _no_metrics(path, error) from error
    if not isinstance(metrics, dict):
        raise _no_metrics(path, type(metrics).__name__)
    for name, figure in metrics.items():
        is_number = isinstance(figure, int | float) and not isinstance(figure, bool)
        if not is_number or not math.isfinite(figure):
            raise _no_metrics(path, f"{name}: {figure!r}")
    return metrics


def _no_metrics(path: Path, found: object) -> InputDataError:
    """Return the error for another file than metrics.json."""
    return InputDataError(
        "the file holds no metrics",
        where=path,
        expected="names with finite numbers, as in the metrics.json of an evaluation",
        found=found,
    )
