"""What is searched, what a search promises, and the checks that hold both to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch

from lightweight_decoder.errors import BankError, ConfigError, EmbeddingError
from lightweight_decoder.search.vector_blocks import slices
from lightweight_decoder.vectors.directions import rows_of_other_length

if TYPE_CHECKING:
    import numpy.typing as npt
    from torch import Tensor

    from lightweight_decoder.datatypes import Candidates, IntArray


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


class SearchBackend(Protocol):
    """Finds the phrases whose vectors are most similar to a query."""

    def search(
        self, queries: Tensor, k: int, *, exclude_vectors: Tensor | None = None
    ) -> Candidates:
        """Find the k best phrases for each query, in the order that :mod:`.order` defines.

        Args:
            queries: (q, d) floating point of any length above zero, on any device.
            k: How many phrases to return, at least 1; k > p gives p columns.
            exclude_vectors: (q, w) int64 vector rows that do not count for a query, filled up with
                ``NO_ID``: those that were made from the query itself.

        Returns:
            Candidates of kind ``"cosine"``, (q, min(k, p)), on the queries' device. Where fewer
            phrases are left after exclusion, the end of a row is phrase ``NO_ID``, vector
            ``NO_ID``, value -inf.

        Raises:
            EmbeddingError: If the queries have another width than the bank, or if one of them is
                NaN, infinite or all zero; the message names the row.
            ConfigError: If k is below 1.
        """
        ...


def check_k(k: int) -> None:
    """Refuse to look for nothing, with a ``ConfigError``."""
    if k < 1:
        raise ConfigError.unexpected("k", "at least 1", k, summary="too few candidates")


def check_queries(queries: Tensor, dim: int, exclude_vectors: Tensor | None) -> None:
    """Refuse queries that are not (q, ``dim``), and exclusions that are not (q, w) or None.

    Raises:
        EmbeddingError: If they are not.
    """
    if queries.ndim != 2 or queries.shape[1] != dim:  # noqa: PLR2004
        problem = "the queries have another width than the bank"
        advice = "Use the encoder that the bank was built with"
        found = tuple(queries.shape)
        raise EmbeddingError.unexpected(None, f"(q, {dim})", found, summary=problem, advice=advice)
    if exclude_vectors is not None and exclude_vectors.shape[:-1] != queries.shape[:1]:
        problem = "the excluded vectors do not go with the queries"
        raise EmbeddingError.unexpected(
            None, f"({len(queries)}, w)", tuple(exclude_vectors.shape), summary=problem
        )


def check_owners(owners: Tensor, num_phrases: int) -> None:
    """Refuse owners (n,) int64 below 0 or not below ``num_phrases``.

    Raises:
        BankError: If there is one; the message names the first such row.
    """
    for rows in slices(len(owners), 2**20):
        outside = (owners[rows] < 0) | (owners[rows] >= num_phrases)
        for row in outside.nonzero()[:1, 0].tolist():
            raise BankError.unexpected(
                None,
                f"a phrase id from 0 to {num_phrases - 1}",
                int(owners[rows.start + row]),
                at=f"row {rows.start + row}",
                summary="a vector belongs to no phrase",
            )


def check_unit_rows(vectors: Tensor) -> None:
    """Refuse rows, (n, d) floating point, that are not of unit length as far as float16 can be.

    Raises:
        EmbeddingError: If a length is NaN or off by more than ``UNIT_TOLERANCE``; the message names
            the first such row.
    """
    for row, length in rows_of_other_length(vectors):
        expected = "a vector of length 1"
        problem = "a vector cannot be searched"
        advice = "Scale the rows with lightweight_decoder.vectors.directions.unit_rows"
        raise EmbeddingError.unexpected(
            None, expected, f"length {length:.6g}", at=f"row {row}", summary=problem, advice=advice
        )


def counts_up(owners: Tensor) -> bool:
    """Say whether vector i belongs to phrase i, for all i."""
    return all(
        bool((owners[rows] == torch.arange(rows.start, rows.stop, device=owners.device)).all())
        for rows in slices(len(owners), 2**20)
    )
