"""The listwise reranker: re-orders the candidates that the search found."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name everyone uses

from lightweight_decoder.rerank.features import NUM_FEATURES

_START_SCALE = 16.0  # a power of two: scaling values by it is exact, so it cannot create ties
_NUM_LIST_FEATURES = 4


class ListwiseReranker(nn.Module):
    """Gives each candidate a logit, from the query, the candidate and the rest of its list.

    Every candidate is described by low-rank products of query and candidate vector, its search
    value and rank, and its phrase's features. The list's own mean and its mean weighted by search
    value are shown to each candidate beside its own description. The logit is the scaled search
    value plus a correction that starts at zero, so a new reranker ranks exactly as the search does.

    Args:
        bank_dim: Width d of the bank's vectors and of adapted queries.
        query_dim: Width of the queries before the adapter.
        num_candidates: How many candidates k of the search are re-ordered.
        rank_dim: Number of low-rank products of query and candidate.
        hidden_dim: Width of the hidden layers.
        dropout: Share of hidden units dropped while training, in [0, 1).
    """

    def __init__(
        self,
        *,
        query_dim: int,
        bank_dim: int,
        num_candidates: int = 128,
        rank_dim: int = 128,
        hidden_dim: int = 128,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.num_candidates = num_candidates
        self.hyperparameters: dict[str, int | float] = {
            "query_dim": query_dim,
            "bank_dim": bank_dim,
            "num_candidates": num_candidates,
            "rank_dim": rank_dim,
            "hidden_dim": hidden_dim,
            "dropout": dropout,
        }
        self.query_map = nn.Linear(query_dim, rank_dim, bias=False)
        self.candidate_map = nn.Linear(bank_dim, rank_dim, bias=False)
        self.describe = nn.Sequential(
            nn.Linear(rank_dim + NUM_FEATURES + _NUM_LIST_FEATURES, hidden_dim),
            nn.GELU(),
            nn.Dropout(dropout),
        )
        self.compare = nn.Sequential(
            nn.Linear(3 * hidden_dim, hidden_dim), nn.GELU(), nn.Dropout(dropout)
        )
        self.correction = nn.Linear(hidden_dim, 1)
        nn.init.zeros_(self.correction.weight)
        nn.init.zeros_(self.correction.bias)
        self.relative_scale = nn.Parameter(torch.zeros(()))

    def forward(
        self, queries: Tensor, vectors: Tensor, values: Tensor, features: Tensor
    ) -> Tensor:
        """Returns the candidates' logits (q, k) float32, higher is better, -inf stays -inf.

        Args:
            queries: (q, query_dim) float32, before the adapter.
            vectors: (q, k, d) float32, the bank vector that gave each candidate its value.
            values: (q, k) float32, the search's values, best first; -inf where there is none.
            features: (q, k, f) float32, from ``phrase_features``.
        """
        present = torch.isfinite(values)
        known = values.masked_fill(~present, 0.0)
        products = self.query_map(F.normalize(queries, dim=-1))[:, None] * self.candidate_map(vectors)
        described = self.describe(
            torch.cat([products, features, _list_features(known)], dim=-1)
        )
        scale = _START_SCALE * (1 + self.relative_scale)
        weights = torch.softmax((scale * known).masked_fill(~present, -torch.inf), dim=-1)
        best = torch.einsum("qk,qkh->qh", weights, described)
        mean = (described * present[..., None]).sum(1) / present.sum(1, keepdim=True)
        context = torch.cat([best, mean], dim=-1)[:, None].expand(-1, values.shape[1], -1)
        compared = self.compare(torch.cat([described, context], dim=-1))
        return scale * values + self.correction(compared).squeeze(-1)


def _list_features(values: Tensor) -> Tensor:
    """(q, k, 4): search value, distance to the best, distance to the list's mean, log of the rank."""
    ranks = torch.arange(1, values.shape[1] + 1, dtype=values.dtype, device=values.device)
    return torch.stack(
        [
            values,
            values - values[:, :1],
            values - values.mean(dim=1, keepdim=True),
            ranks.log().expand_as(values),
        ],
        dim=-1,
    )
