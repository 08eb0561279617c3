"""Features of a phrase that need no query."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from lightweight_decoder.datatypes import NO_ID
from lightweight_decoder.search.order import unit_queries
from lightweight_decoder.search.products import full_float32, products, products_of_lists

if TYPE_CHECKING:
    from torch import Tensor

    from lightweight_decoder.bank import PhraseBank
    from lightweight_decoder.datatypes import FloatArray

NUM_FEATURES = 5
_FREQUENCY_COLUMN = "frequency"
_BLOCK_VECTORS = 8_192
_SMALLEST_LENGTH = 1e-12


def phrase_features(bank: PhraseBank) -> Tensor:
    """Return (p, 5) float32, each column of mean 0 and variance 1 over the bank, or all 0.

    The columns: log of 1 + the bank's metadata column ``frequency`` (0 where the bank has none),
    log of the length in characters, log of the length in words, whether the text has an upper-case
    letter, and log of the number of vectors that the phrase owns.
    """
    texts: list[str] = bank.texts(np.arange(bank.num_phrases))
    columns = [
        np.log1p(_frequency(bank)),
        np.log([max(len(text), 1) for text in texts]),
        np.log([text.count(" ") + 1 for text in texts]),
        np.array([text != text.lower() for text in texts]),
        np.log(np.bincount(bank.owners, minlength=bank.num_phrases)),
    ]
    features = np.stack(columns, axis=1).astype(np.float32)
    spread = features.std(axis=0)
    varies = spread > 1e-6  # noqa: PLR2004 - float32 leaves a constant column some rounding
    standardized = (features - features.mean(axis=0)) / np.where(varies, spread, 1)
    return torch.from_numpy(standardized * varies)


@torch.no_grad()
def hubness(bank: PhraseBank, queries: Tensor, targets: Tensor, *, neighbors: int = 10) -> Tensor:
    """Return how much each phrase attracts queries that are not its own, (p,) float32, mean 0.

    Some vectors lie near many queries and turn up in their lists without being right. A phrase's
    hubness is the mean cosine of its vectors' ``neighbors`` nearest queries, best vector first,
    queries that it is right for left out: a phrase that was trained on must not look different from
    one that was not. The measure is the correction term of CSLS (Conneau et al., "Word translation
    without parallel data", 2018, section 2.3).

    Args:
        bank: The phrases and their vectors.
        queries: (q, d) floating point, already adapted.
        targets: (q, m) int64 right phrases, filled up with ``NO_ID``.
        neighbors: How many queries count; all where there are fewer. A phrase that is right for
            all of them has hubness 0.
    """
    unit = unit_queries(queries.cpu()).float().to(queries.device)
    hub = unit.new_full((bank.num_phrases,), -torch.inf)
    for first in range(0, bank.num_vectors, _BLOCK_VECTORS):
        rows = slice(first, first + _BLOCK_VECTORS)
        vectors = torch.from_numpy(bank.vectors[rows]).to(unit)
        owners = torch.from_numpy(bank.owners[rows]).to(unit.device)
        cosines = products(vectors, unit)
        for column in targets.T:
            cosines.masked_fill_(owners[:, None] == column[None, :], -torch.inf)
        nearest = cosines.topk(min(neighbors, len(queries)), dim=1).values
        known = nearest.isfinite()
        mean = nearest.where(known, 0).sum(dim=1) / known.sum(dim=1)
        hub.scatter_reduce_(0, owners, mean.nan_to_num(-torch.inf), "amax")
    centered = hub - hub[hub.isfinite()].mean()
    return centered.masked_fill(~centered.isfinite(), 0)


def phrase_sums(bank: PhraseBank) -> Tensor | None:
    """Return the sum of each phrase's vectors, (p, d) float32; None where each owns only one."""
    if bank.num_vectors == bank.num_phrases:
        return None
    sums = torch.zeros(bank.num_phrases, bank.dim, dtype=torch.float32)
    for first in range(0, bank.num_vectors, _BLOCK_VECTORS):
        rows = slice(first, first + _BLOCK_VECTORS)
        vectors = torch.from_numpy(bank.vectors[rows]).float()
        sums.index_add_(0, torch.from_numpy(bank.owners[rows]), vectors)
    return sums


def agreement(
    adapted: Tensor,
    vectors: Tensor,
    sums: Tensor | None,
    own_vectors: Tensor | None = None,
    own_counts: Tensor | None = None,
) -> Tensor:
    """Return each query's cosine with all of a candidate's vectors taken together, (q, k) float32.

    A phrase's value is that of its best vector; this says what the others think.

    Args:
        adapted: (q, d) floating point unit rows.
        vectors: (q, k, d) float32, each candidate's best vector, its only one where ``sums`` is
            None.
        sums: (q, k, d) float32, the sum of each candidate's vectors.
        own_vectors: (q, w, d) float32 vectors that must not count for a query.
        own_counts: (q, w, k) float32, 1 where an own vector is part of a candidate's sum, else 0.
    """
    together = vectors if sums is None else sums
    if sums is not None and own_vectors is not None and own_counts is not None:
        with full_float32(adapted.device):
            together = sums - own_counts.mT @ own_vectors
    lengths = torch.linalg.vector_norm(together, dim=-1).clamp(min=_SMALLEST_LENGTH)
    cosines: Tensor = products_of_lists(adapted, together) / lengths
    return cosines


def _frequency(bank: PhraseBank) -> FloatArray:
    """(p,) how often each phrase is used, 0 where the bank does not say."""
    if _FREQUENCY_COLUMN not in bank.column_names:
        return np.zeros(bank.num_phrases, dtype=np.float32)
    frequency = bank.column(_FREQUENCY_COLUMN).astype(np.float32)
    return np.maximum(np.nan_to_num(frequency), 0)


def is_right(phrase_ids: Tensor, targets: Tensor) -> Tensor:
    """Return which candidates are right, (q, k) bool.

    Args:
        phrase_ids: (q, k) int64, or (k,) if the candidates are the same for every query.
        targets: (q, m) int64 right phrases, filled up with ``NO_ID``.
    """
    ids = phrase_ids.expand(len(targets), -1)
    right = torch.zeros(ids.shape, dtype=torch.bool, device=ids.device)
    for column in targets.T:
        right |= (ids == column[:, None]) & (ids != NO_ID)
    return right
