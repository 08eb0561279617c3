"""Looks at arrays before they are searched, and refuses those that cannot be."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from lightweight_decoder.errors import BankError, EmbeddingError
from lightweight_decoder.search.first_pass import slices

if TYPE_CHECKING:
    from torch import Tensor

UNIT_TOLERANCE = 2e-3
"""How far a length may be from 1: float16 rounds entries by up to 2**-11 of their size."""


def check_owners(owners: Tensor, num_phrases: int) -> None:
    """Refuse owners that are no phrases.

    Args:
        owners: (n,) int64.
        num_phrases: p, more than every owner.

    Raises:
        BankError: If an owner is below 0 or not below p; the message names the first such row.
    """
    for rows in slices(len(owners), 2**20):
        outside = (owners[rows] < 0) | (owners[rows] >= num_phrases)
        for row in outside.nonzero()[:1, 0].tolist():
            raise BankError(
                "a vector belongs to no phrase",
                at=f"row {rows.start + row}",
                expected=f"a phrase id from 0 to {num_phrases - 1}",
                found=int(owners[rows.start + row]),
            )


def check_unit_rows(vectors: Tensor) -> None:
    """Refuse rows that are not of unit length, as far as float16 can be.

    Args:
        vectors: (n, d) floating point.

    Raises:
        EmbeddingError: If a length is NaN or off by more than ``UNIT_TOLERANCE``; the message names
            the first such row.
    """
    for rows in slices(len(vectors), 2**16):
        lengths = torch.linalg.vector_norm(vectors[rows].float(), dim=1)
        for row in (~((lengths - 1).abs() <= UNIT_TOLERANCE)).nonzero()[:1, 0].tolist():
            raise EmbeddingError(
                "a vector cannot be searched",
                at=f"row {rows.start + row}",
                expected="a vector of length 1",
                found=f"length {lengths[row].item():.6g}",
                advice="Scale the rows with lightweight_decoder.bank.unit_rows",
            )


def counts_up(owners: Tensor) -> bool:
    """Say whether vector i belongs to phrase i, for all i."""
    return all(
        bool((owners[rows] == torch.arange(rows.start, rows.stop, device=owners.device)).all())
        for rows in slices(len(owners), 2**20)
    )
