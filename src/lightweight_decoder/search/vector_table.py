"""What is searched."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy.typing as npt
    from torch import Tensor

    from lightweight_decoder.datatypes import IntArray


class VectorTable(Protocol):
    """What a search needs of a :class:`~lightweight_decoder.bank.PhraseBank`."""

    @property
    def vectors(self) -> npt.NDArray[Any] | Tensor:
        """(n, d) float32 or float16, unit rows."""

    @property
    def owners(self) -> IntArray | Tensor:
        """(n,) int64, the phrase of each vector."""

    @property
    def num_phrases(self) -> int:
        """p, more than every owner."""


@dataclass(frozen=True, slots=True)
class Arrays:
    """Vectors and owners that are not a bank; a :class:`VectorTable`."""

    vectors: npt.NDArray[Any] | Tensor
    owners: IntArray | Tensor
    num_phrases: int
