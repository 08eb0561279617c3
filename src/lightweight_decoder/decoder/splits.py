"""Queries whose right phrases are known, apart by what they are for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import Field

from lightweight_decoder.datatypes import NO_ID

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lightweight_decoder.datatypes import FloatArray, IntArray

SplitName = Literal["train", "val", "calib", "test"]
Seed = Annotated[int, Field(ge=0)]
"""What decides all that is drawn."""

LEARNED: tuple[SplitName, ...] = ("train", "val", "calib")
"""Those that may be learned from."""

SPLIT_NAMES: tuple[SplitName, ...] = (*LEARNED, "test")


@dataclass(frozen=True, slots=True)
class Split:
    """Queries with the phrases they should decode to.

    Attributes:
        name: Which split it is.
        queries: (q, d) float32, after the bank's preprocessing; d may differ from the bank's width.
        targets: (q, m) int64 ids of each query's right phrases, at least one, ascending, filled up
            with ``NO_ID``.
        own_vectors: (q, w) int64 bank vectors made from the query's own text, ascending, filled up
            with ``NO_ID``; w may be 0. While a query is trained on or scored they must be hidden,
            or it finds itself.
        texts: The queries' q texts; None where the queries were never texts.
        out_of_bank: Further queries, which no phrase of the bank answers: their ``targets`` and
            ``own_vectors`` have width 0. None where there are none.
    """

    name: SplitName
    queries: FloatArray
    targets: IntArray
    own_vectors: IntArray
    texts: list[str] | None
    out_of_bank: Split | None = None

    def __len__(self) -> int:
        return len(self.queries)


def pad_ids(rows: Sequence[Sequence[int]]) -> IntArray:
    """Stack q lists of ids, (q, w) int64, each row filled up to the longest with ``NO_ID``."""
    width = max(map(len, rows), default=0)
    padded = np.full((len(rows), width), NO_ID, dtype=np.int64)
    for row, ids in enumerate(rows):
        padded[row, : len(ids)] = ids
    return padded


def no_own_vectors(num_queries: int) -> IntArray:
    """Return the ``own_vectors`` of queries from which no bank vector was made."""
    return np.empty((num_queries, 0), dtype=np.int64)


def out_of_bank_split(name: SplitName, queries: FloatArray, texts: list[str] | None) -> Split:
    """Return queries that no phrase of the bank answers."""
    nothing = no_own_vectors(len(queries))
    return Split(name=name, queries=queries, targets=nothing, own_vectors=nothing, texts=texts)
