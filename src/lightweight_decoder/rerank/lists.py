"""Lists of candidates: cut, re-ordered, put together again."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from lightweight_decoder.datatypes import Candidates

if TYPE_CHECKING:
    from torch import Tensor


def first_columns(found: Candidates, k: int) -> Candidates:
    """Return the first k columns."""
    return replace(
        found,
        phrase_ids=found.phrase_ids[:, :k],
        vector_ids=found.vector_ids[:, :k],
        values=found.values[:, :k],
    )


def some_rows(found: Candidates, rows: slice) -> Candidates:
    """Return the candidates of some of the queries."""
    return Candidates(
        phrase_ids=found.phrase_ids[rows],
        vector_ids=found.vector_ids[rows],
        values=found.values[rows],
        kind=found.kind,
    )


def reordered(found: Candidates, logits: Tensor) -> Candidates:
    """Return the candidates by falling logit (q, k), ties in the order that they came in."""
    order = logits.argsort(dim=1, descending=True, stable=True)
    return Candidates(
        phrase_ids=found.phrase_ids.gather(1, order),
        vector_ids=found.vector_ids.gather(1, order),
        values=logits.gather(1, order),
        kind="logit",
    )


def with_tail(head: Candidates, found: Candidates) -> Candidates:
    """Return a reranked head, then the columns of ``found`` behind it, in their order."""
    k = head.phrase_ids.shape[1]
    behind = found.values[:, k:]
    tail = behind - found.values[:, k - 1 : k] + head.values[:, -1:]
    tail = tail.masked_fill(behind == -torch.inf, -torch.inf)  # else inf - inf
    return Candidates(
        phrase_ids=torch.cat([head.phrase_ids, found.phrase_ids[:, k:]], dim=1),
        vector_ids=torch.cat([head.vector_ids, found.vector_ids[:, k:]], dim=1),
        values=torch.cat([head.values, tail], dim=1),
        kind=head.kind,
    )
