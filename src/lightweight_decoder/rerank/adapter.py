"""The query adapter: moves a query to where its phrase lies in the bank."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name everyone uses


class QueryAdapter(nn.Module):
    """A residual linear map of the query, the identity until it is trained.

    ``base(q) + W base(q) + b``, scaled to unit length; W and b start at zero, so a new adapter
    leaves every query where it is. ``base`` is the query itself where query and bank have the same
    width, and a learned projection where they don't. A hidden layer overfitted from the first epoch
    on in every setting that was tried (docs/training.md).

    Args:
        query_dim: Width of the queries.
        bank_dim: Width d of the bank's vectors.
    """

    def __init__(self, *, query_dim: int, bank_dim: int) -> None:
        super().__init__()
        self.hyperparameters: dict[str, int] = {"query_dim": query_dim, "bank_dim": bank_dim}
        self.projection = (
            None if query_dim == bank_dim else nn.Linear(query_dim, bank_dim, bias=False)
        )
        self.residual = nn.Linear(bank_dim, bank_dim)
        nn.init.zeros_(self.residual.weight)
        nn.init.zeros_(self.residual.bias)

    def forward(self, queries: Tensor) -> Tensor:
        """Return the adapted queries (q, bank_dim) float32 of unit length.

        The products are in the dtype of the weights, or of autocast; all else is in float32, so
        that a new adapter leaves queries where they are in every precision.

        Args:
            queries: (q, query_dim) float32, of any length but zero.
        """
        dtype = self.residual.weight.dtype
        base = F.normalize(queries, dim=-1)
        if self.projection is not None:
            base = self.projection(base.to(dtype)).float()
        return F.normalize(base + self.residual(base.to(dtype)).float(), dim=-1)

    @torch.no_grad()
    def fit_projection(self, queries: Tensor, vectors: Tensor, *, ridge: float = 1e-2) -> None:
        """Start the projection at the least-squares map from queries to their phrases' vectors.

        Does nothing where query and bank have the same width. Ridge regression in closed form
        (Hoerl and Kennard, 1970): ``P = V^T Q (Q^T Q + r I)^-1``.

        Args:
            queries: (q, query_dim) float32.
            vectors: (q, bank_dim) float32, the vector of the phrase that each query should find.
            ridge: The penalty r as a share of the mean square of the queries' columns.
        """
        if self.projection is None:
            return
        unit = F.normalize(queries, dim=-1).double()
        gram = unit.T @ unit
        gram.diagonal().add_(ridge * gram.diagonal().mean())
        solution = torch.linalg.solve(gram, unit.T @ vectors.double())
        self.projection.weight.copy_(solution.T)
