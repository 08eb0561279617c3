"""Measures decoders of labelled texts, on frozen vectors, beside simple methods on the same rows.

    python scripts/benchmarks/labelled_text.py DATA_DIR

DATA_DIR holds train.csv and test.csv with the columns text and category, as banking77 has them. One
line for each draw, then their means: right first phrases of the decoder, of plain search, of the
nearest example, the class centroid and a logistic regression; ECE; precision and share of answers
from the threshold on that gave a precision of 0.95 while calibrating; CPU seconds of fitting; where
labels leave the bank also the AUROC of in and out of the bank.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lightweight_decoder import PhraseBankDecoder, TextEncoder
from lightweight_decoder.decoder.prediction import label_baseline_metrics, predict
from lightweight_decoder.decoder.splits import LEARNED
from lightweight_decoder.evaluation.label_baselines import LABEL_BASELINES
from lightweight_decoder.evaluation.summary import summarize_predictions
from lightweight_decoder.rerank import PhraseClassifier
from lightweight_decoder.training.cross_fitting import fit_classifier
from lightweight_decoder.training.sources.labelled_text import LabelledText

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lightweight_decoder.encoder import Encoder

_LABELS = "category"
_PRECISION = 0.95


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--only", help="start of the names of the draws to measure")
    arguments = parser.parse_args()
    encoder, figures = TextEncoder(), {}
    with tempfile.TemporaryDirectory() as folder:
        for name, options in _draws(arguments.data, Path(folder)):
            if name.startswith(arguments.only or ""):
                found = _measure(encoder, Path(folder), options)
                figures.setdefault(name, []).append(found)
                print(f"{name:28}", _line(found), flush=True)
    for name, each in figures.items():
        keys = dict.fromkeys(key for found in each for key in found)
        mean = {key: float(np.mean([found[key] for found in each])) for key in keys}
        print(f"mean of {len(each)}: {name:17}", _line(mean))


def _draws(data: Path, folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield what to measure: its name, and options of the source."""
    files = {"train": data / "train.csv", "test": data / "test.csv", "label_column": _LABELS}
    for count in (5, 10):
        for seed in range(5):
            drawn = folder / f"{count}-{seed}.csv"
            _draw_of_each(files["train"], drawn, count=count, seed=seed)
            yield f"{count} a label", files | {"train": drawn, "seed": seed}
    for seed in range(3):
        yield "2,000 / 1,000", files | {"num_train": 2_000, "num_test": 1_000, "seed": seed}
    yield "all rows", files
    for seed in range(3):
        yield "all rows, 10 labels out", files | {"num_out_of_bank": 10, "seed": seed}
    for seed in range(3):
        some = {"num_train": 2_000, "num_test": 1_000, "num_out_of_bank": 10, "seed": seed}
        yield "2,000 / 1,000, 10 labels out", files | some


def _draw_of_each(source: Path, target: Path, *, count: int, seed: int) -> None:
    """Write a file with so many rows of each label, drawn at random."""
    with source.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    taken: dict[str, int] = {}
    chosen = []
    for place in np.random.default_rng(seed).permutation(len(rows)):
        label = rows[place][_LABELS]
        taken[label] = taken.get(label, 0) + 1
        if taken[label] <= count:
            chosen.append(place)
    with target.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows[place] for place in sorted(chosen))


def _measure(encoder: Encoder, folder: Path, options: dict[str, Any]) -> dict[str, float]:
    """Train a decoder as train.py does by default, and test it."""
    source = LabelledText(encoder=encoder, bank_root=folder / "banks", **options)
    source.prepare()
    bank, test = source.bank, source.split("test")
    learned = [source.split(name) for name in LEARNED]
    start = time.process_time()
    classifier = PhraseClassifier(
        query_dim=bank.dim, bank_dim=bank.dim, num_phrases=bank.num_phrases
    )
    decoder = PhraseBankDecoder(bank, reranker=classifier)
    fit_classifier(decoder, classifier, learned, seed=options.get("seed", 0))
    seconds = time.process_time() - start
    threshold = decoder.calibration.operating_points.for_precision(_PRECISION)
    table = predict(decoder, test, abstain_below=threshold)
    metrics = summarize_predictions(table, num_resamples=10) | label_baseline_metrics(learned, test)
    found = {"decoder": metrics["test/decoder/recall@1"]}
    found["plain search"] = metrics["test/baseline/recall@1"]
    found |= {label: metrics[f"test/{key}/recall@1"] for key, label in LABEL_BASELINES.items()}
    wanted = {"ECE": "ece", "precision": "precision", "answered": "coverage"}
    wanted |= {"AUROC in bank": "auroc_in_bank"} if test.out_of_bank is not None else {}
    found |= {label: metrics[f"test/decoder/{key}"] for label, key in wanted.items()}
    return found | {"CPU s": seconds}


def _line(found: dict[str, float]) -> str:
    """Return the figures of one line."""
    return ", ".join(f"{name} {value:.4g}" for name, value in found.items())


if __name__ == "__main__":
    main()
