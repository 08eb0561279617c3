"""The listwise loss that both learned parts are trained with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


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
