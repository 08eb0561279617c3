"""The phrase classifier: one learned vector a phrase, for banks whose phrases have examples."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name everyone uses

_START_SCALE = 16.0
_MOST_STEPS = 300
_Count = Annotated[int, Field(ge=1)]


class PhraseClassifier(nn.Module):
    """Gives each candidate a logit, from a linear classifier over phrases and from the search.

    The classifier is a multinomial logistic regression whose classes are the bank's phrases and
    whose examples are their vectors. A candidate's logit is the weighted sum of its class's logit,
    its search value (the nearest example) and its agreement (all of its examples taken together).
    No weight is negative; training finds them on queries that the classifier has not seen, so one
    that does not help gets none. A new classifier ranks as the search does.

    Args:
        query_dim: Width of the queries, which is that of the bank.
        bank_dim: Width d of the bank's vectors.
        num_phrases: Phrases p of the bank.
        num_candidates: How many candidates k of the search are re-ordered.
        penalty: Of half the squared class vectors, against the summed log loss of the examples.

    Attributes:
        weight: (p, d) float32, the class vectors.
        bias: (p,) float32.
        shares: (3,) float32, the weights of class logit, search value and agreement.
    """

    weight: Tensor
    bias: Tensor
    shares: Tensor

    def __init__(
        self,
        *,
        query_dim: int,
        bank_dim: int,
        num_phrases: int,
        num_candidates: _Count = 128,
        penalty: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.03,
    ) -> None:
        super().__init__()
        self.num_candidates = num_candidates
        self.hyperparameters: dict[str, int | float] = {
            "query_dim": query_dim,
            "bank_dim": bank_dim,
            "num_phrases": num_phrases,
            "num_candidates": num_candidates,
            "penalty": penalty,
        }
        self.register_buffer("weight", torch.zeros(num_phrases, bank_dim))
        self.register_buffer("bias", torch.zeros(num_phrases))
        self.register_buffer("shares", torch.tensor([0.0, _START_SCALE, 0.0]))

    def forward(  # noqa: PLR0917 - called as any reranker is
        self,
        queries: Tensor,
        adapted: Tensor,
        phrase_ids: Tensor,
        vectors: Tensor,  # noqa: ARG002
        values: Tensor,
        agreement: Tensor,
        features: Tensor,  # noqa: ARG002
    ) -> Tensor:
        """Return the candidates' logits (q, k) float32, higher is better, -inf where values are.

        Args:
            queries: (q, d) float32, of any length but zero.
            adapted: (q, d) float32, what was searched for, of any length but zero.
            phrase_ids: (q, k) int64.
            vectors: (q, k, d) float32; not read.
            values: (q, k) float32, the search's values; -inf where there is none.
            agreement: (q, k) float32, from ``features.agreement`` with ``adapted``.
            features: (q, k, f) float32; not read.
        """
        cosines = agreement / torch.linalg.vector_norm(adapted, dim=-1, keepdim=True)
        known = values.clamp(min=-1.0)
        columns = torch.stack([self.class_logits(queries, phrase_ids), known, cosines], dim=-1)
        return (columns @ self.shares).masked_fill(values == -torch.inf, -torch.inf)

    def class_logits(self, queries: Tensor, phrase_ids: Tensor) -> Tensor:
        """Return the classifier's own logits (q, k) float32 of candidates (q, k)."""
        every = F.linear(F.normalize(queries.float(), dim=-1), self.weight, self.bias)
        return every.gather(1, phrase_ids.clamp(min=0))

    def fit(self, vectors: Tensor, phrase_ids: Tensor, *, absent: Tensor | None = None) -> None:
        """Fit class vectors and biases to examples, from zero, by L-BFGS.

        Minimizes the summed log loss plus ``penalty`` / 2 times the squared class vectors; biases
        are free. The same as scikit-learn's ``LogisticRegression(C=1 / penalty)``.

        Args:
            vectors: (m, d) floating point examples, of any length but zero.
            phrase_ids: (m,) int64, the phrase of each.
            absent: (p,) bool, phrases that are no classes; None: all are. They have no examples.
        """
        unit = F.normalize(vectors.to(self.weight), dim=-1)
        phrase_ids = phrase_ids.to(unit.device)
        hidden = None if absent is None else absent.to(unit.device)
        inputs = torch.cat([unit, unit.new_ones(len(unit), 1)], dim=1)
        rows, count = torch.arange(len(inputs), device=inputs.device), len(inputs)
        found = inputs.new_zeros(inputs.shape[1], len(self.bias))
        optimizer = torch.optim.LBFGS(
            [found],
            max_iter=_MOST_STEPS,
            history_size=10,
            tolerance_grad=1e-4,
            tolerance_change=1e-6,
            line_search_fn="strong_wolfe",
        )
        decay = found.new_full((len(found), 1), self.hyperparameters["penalty"])
        decay[-1] = 0  # of the bias

        def loss_with_gradient() -> float:
            logits = inputs @ found
            if hidden is not None:
                logits.masked_fill_(hidden, -torch.inf)
            log_shares = logits.log_softmax(dim=1)
            loss = -log_shares[rows, phrase_ids].sum() + (decay * found.square()).sum() / 2
            error = log_shares.exp_()
            error[rows, phrase_ids] -= 1
            found.grad = (inputs.T @ error + decay * found) / count
            return float(loss) / count

        optimizer.step(loss_with_gradient)  # type: ignore[no-untyped-call]  # torch's own
        self.weight.copy_(found[:-1].T)
        self.bias.copy_(found[-1])
