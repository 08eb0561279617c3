"""The two normal forms a bank keeps: one spelling for a text, unit length for a vector."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING

import torch

from lightweight_decoder.errors import EmbeddingError, LightweightDecoderError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

_ODD_SPACE = ("  ", "\n ", " \n", "\n\n", *"\t\v\f\r\x1c\x1d\x1e\x1f")
"""What lines of ASCII have only where a text is blank or its white space is not normalized."""


def normalize_text(text: str) -> str:
    r"""Bring a text into the form in which texts of a bank are compared.

    Unicode NFC; every run of white space becomes one space; none at the ends.

    >>> normalize_text("  cafe\u0301\n au  lait ")
    'café au lait'
    """
    return " ".join(unicodedata.normalize("NFC", text).split())


def is_storable(text: str) -> bool:
    """Say whether a text can be written as UTF-8; a lone surrogate cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def normalize_texts(texts: Sequence[object]) -> list[str | None]:
    """Normalize many texts; None where one is no text, is blank or is not valid Unicode."""
    normalized: list[str | None] = list(texts)  # type: ignore[arg-type]
    if not _are_plain(normalized):
        for row, text in enumerate(texts):
            key = normalize_text(text) if isinstance(text, str) else ""
            normalized[row] = key if key and is_storable(key) else None
    return normalized


def _are_plain(texts: list[str | None]) -> bool:
    """Say whether all texts are ASCII with nothing but single spaces between words.

    Eight times as fast as looking at them one by one, as each question is one search in C.
    """
    try:
        lines = "\n".join(["", *texts, ""])  # type: ignore[list-item]
    except TypeError:
        return False
    return (
        lines.isascii()
        and lines.count("\n") == len(texts) + 1
        and not any(odd in lines for odd in _ODD_SPACE)
    )


def has_direction(vectors: Tensor) -> Tensor:
    """Say which rows of (q, d) are finite and not all zero, (q,) bool."""
    largest = vectors.abs().amax(dim=1)
    return largest.isfinite() & (largest > 0)


def unit_rows(
    vectors: Tensor,
    *,
    first_row: int = 0,
    error: type[LightweightDecoderError] = EmbeddingError,
    after: str = "",
) -> Tensor:
    """Scale every row to unit length.

    Rows of any magnitude that their dtype can hold come out right: they are divided by their
    largest entry first, so that no square overflows or vanishes.

    Args:
        vectors: (q, d) floating point; not changed.
        first_row: Number of the first row in messages.
        error: What to raise.
        after: What happened to the vectors before, for the message: ``"after …"``.

    Returns:
        (q, d), the dtype and device of ``vectors``.

    Raises:
        EmbeddingError: (or ``error``) If a row has a NaN or an infinite entry, or is all zero; the
            message names the first such row.
    """
    if not vectors.numel():
        return vectors
    largest = vectors.abs().amax(dim=1, keepdim=True)  # 20 times as fast as vector_norm
    if not bool((largest.isfinite() & (largest > 0)).all()):
        raise _unusable_row(vectors, largest.squeeze(1), first_row, error, after)
    scaled: Tensor = vectors / largest
    scaled /= torch.linalg.vector_norm(scaled, dim=1, keepdim=True)
    return scaled


def _unusable_row(
    vectors: Tensor,
    largest: Tensor,
    first_row: int,
    error: type[LightweightDecoderError],
    after: str,
) -> LightweightDecoderError:
    """Build the error for the first row that has no direction."""
    row = int((~(largest.isfinite() & (largest > 0))).nonzero()[0])
    if largest[row] == 0:
        found = "only zeros"
    else:
        column = int((~vectors[row].isfinite()).nonzero()[0])
        found = f"{vectors[row, column].item()} in column {column}"
    return error(
        f"a vector has no direction {after}".rstrip(),
        at=f"row {first_row + row}",
        expected="finite numbers, not all zero",
        found=found,
        advice="Remove the row or repair what wrote it",
    )
