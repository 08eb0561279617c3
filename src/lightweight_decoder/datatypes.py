"""Records that cross the borders between the parts of the package.

Shapes, everywhere in the package: q queries, n bank vectors, p phrases, d dimensions, k candidates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from lightweight_decoder.display import printable

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

    def __repr__(self) -> str:
        heads = ["query", "answer", self.kind, "then"]
        rows = [self._shown(query) for query in range(min(len(self.texts), _ROWS_SHOWN))]
        if self.confidence is not None:
            heads.insert(2, "confidence")
            for row, confidence in zip(rows, self.confidence, strict=False):
                row.insert(2, f"{confidence:.3f}")
        widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
        lines = [
            "  ".join(
                cell.ljust(width) if head in _TEXTS_SHOWN else cell.rjust(width)
                for cell, width, head in zip(row, widths, heads, strict=True)
            ).rstrip()
            for row in (heads, *rows)
        ]
        lines.insert(0, f"Decoded({len(self.texts)} queries, by {self.kind})")
        if len(self.texts) > len(rows):
            lines.append(f"… and {len(self.texts) - len(rows)} more")
        return "\n".join(lines)

    def _shown(self, query: int) -> list[str]:
        """Return the cells of one query: its number, answer, value, and what comes behind."""
        found = [
            f"{_one_line(text)} {value:.3f}"
            for text, value in zip(self.texts[query], self.values[query], strict=True)
        ]
        if not found:
            return [str(query), "", "", ""]
        answer, value = found[0].rsplit(" ", 1)
        behind = found[1:_PHRASES_SHOWN]
        if self.abstained[query]:
            answer, behind = "(no phrase)", [f"{answer} {value}", *behind]
        return [str(query), answer, value, ", ".join(behind)]


_ROWS_SHOWN = 10
_PHRASES_SHOWN = 4
_CHARACTERS_SHOWN = 40
_TEXTS_SHOWN = ("answer", "then")


def _one_line(text: str) -> str:
    """Return a text as one short line that does nothing to a terminal."""
    safe = printable(text[:_CHARACTERS_SHOWN])
    return safe if len(text) <= _CHARACTERS_SHOWN else f"{safe}…"
