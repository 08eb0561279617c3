"""Gives candidates of a search to what re-orders them, with what the bank knows about them."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias

import torch

from lightweight_decoder.datatypes import NO_ID
from lightweight_decoder.rerank.features import agreement, phrase_features, phrase_sums
from lightweight_decoder.rerank.lists import some_rows
from lightweight_decoder.rerank.phrase_classifier import PhraseClassifier
from lightweight_decoder.rerank.reranker import ListwiseReranker

if TYPE_CHECKING:
    from torch import Tensor

    from lightweight_decoder.bank import PhraseBank
    from lightweight_decoder.datatypes import Candidates

Reranker: TypeAlias = ListwiseReranker | PhraseClassifier
"""What gives candidates other values than the search."""

_CACHE_BYTES = 2**23
_MOST_QUERIES = 1_024


class CandidateScorer:
    """Scores candidates of a bank with a reranker.

    Args:
        bank: The phrases and their vectors. Their features and sums are computed at first use.
    """

    def __init__(self, bank: PhraseBank) -> None:
        self._bank = bank
        self._features: Tensor | None = None

    def logits(
        self,
        reranker: Reranker,
        queries: Tensor,
        adapted: Tensor,
        found: Candidates,
        *,
        exclude_vectors: Tensor | None = None,
    ) -> Tensor:
        """Return the reranker's logits (q, k) float32 for candidates of the search.

        Args:
            reranker: What scores them, where the queries are.
            queries: (q, query_dim) floating point.
            adapted: (q, d) floating point of unit length.
            found: What the search found for them.
            exclude_vectors: (q, w) int64 rows of the bank that do not count for a query, filled up
                with ``NO_ID``.
        """
        vectors = self._bank.gather(found.vector_ids)
        logits: Tensor = reranker(
            queries,
            adapted,
            found.phrase_ids,
            vectors,
            found.values,
            self.agreement(adapted, vectors, found, exclude_vectors),
            self._features_on(queries.device)[found.phrase_ids],
        )
        return logits.float()  # whatever the precision of the reranker

    def batched_logits(
        self,
        reranker: Reranker,
        queries: Tensor,
        adapted: Tensor,
        found: Candidates,
        *,
        exclude_vectors: Tensor | None = None,
    ) -> Tensor:
        """``logits`` of so few queries at a time that their candidates fit a CPU's cache."""
        fitting = _CACHE_BYTES // (4 * max(1, found.vector_ids.shape[1]) * self._bank.dim)
        step = max(1, fitting) if queries.device.type == "cpu" else _MOST_QUERIES
        parts = []
        for start in range(0, max(1, len(queries)), step):
            rows = slice(start, start + step)
            own = None if exclude_vectors is None else exclude_vectors[rows]
            head = some_rows(found, rows)
            parts.append(
                self.logits(reranker, queries[rows], adapted[rows], head, exclude_vectors=own)
            )
        return torch.cat(parts)

    def agreement(
        self, adapted: Tensor, vectors: Tensor, found: Candidates, excluded: Tensor | None
    ) -> Tensor:
        """Return what all vectors of each candidate's phrase say together, (q, k) float32.

        Args:
            adapted: (q, d) float32 of unit length.
            vectors: (q, k, d) float32, the candidates' vectors.
            found: The candidates.
            excluded: (q, w) int64 rows of the bank that are left out, or None.
        """
        if self._sums is None:
            return agreement(adapted, vectors, None)
        sums = self._sums[found.phrase_ids.cpu()].to(adapted.device)
        if excluded is None or excluded.shape[1] == 0:
            return agreement(adapted, vectors, sums)
        owners = torch.from_numpy(self._bank.owners)[excluded.cpu()].to(adapted.device)
        owners = owners.masked_fill(excluded == NO_ID, NO_ID)
        counts = (owners[:, :, None] == found.phrase_ids[:, None, :]).float()
        return agreement(adapted, vectors, sums, self._bank.gather(excluded), counts)

    @cached_property
    def _sums(self) -> Tensor | None:
        """(p, d) float32 sum of each phrase's vectors; None where each owns only one."""
        return phrase_sums(self._bank)

    def _features_on(self, device: torch.device) -> Tensor:
        """(p, f) float32 features of the bank's phrases."""
        if self._features is None:
            self._features = phrase_features(self._bank)
        if self._features.device != device:
            self._features = self._features.to(device)
        return self._features
