"""The listwise reranker: re-orders the candidates that the search found; and its loss."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name everyone uses

from lightweight_decoder.rerank.features import NUM_FEATURES

_START_SCALE = 16.0  # a power of two: scaling values by it is exact, so it cannot create ties
_NUM_LIST_FEATURES = 7
_Count = Annotated[int, Field(ge=1)]


class ListwiseReranker(nn.Module):
    """Gives each candidate a logit, from the query, the candidate and the rest of its list.

    Every candidate is described by low-rank products of query and candidate vector, its search
    value and rank, its cosines with the list's mean and with the list's mean weighted by search
    value, its phrase's features, and what its phrase's vectors say together. The logit is the
    scaled search value, plus a learned share of that agreement, less a learned share of the
    phrase's hubness, plus a correction; shares and correction start at zero, so a new reranker
    ranks exactly as the search does.

    Args:
        query_dim: Width of the queries before the adapter.
        bank_dim: Width d of the bank's vectors.
        num_phrases: Phrases p of the bank.
        num_candidates: How many candidates k of the search are re-ordered.
        rank_dim: Number of low-rank products of query and candidate.
        hidden_dim: Width of the hidden layers.
        dropout: Share of hidden units dropped while training, in [0, 1).

    Attributes:
        hubness: (p,) float32, zero until training fills it in; see ``features.hubness``.
    """

    hubness: Tensor

    def __init__(
        self,
        *,
        query_dim: int,
        bank_dim: int,
        num_phrases: int,
        num_candidates: _Count = 128,
        rank_dim: _Count = 64,
        hidden_dim: _Count = 128,
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.3,
    ) -> None:
        super().__init__()
        self.num_candidates = num_candidates
        self.hyperparameters: dict[str, int | float] = {
            "query_dim": query_dim,
            "bank_dim": bank_dim,
            "num_phrases": num_phrases,
            "num_candidates": num_candidates,
            "rank_dim": rank_dim,
            "hidden_dim": hidden_dim,
            "dropout": dropout,
        }
        self.register_buffer("hubness", torch.zeros(num_phrases))
        self.query_map = nn.Linear(query_dim + bank_dim, rank_dim)
        self.candidate_map = nn.Linear(bank_dim, rank_dim)
        self.norm = nn.LayerNorm(rank_dim)
        self.describe = nn.Sequential(
            nn.Linear(rank_dim + NUM_FEATURES + _NUM_LIST_FEATURES, hidden_dim),
            nn.GELU(),
        )
        self.refine = nn.Sequential(
            nn.Linear(hidden_dim, hidden_dim), nn.GELU(), nn.Dropout(dropout)
        )
        self.correction = nn.Linear(hidden_dim, 1, bias=False)
        nn.init.zeros_(self.correction.weight)
        self.relative_scale = nn.Parameter(torch.zeros(()))
        self.agreement_share = nn.Parameter(torch.zeros(()))
        self.hubness_share = nn.Parameter(torch.zeros(()))

    def forward(  # noqa: PLR0917 - one tensor a thing it sees
        self,
        queries: Tensor,
        adapted: Tensor,
        phrase_ids: Tensor,
        vectors: Tensor,
        values: Tensor,
        agreement: Tensor,
        features: Tensor,
    ) -> Tensor:
        """Return the candidates' logits (q, k) float32, higher is better, -inf where values are.

        The layers compute in the dtype of their weights, or of autocast; what they correct stays in
        float32, as bfloat16 would make ties of most of a list.

        Args:
            queries: (q, query_dim) float32, before the adapter.
            adapted: (q, d) float32, after it, of unit length.
            phrase_ids: (q, k) int64.
            vectors: (q, k, d) float32, the bank vector that gave each candidate its value.
            values: (q, k) float32, the search's values, best first; -inf where there is none.
            agreement: (q, k) float32, from ``features.agreement``.
            features: (q, k, f) float32, from ``phrase_features``.
        """
        dtype = self.correction.weight.dtype
        known = values.clamp(min=-1.0)
        hub = self.hubness[phrase_ids].float()
        query = torch.cat([F.normalize(queries, dim=-1), adapted], dim=-1)
        products = self.norm(
            self.query_map(query.to(dtype))[:, None] * self.candidate_map(vectors.to(dtype))
        )
        listed = _list_features(vectors, known, agreement, hub)
        described = self.describe(torch.cat([products, features, listed], dim=-1).to(dtype))
        refined = described + self.refine(described)
        scale = _START_SCALE * (1 + self.relative_scale)
        value = known + self.agreement_share * agreement - self.hubness_share * hub
        logits: Tensor = scale * value + self.correction(refined).squeeze(-1).float()
        # Not -inf in the sum: the scale's gradient would be 0 * inf.
        hidden: Tensor = logits.masked_fill(values == -torch.inf, -torch.inf)
        return hidden


def _list_features(vectors: Tensor, values: Tensor, agreement: Tensor, hub: Tensor) -> Tensor:
    """(q, k, 7): value against the best, softmax, log rank, two list cosines, agreement, hubness.

    The factors bring the columns to a standard deviation of about 1.
    """
    ranks = torch.arange(1, values.shape[1] + 1, dtype=values.dtype, device=values.device)
    weights = torch.softmax(_START_SCALE * values, dim=-1)
    middles = (
        torch.stack([weights, torch.full_like(weights, 1 / weights.shape[1])], dim=1) @ vectors
    )
    cosines = torch.einsum("qkd,qmd->qkm", vectors, middles)
    columns = [
        _START_SCALE * (values - values[:, :1]),
        4 * weights,
        ranks.log().expand_as(values),
        4 * cosines[..., 0],
        4 * cosines[..., 1],
        _START_SCALE * (agreement - values),
        _START_SCALE * hub,
    ]
    return torch.stack(columns, dim=-1)


def listwise_loss(logits: Tensor, right: Tensor, counts: Tensor) -> Tensor:
    """Return the mean over queries of -log of the softmax's share that right candidates have.

    A query may have several right candidates: any of them will do, so their shares are added
    (the marginal likelihood; Cao et al., "Learning to rank: from pairwise approach to listwise
    approach", 2007, with a set of right answers in place of a permutation).

    Args:
        logits: (q, k) float32.
        right: (q, k) bool, which candidates are right.
        counts: (q, k) bool, which candidates take part; a right one always does unless its logit is
            -inf.

    Returns:
        A scalar; 0 (with a gradient of 0) where no query has both a right candidate and a wrong
        one, and queries that lack either do not count.
    """
    takes_part = (counts | right) & torch.isfinite(logits)
    right = right & takes_part
    useful = right.any(dim=1) & (takes_part & ~right).any(dim=1)
    chosen = logits[useful]
    every = chosen.masked_fill(~takes_part[useful], -torch.inf).logsumexp(dim=1)
    good = chosen.masked_fill(~right[useful], -torch.inf).logsumexp(dim=1)
    return (every - good).sum() / useful.sum().clamp(min=1)
