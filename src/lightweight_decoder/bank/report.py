"""What a build of a bank did."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildReport:
    """Counts of a finished build.

    Attributes:
        num_rows: Rows that came in, dropped ones included.
        num_phrases: p, distinct texts.
        num_vectors: n, rows that were kept.
        dim: d, width of a vector.
        dtype: How vectors are stored.
        dropped: How many rows were left out for each reason.
    """

    num_rows: int
    num_phrases: int
    num_vectors: int
    dim: int
    dtype: str
    dropped: Mapping[str, int] = field(default_factory=dict)

    @property
    def num_repeated(self) -> int:
        """Texts that came again: vectors that went to a phrase that had one."""
        return self.num_vectors - self.num_phrases
