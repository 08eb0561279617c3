"""Orders rows of scored vectors and reduces them to phrases: pure functions on tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from lightweight_decoder.datatypes import NO_ID

_GRID = 2.0**30


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


def rounded_cosines(cosines: Tensor) -> Tensor:
    """Round float64 cosines to multiples of 2**-30, then to float32.

    Cosines that are equal in real numbers differ in the last bits of float64, according to the
    order of the sum; rounded, they are equal again. Float32 alone would not do: near zero it would
    keep those bits. The grid is far below what float32 vectors can tell apart.
    """
    return (cosines * _GRID).round_().div_(_GRID).float()


def has_close_neighbor(values: Tensor, margin: float) -> Tensor:
    """Mark entries of falling rows that are within ``margin`` of the one before or behind."""
    close = values[:, :-1] - values[:, 1:] <= margin
    return torch.nn.functional.pad(close, (1, 0)) | torch.nn.functional.pad(close, (0, 1))


def sorted_by_value(
    values: Tensor, vectors: Tensor, phrases: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Sort each row by falling value; ties to the lower phrase, then to the lower vector."""
    entries = [vectors, phrases, values]
    for key, falling in enumerate((False, False, True)):  # the last key sorted by decides first
        order = entries[key].sort(dim=1, descending=falling, stable=True).indices
        entries = [entry.gather(1, order) for entry in entries]
    return entries[2], entries[0], entries[1]


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
