"""All metrics of a table of predictions, under the names of ``metrics.json``.

Figures are over the queries that have a right phrase in the bank, except those that say otherwise:
``num_out_of_bank``, ``auroc_in_bank``, ``fpr95_in_bank`` and ``answered_out_of_bank`` (the share of
queries without a right phrase that the decoder did not abstain from). ``num_in_training`` is there
where some of them are training texts too.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lightweight_decoder.errors import InputDataError
from lightweight_decoder.evaluation.bootstrap import Bootstrap
from lightweight_decoder.evaluation.confidence import (
    aurc,
    auroc,
    brier_values,
    confidence_metrics,
    fpr_at_tpr,
)
from lightweight_decoder.evaluation.predictions import (
    IN_TRAINING,
    check_predictions,
    first_values,
    has_baseline,
    is_calibrated,
)
from lightweight_decoder.evaluation.rank_metrics import (
    average_precision_at_k,
    median_rank,
    ndcg_values_at_k,
    ranking_values,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lightweight_decoder.datatypes import FloatArray, IntArray


Float64Array = npt.NDArray[np.float64]
System = Literal["baseline", "decoder"]

RECALL_AT = (1, 3, 5, 10, 25, 100)


def summarize_predictions(
    predictions: pa.Table, *, split: str = "test", num_resamples: int = 1000
) -> dict[str, float]:
    """Every metric of the baseline and the decoder, with bootstrap intervals and a paired test.

    Args:
        predictions: See ``evaluation.predictions``; not changed.
        split: First part of every name.
        num_resamples: Bootstrap resamples.

    Returns:
        ``{split}/baseline/{metric}`` and ``{split}/decoder/{metric}``, with ``…/low`` and
        ``…/high`` for every mean and the median rank; ``{split}/difference/{metric}`` (decoder
        minus baseline) with ``…/low``, ``…/high`` and ``…/p_value``. Figures that the table has
        nothing for (confidence of a decoder that was not calibrated, average precision without all
        ranks, everything about a baseline that could not read the queries) are left out. All
        finite.

    Raises:
        InputDataError: The table is not one of predictions, or no query is in the bank.
    """
    check_predictions(predictions)
    in_bank = predictions["in_bank"].to_numpy()
    if not in_bank.any():
        raise InputDataError("no query has a right phrase in the bank", where="predictions")
    inside = predictions.filter(pa.array(in_bank))
    bootstrap = Bootstrap(num_resamples=num_resamples)
    values = {system: query_values(inside, system) for system in systems(predictions)}
    figures: dict[str, dict[str, float]] = {
        system: _with_intervals(bootstrap, each, best_rank(inside, system))
        for system, each in values.items()
    }
    figures["decoder"] |= _decoder_figures(inside) | _out_of_bank_figures(predictions)
    if IN_TRAINING in inside.column_names:
        figures["decoder"]["num_in_training"] = float(pc.sum(inside[IN_TRAINING]).as_py() or 0)
    if "baseline" in values:
        if inside["baseline_value"].null_count == 0:
            own = inside["baseline_value"].to_numpy()
            figures["baseline"] |= _sureness(own, best_rank(inside, "baseline") == 1)
        figures["difference"] = _differences(bootstrap, values["baseline"], values["decoder"])
    return {
        f"{split}/{system}/{name}": figure
        for system, named in figures.items()
        for name, figure in named.items()
    }


def systems(predictions: pa.Table) -> tuple[System, ...]:
    """Those that the predictions have ranks of, the decoder last."""
    return ("baseline", "decoder") if has_baseline(predictions) else ("decoder",)


def query_values(predictions: pa.Table, system: System) -> dict[str, Float64Array]:
    """Return the (q,) float64 values of each metric that is a mean over queries, for one system.

    These are what bootstrap and paired tests draw from. Text overlap and Brier values are the
    decoder's only.
    """
    values = ranking_values(best_rank(predictions, system), recall_at=RECALL_AT, mrr_at=(25,))
    ranks = all_ranks(predictions, system)
    if ranks is not None:
        values["map@25"] = average_precision_at_k(ranks, 25)
        values["ndcg@10"] = ndcg_values_at_k(ranks, 10)
    if system == "decoder":
        decoded = pc.list_element(predictions["phrases"], 0).to_pylist()
        values |= text_overlap_values(decoded, predictions["targets"].to_pylist())
        if is_calibrated(predictions):
            confidence = predictions["confidence"].to_numpy()
            values["brier"] = brier_values(confidence, best_rank(predictions, system) == 1)
    return values


def best_rank(predictions: pa.Table, system: System) -> IntArray:
    """(q,) int64 ranks of the best right phrase; 0 where none is in the bank."""
    name = "rank" if system == "decoder" else "baseline_rank"
    return np.asarray(predictions[name].to_numpy(), dtype=np.int64)


def all_ranks(predictions: pa.Table, system: System) -> IntArray | None:
    """(q, m) int64 ranks of all right phrases, 0 at the end of short rows; None where not known.

    Where each query has one target, its rank is all there is to know.
    """
    name = "target_ranks" if system == "decoder" else "baseline_target_ranks"
    if predictions[name].null_count == 0:
        return _padded(predictions[name].combine_chunks())
    if pc.max(pc.list_value_length(predictions["targets"])).as_py() > 1:
        return None
    return best_rank(predictions, system)[:, None]


def _with_intervals(
    bootstrap: Bootstrap, values: dict[str, Float64Array], ranks: IntArray
) -> dict[str, float]:
    """Means and median rank with their intervals."""
    intervals = bootstrap.mean_intervals(values)
    intervals["median_rank"] = bootstrap.median_interval(ranks.astype(np.float64))
    figures = {name: float(column.mean()) for name, column in values.items()}
    figures |= {"median_rank": median_rank(ranks), "num_queries": float(len(ranks))}
    for name, (low, high) in intervals.items():
        figures |= {f"{name}/low": low, f"{name}/high": high}
    return figures


def _differences(
    bootstrap: Bootstrap, before: dict[str, Float64Array], after: dict[str, Float64Array]
) -> dict[str, float]:
    """Paired differences of the metrics that both systems have."""
    return {
        name if part == "difference" else f"{name}/{part}": figure
        for name, result in bootstrap.compare(before, after).items()
        for part, figure in result._asdict().items()
    }


def _decoder_figures(inside: pa.Table) -> dict[str, float]:
    """Calibration and abstention; where not calibrated, what the first value is worth."""
    right = best_rank(inside, "decoder") == 1
    if not is_calibrated(inside):
        return _sureness(first_values(inside), right)
    figures = confidence_metrics(inside["confidence"].to_numpy(), right)
    answered = ~inside["abstained"].to_numpy()
    figures["coverage"] = float(answered.mean())
    if answered.any():
        figures["precision"] = float(right[answered].mean())
    return figures


def _out_of_bank_figures(predictions: pa.Table) -> dict[str, float]:
    """How far queries that no phrase answers are told apart; nothing where there are none."""
    in_bank = predictions["in_bank"].to_numpy()
    if in_bank.all():
        return {}
    is_known = is_calibrated(predictions)
    values = predictions["confidence"].to_numpy() if is_known else first_values(predictions)
    answered = ~predictions["abstained"].to_numpy()
    return {
        "num_out_of_bank": float(np.count_nonzero(~in_bank)),
        "auroc_in_bank": auroc(values, in_bank),
        "fpr95_in_bank": fpr_at_tpr(values, in_bank),
        "answered_out_of_bank": float(answered[~in_bank].mean()),
    }


def _sureness(values: FloatArray, right: npt.NDArray[np.bool_]) -> dict[str, float]:
    """Return what a ranking value that is no probability can be measured by."""
    figures = {"aurc": aurc(values, right)}
    if right.any() and not right.all():
        figures["auroc_right"] = auroc(values, right)
    return figures


def _padded(ranks: pa.ListArray) -> IntArray:
    """(q, m) int64, each list a row, 0 at the end of short ones."""
    lengths = pc.list_value_length(ranks).to_numpy()
    padded = np.zeros((len(ranks), max(int(lengths.max()), 1)), dtype=np.int64)
    padded[np.arange(padded.shape[1]) < lengths[:, None]] = ranks.flatten().to_numpy()
    return padded


def text_overlap_values(
    decoded: Sequence[str], targets: Sequence[Sequence[str]]
) -> dict[str, Float64Array]:
    """Return how much of the right text each decoded one has, (q,) float64 in [0, 1], case ignored.

    Higher is better; the means are the overlap metrics (sacrebleu prints them times 100). Of
    several right texts BLEU takes all as references, the others the best.

    - ``bleu``: sentence BLEU of sacrebleu, with 13a tokens, n-grams up to the length of the shorter
      text and exponential smoothing.
    - ``chrf``: chrF of sacrebleu, character 6-grams, beta 2.
    - ``rouge_l``: F1 of the longest common subsequence of words (letters and digits of any script).

    Args:
        decoded: q decoded texts; an empty one (the decoder abstained) scores 0.
        targets: q lists of one or more right texts.

    Raises:
        InputDataError: Lengths differ, there are no queries, or a query has no target text.
    """
    from sacrebleu.metrics.bleu import BLEU  # noqa: PLC0415 - half a second, for evaluations only
    from sacrebleu.metrics.chrf import CHRF  # noqa: PLC0415

    _check_texts(decoded, targets)
    bleu = BLEU(effective_order=True, lowercase=True)
    chrf = CHRF(lowercase=True)
    rows = np.zeros((len(decoded), 3))
    for row, text, wanted in zip(rows, decoded, targets, strict=True):
        if text in wanted:
            row[:] = 1.0
        elif text:
            row[0] = bleu.sentence_score(text, wanted).score / 100
            row[1] = chrf.sentence_score(text, wanted).score / 100
            row[2] = max(_rouge_l(text, target) for target in wanted)
    return dict(zip(("bleu", "chrf", "rouge_l"), rows.T, strict=True))


def _rouge_l(text: str, target: str) -> float:
    """F1 of the longest common subsequence of words; 0 where nothing is shared."""
    words, wanted = _words(text), _words(target)
    shared = _longest_common_subsequence(words, wanted)
    return 2 * shared / (len(words) + len(wanted)) if shared else 0.0


def _words(text: str) -> list[str]:
    """Run of letters and digits, in lower case."""
    return re.findall(r"[^\W_]+", text.lower())


def _longest_common_subsequence(first: list[str], second: list[str]) -> int:
    """Its length, row by row of the usual table."""
    lengths = [0] * (len(second) + 1)
    for word in first:
        diagonal = 0
        for place, other in enumerate(second, start=1):
            above = lengths[place]
            lengths[place] = diagonal + 1 if word == other else max(above, lengths[place - 1])
            diagonal = above
    return lengths[-1]


def _check_texts(decoded: Sequence[str], targets: Sequence[Sequence[str]]) -> None:
    """Refuse texts that do not go together."""
    if len(decoded) != len(targets) or len(decoded) == 0:
        found, expected = f"{len(decoded)} and {len(targets)}", "one or more of each, as many"
        raise InputDataError.unexpected("decoded texts and targets", expected, found)
    for row, wanted in enumerate(targets):
        if not any(wanted):
            raise InputDataError("a query has no target text", at=f"row {row}")
