"""A sample of rows that come as a stream: spread over all of them, in bounded memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lightweight_decoder.bank.rows import refuse_directionless, rows_as_float32, usable_directions
from lightweight_decoder.errors import BankBuildError
from lightweight_decoder.progress import report_progress

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy.typing as npt

    from lightweight_decoder.bank.rows import OnBadRow
    from lightweight_decoder.datatypes import FloatArray, IntArray

SAMPLE_ROWS = 100_000
SAMPLE_BYTES = 2**28
"""A sample has no more rows than the first, and takes no more memory as float32 than the second."""

_SEED = 0


def draw_sample(
    blocks: Iterable[npt.NDArray[np.generic]],
    *,
    on_bad_row: OnBadRow = "raise",
    total: int | None = None,
    show_progress: bool = False,
) -> FloatArray:
    """Draw rows at random, all with the same probability, without knowing how many will come.

    Every row gets a random number, and those with the lowest ones are kept. The same rows give the
    same sample, whatever the blocks they come in. Memory: the sample, and a block.

    Args:
        blocks: (b, d) floating point each.
        on_bad_row: Whether a row without direction is an error or left out.
        total: How many rows will come, for the progress bar.
        show_progress: Whether to show one.

    Returns:
        (m, d) float32 in the order of the stream, all rows where they are few.

    Raises:
        BankBuildError: If a block has another shape, a row cannot be used, or nothing comes.
    """
    random = np.random.default_rng(_SEED)
    sample: _LowestKeys | None = None
    num_rows = 0
    with report_progress(
        "drawing a sample", unit="rows", total=total, enabled=show_progress
    ) as advance:
        for block in blocks:
            dim = None if sample is None else sample.dim
            vectors = rows_as_float32(block, dim=dim, at=f"rows from {num_rows}")
            rows = np.arange(num_rows, num_rows + len(vectors))
            if on_bad_row == "raise":
                refuse_directionless(vectors, rows)
            is_usable = usable_directions(vectors)
            sample = sample or _LowestKeys(vectors.shape[1])
            sample.add(random.random(len(vectors)), rows, vectors, is_usable)
            num_rows += len(vectors)
            advance(len(vectors))
    if sample is None or not len(sample):
        raise BankBuildError(
            "there is nothing to fit the preprocessing on",
            expected="at least one row that can be used",
            found="none",
        )
    return sample.in_order()


class _LowestKeys:
    """Keeps the rows with the lowest keys."""

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self._size = max(1, min(SAMPLE_ROWS, SAMPLE_BYTES // (4 * dim)))
        self._keys = np.empty(0)
        self._rows = np.empty(0, dtype=np.int64)
        self._vectors = np.empty((self._size, dim), dtype=np.float32)  # pages are taken when used

    def __len__(self) -> int:
        return len(self._keys)

    def add(
        self,
        keys: npt.NDArray[np.float64],
        rows: IntArray,
        vectors: FloatArray,
        is_usable: npt.NDArray[np.bool_],
    ) -> None:
        """Take usable rows in, those with the highest keys out."""
        if len(self) == self._size:
            is_usable = is_usable & (keys < self._keys.max())
        new = np.flatnonzero(is_usable)
        num_kept = len(self)
        self._keys = np.concatenate([self._keys, keys[new]])
        self._rows = np.concatenate([self._rows, rows[new]])
        if len(self) <= self._size:
            self._vectors[num_kept : len(self)] = vectors[new]
            return
        stays = np.zeros(len(self), dtype=bool)
        stays[np.argpartition(self._keys, self._size - 1)[: self._size]] = True
        comes = np.flatnonzero(stays[num_kept:])
        # what comes fills the room that is left, then the places of what goes
        places = np.concatenate(
            [np.arange(num_kept, self._size), np.flatnonzero(~stays[:num_kept])]
        )
        for column in (self._keys, self._rows):
            column[places] = column[num_kept + comes]
        self._vectors[places] = vectors[new[comes]]
        self._keys, self._rows = self._keys[: self._size], self._rows[: self._size]

    def in_order(self) -> FloatArray:
        """Return the rows as they came."""
        return self._vectors[np.argsort(self._rows)]
