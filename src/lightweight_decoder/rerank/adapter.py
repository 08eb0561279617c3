"""The query adapter: moves a query to where its phrase lies in the bank."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name everyone uses


class QueryAdapter(nn.Module):
    """A residual map of the query, the identity until it is trained.

    ``base(q) + W2 gelu(W1 base(q))``, scaled to unit length. ``W2`` starts at zero, so a new adapter
    leaves every query where it is. ``base`` is the query itself where query and bank have the same
    width, and a learned projection where they don't.

    Args:
        query_dim: Width of the queries.
        bank_dim: Width d of the bank's vectors.
        hidden_dim: Width of the residual branch.
        dropout: Share of the residual branch's units dropped while training, in [0, 1).
    """

    def __init__(
        self, *, query_dim: int, bank_dim: int, hidden_dim: int = 512, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.hyperparameters: dict[str, int | float] = {
            "query_dim": query_dim,
            "bank_dim": bank_dim,
            "hidden_dim": hidden_dim,
            "dropout": dropout,
        }
        self.base = (
            nn.Identity() if query_dim == bank_dim else nn.Linear(query_dim, bank_dim, bias=False)
        )
        self.residual = nn.Sequential(
            nn.Linear(bank_dim, hidden_dim),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(hidden_dim, bank_dim),
        )
        output = self.residual[-1]
        assert isinstance(output, nn.Linear)
        nn.init.zeros_(output.weight)
        nn.init.zeros_(output.bias)

    def forward(self, queries: Tensor) -> Tensor:
        """Returns the adapted queries (q, bank_dim) float32 of unit length.

        Args:
            queries: (q, query_dim) float32, of any length but zero.
        """
        base = self.base(F.normalize(queries, dim=-1))
        return F.normalize(base + self.residual(base), dim=-1)

    @torch.no_grad()
    def fit_projection(self, queries: Tensor, vectors: Tensor, *, ridge: float = 1e-2) -> None:
        """Starts the projection at the least-squares map from queries to their phrases' vectors.

        Does nothing where query and bank have the same width. Ridge regression in closed form
        (Hoerl and Kennard, 1970): ``P = V^T Q (Q^T Q + ridge q / query_dim I)^-1``.

        Args:
            queries: (q, query_dim) float32.
            vectors: (q, bank_dim) float32, the vector of the phrase that each query should find.
            ridge: Strength of the penalty, relative to the mean square of the queries.
        """
        if not isinstance(self.base, nn.Linear):
            return
        unit = F.normalize(queries, dim=-1).double()
        gram = unit.T @ unit
        penalty = ridge * gram.diagonal().mean() * torch.eye(gram.shape[0], dtype=gram.dtype)
        solution = torch.linalg.solve(gram + penalty, unit.T @ vectors.double())
        self.base.weight.copy_(solution.T)
