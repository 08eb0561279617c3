"""What makes vectors of texts, for all that only needs that."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lightweight_decoder.datatypes import FloatArray


class Encoder(Protocol):
    """Makes vectors of texts; :class:`~lightweight_decoder.encoder.TextEncoder` is one."""

    name: str

    @property
    def fingerprint(self) -> str:
        """What tells this encoder from any other."""

    def encode(self, texts: Sequence[str]) -> FloatArray:
        """Return the (m, d) float32 vectors of m texts."""
