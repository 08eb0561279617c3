"""Records that cross the borders between the parts of the package.

Shapes, everywhere in the package: q queries, n bank vectors, p phrases, d dimensions, k candidates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

ValueKind = Literal["cosine", "logit"]

NO_ID = -1
"""Fills the end of a row of ids that has fewer entries than the widest row."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """The k best phrases for each query, best first, ties to the lower phrase id.

    Attributes:
        phrase_ids: (q, k) int64, rows of the bank's phrase table.
        vector_ids: (q, k) int64, the bank vector that gave each phrase its value; among a phrase's
            equally good vectors the lowest row.
        values: (q, k) float32, higher is better.
        kind: What the values are: ``"cosine"`` in [-1, 1], or a ``"logit"`` of any size.
    """

    phrase_ids: Tensor
    vector_ids: Tensor
    values: Tensor
    kind: ValueKind


@dataclass(frozen=True, slots=True)
class Decoded:
    """The decoder's answer for q queries, k phrases each, best first.

    Attributes:
        texts: q lists of k texts.
        phrase_ids: (q, k) int64, rows of the bank's phrase table.
        values: (q, k) float32, higher is better.
        kind: What the values are.
        confidence: (q,) float32 in [0, 1], the probability that the first phrase is right; None
            where the decoder was never calibrated.
        abstained: (q,) bool, True where the answer is "no phrase".
    """

    texts: list[list[str]]
    phrase_ids: IntArray
    values: FloatArray
    kind: ValueKind
    confidence: FloatArray | None
    abstained: npt.NDArray[np.bool_]
