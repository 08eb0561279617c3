"""Orders rows of scored vectors and reduces them to phrases: pure functions on tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from lightweight_decoder.datatypes import NO_ID


def first_of_each_phrase(phrases: Tensor) -> Tensor:
    """Mark, in each row, the leftmost entry of every phrase.

    Args:
        phrases: (q, m) int64.

    Returns:
        (q, m) bool.
    """
    grouped, order = phrases.sort(dim=1, stable=True)
    is_first = torch.ones_like(grouped, dtype=torch.bool)
    is_first[:, 1:] = grouped[:, 1:] != grouped[:, :-1]
    return torch.empty_like(is_first).scatter_(1, order, is_first)


def value_of_kth_phrase(values: Tensor, phrases: Tensor, k: int) -> Tensor:
    """Return the value at which each row has seen k phrases, (q, 1); -inf where it never does."""
    num_seen = first_of_each_phrase(phrases).cumsum(dim=1)
    position = (num_seen < k).sum(dim=1, keepdim=True)
    padded = torch.nn.functional.pad(values, (0, 1), value=-torch.inf)
    return padded.gather(1, position)


def sorted_by_value(values: Tensor, vectors: Tensor, phrases: Tensor) -> tuple[Tensor, ...]:
    """Sort each row by falling value; ties to the lower phrase, then to the lower vector."""
    for key, falling in ((vectors, False), (phrases, False), (values, True)):
        order = key.sort(dim=1, descending=falling, stable=True).indices
        values, vectors, phrases = (x.gather(1, order) for x in (values, vectors, phrases))
    return values, vectors, phrases


def first_k_phrases(
    values: Tensor, vectors: Tensor, phrases: Tensor, k: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Keep each phrase's first entry, and of these the first k in each row.

    Args:
        values: (q, m) float32, falling.
        vectors: (q, m) int64.
        phrases: (q, m) int64, the phrase that owns each vector.
        k: How many columns come back.

    Returns:
        Values, vectors and phrases, (q, k); rows with fewer phrases end in -inf and ``NO_ID``.
    """
    is_first = first_of_each_phrase(phrases)
    place = is_first.cumsum(dim=1) - 1
    place = place.masked_fill_(~is_first | (place >= k), k)  # column k collects the rest
    kept = []
    for entries, filler in ((values, -torch.inf), (vectors, NO_ID), (phrases, NO_ID)):
        filled = entries.new_full((len(entries), k + 1), filler)
        kept.append(filled.scatter_(1, place, entries)[:, :k])
    return kept[0], kept[1], kept[2]
