"""Looks at arrays before they are searched, and refuses those that cannot be."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from lightweight_decoder.errors import BankError, EmbeddingError
from lightweight_decoder.search.first_pass import slices
from lightweight_decoder.vectors.directions import rows_of_other_length

if TYPE_CHECKING:
    from torch import Tensor


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
    for row, length in rows_of_other_length(vectors):
        raise EmbeddingError(
            "a vector cannot be searched",
            at=f"row {row}",
            expected="a vector of length 1",
            found=f"length {length:.6g}",
            advice="Scale the rows with lightweight_decoder.vectors.directions.unit_rows",
        )


def counts_up(owners: Tensor) -> bool:
    """Say whether vector i belongs to phrase i, for all i."""
    return all(
        bool((owners[rows] == torch.arange(rows.start, rows.stop, device=owners.device)).all())
        for rows in slices(len(owners), 2**20)
    )
