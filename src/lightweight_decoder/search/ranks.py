"""Exact ranks of given phrases among all phrases of a bank, however far down they stand.

A rank is the place at which a search for everything would return the phrase. Float32 products tell
which phrases certainly stand before it; those too close to tell are compared by the definition
(:mod:`.order`).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from lightweight_decoder.datatypes import NO_ID
from lightweight_decoder.errors import BankError
from lightweight_decoder.search.contract import check_queries, counts_up
from lightweight_decoder.search.order import (
    float32_error,
    hide_excluded,
    unit_queries,
    values_of_pairs,
)
from lightweight_decoder.search.products import products
from lightweight_decoder.search.vector_blocks import converted_blocks, slices

if TYPE_CHECKING:
    from lightweight_decoder.bank import PhraseBank
    from lightweight_decoder.datatypes import FloatArray, IntArray

_MAX_BYTES = 256 * 2**20  # of phrases' values held at once
_BLOCK_BYTES = 16 * 2**20  # of vectors' values; they then stay in the processor's cache
_TARGETS_AT_ONCE = 64
_PHRASES_AT_ONCE = 4_096


def phrase_ranks(
    bank: PhraseBank, queries: Tensor, targets: Tensor, *, exclude_vectors: Tensor | None = None
) -> Tensor:
    """Return the rank (q, m) int64 of every target, on the queries' device.

    A rank counts from 1: one more than the number of phrases that stand before the target in the
    order of :mod:`.order`. Products are computed on the queries' device, all else on the CPU. Peak
    extra memory is about 300 MB, or 4 bytes times p for one query if that is more.

    Args:
        bank: The phrases and their vectors.
        queries: (q, d) floating point of any length but zero.
        targets: (q, m) int64 phrase ids, filled up with ``NO_ID``, whose rank is 0.
        exclude_vectors: (q, w) int64 rows of the bank that do not count for a query, filled up with
            ``NO_ID``. A phrase without any vector left has rank 0.

    Raises:
        EmbeddingError: If the queries have another width than the bank, or if one of them is NaN,
            infinite or all zero; the message names the row.
        BankError: If a target is no phrase of the bank.
    """
    check_queries(queries, bank.dim, exclude_vectors)
    unit, wanted = unit_queries(queries.detach().cpu()), targets.cpu()
    for phrase in wanted[(wanted < NO_ID) | (wanted >= bank.num_phrases)][:1].tolist():
        expected = f"a phrase id from 0 to {bank.num_phrases - 1}"
        raise BankError.unexpected("targets", expected, phrase, summary="there is no such phrase")
    hidden = wanted.new_empty((len(unit), 0)) if exclude_vectors is None else exclude_vectors.cpu()
    ranks = torch.zeros_like(wanted)
    most_rows = max(1, _MAX_BYTES // (4 * bank.num_phrases))
    size = max(1, math.ceil(len(unit) / max(1, math.ceil(len(unit) / most_rows))))
    best = torch.empty((size, bank.num_phrases), dtype=torch.float32, device=queries.device)
    for rows in slices(len(unit), size):
        _find_best_products(bank, unit[rows], hidden[rows], out=best[: len(unit[rows])])
        values = best[: len(unit[rows])].cpu().numpy()
        found = _ranks(bank, unit[rows], hidden[rows], values, wanted[rows].numpy())
        ranks[rows] = torch.from_numpy(found)
    return ranks.to(targets.device)


def _find_best_products(bank: PhraseBank, queries: Tensor, hidden: Tensor, *, out: Tensor) -> None:
    """Write the best product of every phrase, (q, p); -inf where none of its vectors counts."""
    wide, excluded = queries.float().to(out.device), hidden.to(out.device)
    owners = torch.as_tensor(bank.owners)
    is_phrase = counts_up(owners)
    if not is_phrase:
        out.fill_(-torch.inf)
    size = max(4 * 1_024 * bank.dim, _BLOCK_BYTES * bank.dim // max(len(queries), bank.dim))
    blocks = converted_blocks(
        torch.as_tensor(bank.vectors), torch.float32, out.device, max_bytes=size
    )
    for start, block in blocks:
        rows = slice(start, start + len(block))
        values = products(wide, block, out=out[:, rows] if is_phrase else None)
        hide_excluded(values, excluded, start)
        if not is_phrase:
            some = owners[rows].to(out.device)
            out.scatter_reduce_(1, some.expand_as(values), values, "amax")


def _ranks(
    bank: PhraseBank, queries: Tensor, hidden: Tensor, best: FloatArray, targets: IntArray
) -> IntArray:
    """Return the ranks (q, m) of targets, given the best products (q, p) of all phrases."""
    ranks = np.zeros_like(targets)
    own = np.take_along_axis(best, np.maximum(targets, 0), axis=1)
    rows, columns = ((targets != NO_ID) & (own > -np.inf)).nonzero()
    for part in slices(len(rows), _TARGETS_AT_ONCE):
        some, phrases = rows[part], targets[rows[part], columns[part]]
        ahead, places, others = _compared(best, some, phrases, 2 * float32_error(bank.dim))
        values = _values(bank, queries, hidden, some[places], others)
        is_own = others == phrases[places]
        value = np.zeros(len(some), dtype=np.float32)
        value[places[is_own]] = values[is_own]
        is_equal = values == value[places]
        before = (values > value[places]) | (is_equal & (others < phrases[places]))
        ahead += np.bincount(places[before], minlength=len(some))
        ranks[some, columns[part]] = ahead + 1
    return ranks


def _compared(
    best: FloatArray, rows: IntArray, phrases: IntArray, margin: float
) -> tuple[IntArray, IntArray, IntArray]:
    """Count, for each of t targets, the phrases whose products are certainly higher, (t,).

    Returns also which are too close to tell, themselves included where there are others: the number
    of the target (c,) and the phrase (c,).
    """
    ahead, close = np.zeros_like(rows), []
    for place, (row, phrase) in enumerate(zip(rows, phrases, strict=True)):
        value = best[row, phrase]
        above, near = best[row] > value + margin, best[row] >= value - margin
        ahead[place] = np.count_nonzero(above)
        is_alone = np.count_nonzero(near) == ahead[place] + 1
        close.append(np.flatnonzero(near & ~above) if not is_alone else np.empty(0, np.int64))
    places = np.repeat(np.arange(len(rows)), [len(others) for others in close])
    return ahead, places, np.concatenate(close)


def _values(
    bank: PhraseBank, queries: Tensor, hidden: Tensor, rows: IntArray, phrases: IntArray
) -> FloatArray:
    """Return the value (c,) of each phrase for the query in a row, by the definition."""
    values, vectors = np.empty(len(rows), dtype=np.float32), torch.as_tensor(bank.vectors)
    for part in slices(len(rows), _PHRASES_AT_ONCE):
        owned = bank.vector_ids_of(phrases[part])
        excluded = hidden.numpy()[rows[part]]
        counts = (owned != NO_ID) & ~(owned[:, :, None] == excluded[:, None]).any(axis=2)
        pairs = (torch.from_numpy(rows[part][counts.nonzero()[0]]), vectors)
        table = np.full(owned.shape, -np.inf, dtype=np.float32)
        table[counts] = values_of_pairs(queries, *pairs, torch.from_numpy(owned[counts])).numpy()
        values[part] = table.max(axis=1)
    return values
