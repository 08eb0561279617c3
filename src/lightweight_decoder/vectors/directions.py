"""Rows that have a direction, as cosines need one: recognized, refused, scaled to unit length."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from lightweight_decoder.errors import EmbeddingError, LightweightDecoderError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt
    from torch import Tensor

    from lightweight_decoder.datatypes import FloatArray

UNIT_TOLERANCE = 2e-3
"""How far a length may be from 1: float16 rounds entries by up to 2**-11 of their size."""

_BLOCK_ROWS = 2**16
_PIECE = 2**15 - 1
_FLOAT32_BYTES = 4
_EXPONENTS = (-99, 127)
"""Of the largest entry of a row: float32 holds those up to 2**-27 of it with all their digits."""


def to_float32(vectors: npt.NDArray[np.generic]) -> FloatArray:
    """Convert numbers to float32, in C order and writable, with a copy only where needed.

    Rows of a wider type that float32 cannot hold, or not with all its digits, are scaled by
    a power of two until it can: their direction is what counts. Infinities and NaN stay.

    >>> rows = to_float32(np.array([[3e200, 4e200]]))
    >>> (rows / rows.max()).tolist()
    [[0.75, 1.0]]
    """
    if vectors.dtype == np.float16 and vectors.ndim == 2 and vectors.size:  # noqa: PLR2004
        return _widened(vectors)
    if vectors.dtype.kind == "f" and vectors.dtype.itemsize > _FLOAT32_BYTES and vectors.size:
        vectors = _within_float32(vectors)
    with np.errstate(over="ignore", invalid="ignore"):  # of what stands beside an infinity
        return np.require(vectors, np.float32, ["C_CONTIGUOUS", "WRITEABLE"])


def _within_float32(vectors: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """Scale rows that float32 cannot hold."""
    rows = np.atleast_1d(vectors)
    largest = np.maximum(rows.max(axis=-1, keepdims=True), -rows.min(axis=-1, keepdims=True))
    exponents = np.frexp(np.where(np.isfinite(largest), largest, 0))[1]  # of zero it is zero
    shifts = np.clip(exponents, *_EXPONENTS) - exponents
    return np.ldexp(vectors, shifts) if shifts.any() else vectors


def _widened(array: npt.NDArray[np.generic]) -> FloatArray:
    """Convert (b, d) float16 with torch, which is 20 times as fast as numpy at this.

    In pieces below 32,768 numbers, where torch stays in the calling thread: its threads, when other
    work keeps the processors busy, make the conversion slower than numpy's. Each piece is copied
    first because torch takes no read-only or byte-swapped memory.
    """
    vectors = np.empty(array.shape, dtype=np.float32)
    rows = max(1, _PIECE // array.shape[1])
    for start in range(0, len(array), rows):
        piece = torch.from_numpy(np.array(array[start : start + rows], dtype=np.float16))
        torch.from_numpy(vectors[start : start + rows]).copy_(piece)
    return vectors


def has_direction(vectors: FloatArray) -> npt.NDArray[np.bool_]:
    """Say which rows of (q, d) are finite and not all zero, (q,)."""
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        squares = np.vecdot(vectors, vectors)
        directed: npt.NDArray[np.bool_] = (squares > 0) & np.isfinite(squares)
    # Squares overflow and underflow where the numbers themselves are fine: look twice.
    for row in np.flatnonzero(~directed):
        directed[row] = np.isfinite(vectors[row]).all() and vectors[row].any()
    return directed


def refuse_directionless(
    vectors: FloatArray,
    *,
    rows: Sequence[int] | npt.NDArray[np.int64] | None = None,
    error: type[LightweightDecoderError] = EmbeddingError,
    where: object = None,
    after: str = "",
) -> None:
    """Refuse vectors that are not finite or all zero.

    Args:
        vectors: (q, d) floating point.
        rows: (q,) their numbers for the message; None: they are counted from 0.
        error: What to raise.
        where: File that they come from.
        after: What happened to the vectors before, for the message: ``"after …"``.

    Raises:
        EmbeddingError: (or ``error``) If a row has a NaN or an infinite entry, or is all zero; the
            message names the first such row.
    """
    for place in np.flatnonzero(~has_direction(vectors))[:1]:
        columns = np.flatnonzero(~np.isfinite(vectors[place]))
        found = "only zeros"
        if np.isnan(vectors[place]).all():
            found = "nan in every column, as of nothing (null)"
        elif columns.size:
            found = f"{vectors[place, columns[0]]} in column {columns[0]}"
        raise error.unexpected(
            where,
            "finite numbers, not all zero",
            found,
            at=f"row {place if rows is None else rows[place]}",
            summary=f"a vector has no direction {after}".rstrip(),
            advice="Remove the row or repair what wrote it",
        )


def unit_rows(
    vectors: Tensor,
    *,
    rows: Sequence[int] | npt.NDArray[np.int64] | None = None,
    error: type[LightweightDecoderError] = EmbeddingError,
) -> Tensor:
    """Scale every row to unit length.

    Rows of any magnitude that their dtype can hold come out right: they are divided by their
    largest entry first, so that no square overflows or vanishes.

    >>> unit_rows(torch.tensor([[3e200, 4e200], [0.0, 5e-320]], dtype=torch.float64)).tolist()
    [[0.6, 0.8], [0.0, 1.0]]

    Args:
        vectors: (q, d) floating point; not changed.
        rows: As for :func:`refuse_directionless`.
        error: What to raise.

    Returns:
        (q, d), the dtype and device of ``vectors``.

    Raises:
        EmbeddingError: (or ``error``) As for :func:`refuse_directionless`.
    """
    if not vectors.numel():
        return vectors
    largest = vectors.abs().amax(dim=1, keepdim=True)  # 20 times as fast as vector_norm
    if not bool((largest.isfinite() & (largest > 0)).all()):
        refuse_directionless(vectors.detach().double().cpu().numpy(), rows=rows, error=error)
    scaled: Tensor = vectors / largest
    scaled /= torch.linalg.vector_norm(scaled, dim=1, keepdim=True)
    return scaled


def rows_of_other_length(
    vectors: Tensor, *, tolerance: float = UNIT_TOLERANCE
) -> Iterator[tuple[int, float]]:
    """Yield number and length of each row of (n, d) whose length is NaN or not 1.

    Args:
        vectors: (n, d) floating point.
        tolerance: How far a length may be from 1.
    """
    for start in range(0, len(vectors), _BLOCK_ROWS):
        block = vectors[start : start + _BLOCK_ROWS].float()
        lengths = torch.linalg.vector_norm(block, dim=1)
        for row in (~((lengths - 1).abs() <= tolerance)).nonzero()[:, 0].tolist():
            yield start + row, lengths[row].item()
