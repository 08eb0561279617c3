"""What makes vectors of texts, and what it does to a text before that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Protocol, runtime_checkable

from pydantic import ConfigDict, Field

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lightweight_decoder.datatypes import FloatArray

Side = Literal["query", "phrase"]
"""Queries are texts to decode, phrases are texts in a bank: many encoders tell them apart."""

EncoderPrecision = Literal["float32", "bfloat16", "int8"]

EncoderBackend = Literal["auto", "torch", "openvino", "onnx"]


@dataclass(frozen=True, slots=True)
class EncoderSettings:
    """What an encoder does besides what its files say.

    Attributes:
        query_prompt: What a query becomes before it is encoded, with ``{}`` for its text.
        phrase_prompt: What a phrase becomes.
        truncate_dim: How many of a vector's first entries are kept; None: all.
        normalize: Whether vectors are scaled to unit length.
        routed: Whether queries and phrases go through layers of their own.
        precision: What the model's products are computed in.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(strict=True, extra="forbid")

    query_prompt: str
    phrase_prompt: str
    truncate_dim: Annotated[int, Field(gt=0)] | None
    normalize: bool
    routed: bool
    precision: EncoderPrecision

    def prompt(self, side: Side) -> str:
        """Return the pattern that texts of a side are put into."""
        return self.query_prompt if side == "query" else self.phrase_prompt


class EncodesBothSides(Protocol):
    """Two methods make an encoder; see :class:`~lightweight_decoder.encoder.CustomEncoder`."""

    def encode_queries(self, texts: Sequence[str]) -> FloatArray:
        """Return the (m, d) float32 vectors of m texts that are to be decoded."""

    def encode_phrases(self, texts: Sequence[str]) -> FloatArray:
        """Return the (m, d) float32 vectors of m texts that a bank holds."""


@runtime_checkable
class Encoder(EncodesBothSides, Protocol):
    """Makes vectors of texts and says who it is: :class:`.TextEncoder`, :class:`.CustomEncoder`."""

    name: str

    @property
    def fingerprint(self) -> str:
        """What tells this encoder, and what it does to texts, from any other."""

    @property
    def settings(self) -> EncoderSettings | None:
        """What it does besides what its files say; None: nothing, or nothing that is known."""

    @property
    def knows_sides(self) -> bool:
        """Whether a text may have another vector as a query than as a phrase."""
