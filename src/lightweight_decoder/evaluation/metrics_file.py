"""``metrics.json``: the figures of a run by name, and what each says to people."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lightweight_decoder.errors import InputDataError
from lightweight_decoder.files import whole_file

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

METRICS_NAME = "metrics.json"


@dataclass(frozen=True, slots=True)
class MetricInfo:
    """A metric as people read it.

    Attributes:
        label: Its name; ``{k}`` stands for the cutoff.
        meaning: One sentence.
        higher_is_better: None where neither direction is, as for a count.
        relative: Whether a change counts as a share of the value: for metrics not in [0, 1].
        percent: Whether it reads best as a percentage.
    """

    label: str
    meaning: str
    higher_is_better: bool | None
    relative: bool = False
    percent: bool = False


METRICS = {
    "recall": MetricInfo(
        "Recall@{k}",
        "Share of queries with a right phrase among the first {k}.",
        True,
        percent=True,
    ),
    "mrr": MetricInfo(
        "MRR{at_k}", "Mean of 1 / rank of the best right phrase, 0 where it is cut off.", True
    ),
    "map": MetricInfo(
        "MAP{at_k}", "Mean average precision over the first {k}, of all right phrases.", True
    ),
    "ndcg": MetricInfo(
        "nDCG{at_k}", "Discounted gain over the first {k}, as a share of the best possible.", True
    ),
    "median_rank": MetricInfo(
        "Median rank",
        "Half of the queries have a right phrase at this rank or better.",
        False,
        True,
    ),
    "ece": MetricInfo(
        "ECE", "Mean distance between confidence and accuracy, over 15 bins of equal width.", False
    ),
    "brier": MetricInfo(
        "Brier score", "Mean squared distance of confidence from what was right.", False
    ),
    "aurc": MetricInfo(
        "AURC", "Mean share of wrong answers, over all shares of answered queries.", False
    ),
    "auroc_right": MetricInfo(
        "AUROC right / wrong", "How often a right answer is surer than a wrong one.", True
    ),
    "precision": MetricInfo(
        "Precision", "Share of right answers among those given.", True, percent=True
    ),
    "coverage": MetricInfo("Coverage", "Share of queries that were answered.", True, percent=True),
    "auroc_in_bank": MetricInfo(
        "AUROC in / out of bank",
        "How often a query with a right phrase in the bank is surer than one without.",
        True,
    ),
    "fpr95_in_bank": MetricInfo(
        "FPR at 95% TPR",
        "Share of out-of-bank queries let through to keep 95% of the others.",
        False,
    ),
    "answered_out_of_bank": MetricInfo(
        "Answered out of bank",
        "Share of out-of-bank queries that were answered.",
        False,
        percent=True,
    ),
    "bleu": MetricInfo("BLEU", "Overlap of word n-grams of first and right text.", True),
    "chrf": MetricInfo("chrF", "Overlap of character n-grams of first and right text.", True),
    "rouge_l": MetricInfo("ROUGE-L", "Longest common run of words of first and right text.", True),
    "num_queries": MetricInfo("Queries", "Queries with a right phrase in the bank.", None),
    "num_out_of_bank": MetricInfo("Out of bank", "Queries without one.", None),
    "num_in_training": MetricInfo("In training", "Queries whose text was trained on.", None),
}
"""By the name in ``metrics.json``, without prefix and cutoff."""


def write_metrics(metrics: Mapping[str, float], run_dir: Path) -> Path:
    """Write ``metrics.json`` in ``run_dir``, sorted by name, and return its path."""
    path = run_dir / METRICS_NAME
    with whole_file(path) as temporary:
        text = json.dumps(metrics, indent=2, sort_keys=True) + "\n"
        temporary.write_text(text, encoding="utf-8")
    return path


def read_metrics(path: Path) -> dict[str, float]:
    """Read a file that ``write_metrics`` wrote; refuse anything but names and finite numbers."""
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputDataError.unreadable(path, error.strerror) from error
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
    expected = "names with finite numbers, as in the metrics.json of an evaluation"
    return InputDataError.unexpected(path, expected, found, summary="the file holds no metrics")


def metric_key(name: str) -> str:
    """Return a full name's metric with its cutoff: ``recall@10`` of ``test/decoder/recall@10``."""
    return name.rpartition("/")[2]


def metric_info(name: str) -> MetricInfo | None:
    """Return what is known of a metric, by full name or key; None for a name not ours."""
    kind, _, k = metric_key(name).partition("@")
    info = METRICS.get(kind)
    if info is None:
        return None
    words = {"k": k or "all", "at_k": f"@{k}" if k else ""}
    label, meaning = info.label.format(**words), info.meaning.format(**words)
    return replace(info, label=label, meaning=meaning)
