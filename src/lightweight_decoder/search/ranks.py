"""Exact ranks of given phrases among all phrases of a bank, however far down they stand."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from lightweight_decoder.datatypes import NO_ID

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from lightweight_decoder.bank import PhraseBank

_MAX_BYTES = 256 * 2**20  # of phrases' values held at once
_BLOCK_BYTES = 16 * 2**20  # of vectors' values; they then stay in the processor's cache


def phrase_ranks(
    bank: PhraseBank, queries: Tensor, targets: Tensor, *, exclude_vectors: Tensor | None = None
) -> Tensor:
    """Return the rank (q, m) int64 of every target, on the queries' device.

    A rank counts from 1: one more than the number of phrases whose best cosine is higher, or equal
    with a lower phrase id. Peak extra memory is about 300 MB, or 4 bytes times p for one query if
    that is more.

    Args:
        bank: The phrases and their vectors.
        queries: (q, d) float32 of any length but zero.
        targets: (q, m) int64 phrase ids, filled up with ``NO_ID``, whose rank is 0.
        exclude_vectors: (q, w) int64 rows of the bank that do not count for a query, filled up with
            ``NO_ID``. A phrase without any vector left has rank 0.
    """
    ranks = torch.zeros_like(targets)
    most_rows = max(1, _MAX_BYTES // (4 * bank.num_phrases))
    size = math.ceil(len(queries) / math.ceil(max(len(queries), 1) / most_rows))
    best = torch.empty((size, bank.num_phrases), device=queries.device)
    for start in range(0, len(queries), max(size, 1)):
        rows = slice(start, start + size)
        excluded = None if exclude_vectors is None else exclude_vectors[rows]
        values = _phrase_values(bank, queries[rows], excluded, out=best[: len(queries[rows])])
        ranks[rows] = _ranks(values, targets[rows])
    return ranks


def _phrase_values(
    bank: PhraseBank, queries: Tensor, excluded: Tensor | None, *, out: Tensor
) -> Tensor:
    """(q, p) best cosine of every phrase, -inf where none of its vectors counts."""
    unit = torch.nn.functional.normalize(queries.float(), dim=-1)
    out.fill_(-torch.inf)
    for first, vectors, owners in _blocks(bank, len(queries), queries.device):
        values = unit @ vectors.T
        if excluded is not None:
            _exclude(values, excluded - first)
        out.scatter_reduce_(1, owners.expand_as(values), values, "amax")
    return out


def _blocks(
    bank: PhraseBank, num_queries: int, device: torch.device
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """First row, vectors (b, d) float32 and owners (b,) of each block of the bank."""
    size = max(1024, _BLOCK_BYTES // (4 * max(num_queries, bank.dim)))
    for first in range(0, bank.num_vectors, size):
        rows = slice(first, first + size)
        vectors = torch.from_numpy(bank.vectors[rows]).to(device=device, dtype=torch.float32)
        yield first, vectors, torch.from_numpy(bank.owners[rows]).to(device)


def _exclude(values: Tensor, columns: Tensor) -> None:
    """Set the values at ``columns`` (q, w) to -inf, where they lie inside the block."""
    inside = (columns >= 0) & (columns < values.shape[1])
    rows = torch.arange(len(values), device=values.device)[:, None].expand_as(columns)
    values[rows[inside], columns[inside]] = -torch.inf


def _ranks(values: Tensor, targets: Tensor) -> Tensor:
    """(q, m) rank of each target among the (q, p) values of all phrases."""
    ranks = torch.zeros_like(targets)
    for row, column in (targets != NO_ID).nonzero().tolist():  # most queries have few targets
        ranks[row, column] = _rank(values[row], int(targets[row, column]))
    return ranks


def _rank(values: Tensor, target: int) -> Tensor:
    """Rank of one phrase among (p,) values, 0 where none of its vectors counts."""
    own = values[target]
    ahead = torch.count_nonzero(values > own) + torch.count_nonzero(values[:target] == own)
    return torch.where(torch.isfinite(own), ahead + 1, 0)
