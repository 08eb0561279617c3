"""The order of phrases for a query, defined once.

The value of a vector is its cosine with the query as float64 gives it: the query scaled to length
one in float64, times the vector as it is stored, rounded to a multiple of 2**-30 and then to
float32. The value of a phrase is the best of those of its vectors that are not excluded. Phrases
stand by falling value, ties go to the lower phrase id; of a phrase's equally good vectors the lower
row counts.

Search, ranks and every backend give this order, whatever they computed first: float32 products that
are further apart than :func:`float32_error` allows for are in it already, and the others are
computed again.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lightweight_decoder.datatypes import NO_ID
from lightweight_decoder.search.vector_blocks import slices
from lightweight_decoder.vectors.directions import UNIT_TOLERANCE, unit_rows

_GRID = 2.0**30
_PAIRS_AT_ONCE = 16_384
_FLOAT32_ROUNDING = 2.0**-24


def unit_queries(queries: Tensor) -> Tensor:
    """Scale queries of any floating point dtype to length one, (q, d) float64.

    Raises:
        EmbeddingError: If one of them is NaN, infinite or all zero; the message names the row.
    """
    return unit_rows(queries.double())


def rounded_cosines(cosines: Tensor) -> Tensor:
    """Round float64 cosines to multiples of 2**-30, then to float32.

    Cosines that are equal in real numbers differ in the last bits of float64, according to the
    order of the sum; rounded, they are equal again. Float32 alone would not do: near zero it would
    keep those bits. The grid is far below what float32 vectors can tell apart.
    """
    return (cosines * _GRID).round_().div_(_GRID).float()


def values_of_block(queries: Tensor, vectors: Tensor) -> Tensor:
    """Return the value of each of the vectors (m, d) for each unit query (q, d), (q, m) float32."""
    return rounded_cosines(queries @ vectors.double().T)


def values_of_lists(queries: Tensor, vectors: Tensor, ids: Tensor) -> Tensor:
    """Return the values of each query's own vectors, (q, m) float32; takes 16 q m d bytes.

    Queries (q, d) are from :func:`unit_queries`; ``ids`` (q, m) int64 are rows of the vectors on
    the same device, the value of ``NO_ID`` is -inf.
    """
    products = vectors[ids.clamp(min=0)].double().mul_(queries[:, None])
    return rounded_cosines(products.sum(dim=2)).masked_fill_(ids == NO_ID, -torch.inf)


def values_of_pairs(queries: Tensor, rows: Tensor, vectors: Tensor, ids: Tensor) -> Tensor:
    """Return the values of m pairs, of a query in ``rows`` and a vector in ``ids``, (m,) float32.

    Queries (q, d) are from :func:`unit_queries`, vectors (n, d) on the same device.
    """
    values = queries.new_empty(len(rows), dtype=torch.float32)
    for pairs in slices(len(rows), _PAIRS_AT_ONCE):
        products = queries[rows[pairs]] * vectors[ids[pairs]].double()
        values[pairs] = rounded_cosines(products.sum(dim=1))
    return values


def float32_error(dim: int) -> float:
    """Bound how far a float32 product of a unit query and a vector is off its value.

    A sum of d products is off by at most d roundings, whatever its order (Higham, Accuracy and
    Stability of Numerical Algorithms, section 3.1); four more are for the rounding of the query and
    of the value.
    """
    return (1 + UNIT_TOLERANCE) * (dim + 4) * _FLOAT32_ROUNDING


def hide_excluded(scores: Tensor, excluded: Tensor | None, first_vector: int) -> None:
    """Set the values (q, m) of excluded vectors to -inf, in place.

    They are of m consecutive vectors, from ``first_vector`` on; ``excluded`` is (q, w) int64
    vectors that do not count, filled up with ``NO_ID``, or None.
    """
    if excluded is None or not excluded.numel():
        return
    columns = excluded - first_vector
    inside = (columns >= 0) & (columns < scores.shape[1]) & (excluded != NO_ID)
    scores[inside.nonzero()[:, 0], columns[inside]] = -torch.inf


def first_of_each_phrase(phrases: Tensor) -> Tensor:
    """Mark, in each row (q, m) of phrases, the leftmost entry of every phrase, (q, m) bool."""
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

    Values (q, m) fall, with the vector and the phrase of each. All three come back as (q, k); rows
    with fewer phrases end in -inf and ``NO_ID``.
    """
    is_first = first_of_each_phrase(phrases)
    place = is_first.cumsum(dim=1) - 1
    place = place.masked_fill_(~is_first | (place >= k), k)  # column k collects the rest
    kept = []
    for entries, filler in ((values, -torch.inf), (vectors, NO_ID), (phrases, NO_ID)):
        filled = entries.new_full((len(entries), k + 1), filler)
        kept.append(filled.scatter_(1, place, entries)[:, :k])
    return kept[0], kept[1], kept[2]
