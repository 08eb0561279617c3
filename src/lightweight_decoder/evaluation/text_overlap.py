"""How much of the wanted text the decoded text has: BLEU, chrF and ROUGE-L, sentence by sentence.

All three are given in [0, 1] (sacrebleu prints them times 100), higher is better. Of several right
texts BLEU takes all as references, the others the best. Phrases are short, so figures are means
over queries of sentence scores, which can be resampled, rather than corpus scores.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lightweight_decoder.errors import InputDataError

if TYPE_CHECKING:
    from collections.abc import Sequence

Float64Array = npt.NDArray[np.float64]


def text_overlap_values(
    decoded: Sequence[str], targets: Sequence[Sequence[str]]
) -> dict[str, Float64Array]:
    """Return values (q,) float64 in [0, 1] whose means are the overlap metrics, case ignored.

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
