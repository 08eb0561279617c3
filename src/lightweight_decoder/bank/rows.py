"""Rows on their way into a bank: what is refused or dropped, and how vectors are stored."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from lightweight_decoder.bank.normalization import has_direction, normalize_texts, unit_rows
from lightweight_decoder.bank.phrases import TEXT_COLUMN
from lightweight_decoder.errors import BankBuildError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from lightweight_decoder.bank.manifest import StorageDtype
    from lightweight_decoder.datatypes import FloatArray, IntArray
    from lightweight_decoder.vectors.preprocessing import Preprocessing

OnBadRow = Literal["raise", "drop"]

AUTO_FLOAT16_BYTES = 2**30
"""Banks that would be larger than this in float32 are stored in float16."""

_PIECE = 2**15 - 1
_FLOAT16_DROPS = 2**13 - 1  # the bits of a float32 that a float16 has no room for
_FLOAT16_ROUNDING = 2.0**-10  # of the squared length


@dataclass(frozen=True)
class BankRows:
    """A block of rows for a bank: one vector a row.

    Attributes:
        texts: b texts; a text that was there before gets one more vector.
        vectors: (b, d) floating point of any length above zero.
        metadata: Columns of b values each, the same columns in every block: numbers, texts, truth
            values, or None. Of a text that comes again, the first row's metadata is kept.
    """

    texts: Sequence[str]
    vectors: FloatArray
    metadata: Mapping[str, Sequence[object]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class UsableRows:
    """The rows of a block that go into the bank.

    Attributes:
        texts: b normalized texts.
        vectors: (b, d) float32, finite, none all zero.
        metadata: Columns of b values each.
        rows: (b,) their numbers in the input.
    """

    texts: list[str]
    vectors: npt.NDArray[np.float32]
    metadata: Mapping[str, Sequence[object]]
    rows: IntArray


class RowCheck:
    """Checks block after block.

    Args:
        on_bad_row: Whether a row that cannot be used is an error, or left out and counted.
        preprocessing: What vectors go through; None: nothing.

    Attributes:
        num_rows: Rows that came so far.
        dim: Width of the vectors that come, known from the first block on.
        dropped: Rows left out, by reason.
    """

    def __init__(self, on_bad_row: OnBadRow, preprocessing: Preprocessing | None = None) -> None:
        self._on_bad_row = on_bad_row
        self._preprocessing = preprocessing
        self._columns: set[str] | None = None
        self.num_rows = 0
        self.dim: int | None = None
        self.dropped: Counter[str] = Counter()

    def usable(self, block: BankRows) -> UsableRows:
        """Return the rows of the next block that can be used.

        Raises:
            BankBuildError: If the block does not go with those before it, or has a row that cannot
                be used and may not be dropped.
        """
        vectors = self._float32(block)
        self._check_columns(block)
        texts = normalize_texts(block.texts)
        rows = np.arange(self.num_rows, self.num_rows + len(texts))
        if None in texts and self._on_bad_row == "raise":
            raise self._unusable_text(block.texts, texts.index(None))
        self.num_rows += len(texts)
        usable = UsableRows(texts, vectors, block.metadata, rows)  # type: ignore[arg-type] # None is out
        if self._on_bad_row == "drop":
            usable = self._without(usable, self._why_bad(texts, vectors))
        return usable if self._preprocessing is None else self._preprocessed(usable)

    def _preprocessed(self, usable: UsableRows) -> UsableRows:
        """Apply the preprocessing; what it leaves without direction is bad too."""
        assert self._preprocessing is not None  # noqa: S101, the caller asks first
        if self._on_bad_row == "raise":
            refuse_directionless(usable.vectors, usable.rows)
        usable = replace(usable, vectors=self._preprocessing(usable.vectors))
        if self._on_bad_row == "drop":
            lost = ~usable_directions(usable.vectors)
            return self._without(usable, {"vector without direction after preprocessing": lost})
        refuse_directionless(usable.vectors, usable.rows, after="after preprocessing")
        return usable

    def _float32(self, block: BankRows) -> npt.NDArray[np.float32]:
        """Return a block's vectors as float32, or say what is wrong with them as a whole."""
        at = f"rows from {self.num_rows}"
        vectors = rows_as_float32(block.vectors, dim=self.dim, at=at)
        if len(block.texts) != len(vectors):
            raise BankBuildError(
                "texts and vectors differ in number",
                at=at,
                expected=f"{len(vectors)} texts (one per vector)",
                found=len(block.texts),
            )
        self.dim = vectors.shape[1]
        return vectors

    def _check_columns(self, block: BankRows) -> None:
        """Refuse columns that differ from the first block's or from the number of texts."""
        at = f"rows from {self.num_rows}"
        if TEXT_COLUMN in block.metadata:
            raise BankBuildError(
                f"a metadata column may not be called {TEXT_COLUMN!r}",
                at=at,
                advice="Give the column another name; this one holds the phrases",
            )
        for name, values in block.metadata.items():
            if len(values) != len(block.texts):
                raise BankBuildError(
                    f"the metadata column {name!r} has another length",
                    at=at,
                    expected=f"{len(block.texts)} values (one per text)",
                    found=len(values),
                )
        if self._columns is None:
            self._columns = set(block.metadata)
        if self._columns != set(block.metadata):
            raise BankBuildError(
                "the metadata columns change",
                at=at,
                expected=sorted(self._columns),
                found=sorted(block.metadata),
            )

    def _without(
        self, usable: UsableRows, reasons: Mapping[str, npt.NDArray[np.bool_]]
    ) -> UsableRows:
        """Leave out the rows for which there is a reason, and count them under the first one."""
        bad = np.zeros(len(usable.rows), dtype=bool)
        for reason, rows in reasons.items():
            if count := int(np.count_nonzero(rows & ~bad)):
                self.dropped[reason] += count
            bad |= rows
        if not bad.any():
            return usable
        kept = np.flatnonzero(~bad).tolist()
        return UsableRows(
            texts=[usable.texts[i] for i in kept],
            vectors=usable.vectors[kept],
            metadata={name: [column[i] for i in kept] for name, column in usable.metadata.items()},
            rows=usable.rows[kept],
        )

    def _why_bad(
        self, texts: Sequence[str | None], vectors: FloatArray
    ) -> dict[str, npt.NDArray[np.bool_]]:
        """Return the rows that cannot be used, for each reason."""
        return {
            "text empty, blank or not valid Unicode": np.array([t is None for t in texts], bool),
            "vector with NaN or infinite numbers": np.asarray(~np.isfinite(vectors).all(axis=1)),
            "vector of zeros only": np.asarray(~vectors.any(axis=1)),
        }

    def _unusable_text(self, texts: Sequence[object], place: int) -> BankBuildError:
        """Build the error for a text that cannot be a phrase."""
        return BankBuildError(
            "a text cannot be a phrase",
            at=f"row {self.num_rows + place}",
            expected="a text with something besides white space, in valid Unicode",
            found=repr(texts[place])[:80],
            advice="Remove the row or repair its text, or drop such rows with on_bad_row=drop",
        )


def rows_as_float32(vectors: object, *, dim: int | None, at: str) -> npt.NDArray[np.float32]:
    """Return vectors as (b, d) float32, with a copy only where needed.

    Args:
        vectors: Anything numpy takes for an array.
        dim: d; None where it is not known yet.
        at: Place of the rows, for messages.

    Raises:
        BankBuildError: If they are no numbers or have another shape.
    """
    try:
        rows = _to_float32(np.asarray(vectors))
    except (TypeError, ValueError) as error:
        raise BankBuildError(
            "the vectors are not an array of numbers", at=at, found=error
        ) from error
    width = rows.shape[1] if rows.ndim == 2 else 0  # noqa: PLR2004
    if not width or width != (dim or width):
        expected = f"(rows, {dim or 'width'})"
        raise BankBuildError(
            "the vectors have another shape", at=at, expected=expected, found=rows.shape
        )
    return rows


def usable_directions(vectors: FloatArray) -> npt.NDArray[np.bool_]:
    """Say which rows of (b, d) are finite and not all zero, (b,)."""
    is_usable: npt.NDArray[np.bool_] = has_direction(torch.from_numpy(vectors)).numpy()
    return is_usable


def refuse_directionless(vectors: FloatArray, rows: IntArray, *, after: str = "") -> None:
    """Refuse rows that are not finite or all zero.

    Args:
        vectors: (b, d).
        rows: (b,) their numbers in the input, for messages.
        after: What happened to them before, for messages.

    Raises:
        BankBuildError: If there is such a row; the message has the first one's number.
    """
    for place in np.flatnonzero(~usable_directions(vectors))[:1]:
        first_row, row = int(rows[place]), torch.from_numpy(vectors[place : place + 1])
        unit_rows(row, first_row=first_row, error=BankBuildError, after=after)


def choose_dtype(
    dtype: Literal["auto", "float32", "float16"], dim: int, total: int | None
) -> StorageDtype:
    """Choose how vectors are stored: ``auto`` is float16 where float32 would take over 1 GiB."""
    if dtype != "auto":
        return dtype
    return "float16" if 4 * dim * (total or 0) > AUTO_FLOAT16_BYTES else "float32"


def stored_rows(
    vectors: npt.NDArray[np.float32], dtype: StorageDtype, *, rows: IntArray
) -> npt.NDArray[np.float32] | npt.NDArray[np.float16]:
    """Scale vectors to unit length and round them to how they are stored; always a new array.

    Rows that float16 holds as they are and that have unit length up to its rounding stay the same,
    bit by bit, where they are stored so.

    Args:
        vectors: (b, d).
        dtype: How they are stored.
        rows: (b,) their numbers in the input, for messages.

    Raises:
        BankBuildError: If a row has a NaN or an infinite entry, or is all zero.
    """
    tensor = torch.from_numpy(vectors)
    if dtype == "float16":
        done = _are_stored_already(vectors)
        if not done.all():
            left = np.flatnonzero(~done)
            tensor = tensor.clone()
            tensor[left] = _unit_rows(tensor[left], rows[left])
        return _to_float16(tensor)
    return _unit_rows(tensor, rows).numpy()


def _unit_rows(vectors: torch.Tensor, rows: IntArray) -> torch.Tensor:
    """Scale to unit length, naming the input's row where that is impossible."""
    refuse_directionless(vectors.numpy(), rows)
    return unit_rows(vectors)


def _are_stored_already(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """Say which rows are float16 numbers of unit length, (b,)."""
    with np.errstate(over="ignore", invalid="ignore"):
        squares = np.vecdot(vectors, vectors)
        dropped = np.bitwise_or.reduce(vectors.view(np.int32), axis=1) & _FLOAT16_DROPS
        is_stored: npt.NDArray[np.bool_] = (dropped == 0) & (abs(squares - 1) <= _FLOAT16_ROUNDING)
    return is_stored


def _to_float16(vectors: torch.Tensor) -> npt.NDArray[np.float16]:
    """Round to float16.

    In pieces below 32,768 numbers, where torch stays in the calling thread: its own threads wait
    for processors that are busy with hashing and writing (measured: five times as slow).
    """
    rounded = torch.empty(vectors.shape, dtype=torch.float16)
    rows = max(1, _PIECE // vectors.shape[1])
    for start in range(0, len(vectors), rows):
        rounded[start : start + rows].copy_(vectors[start : start + rows])
    return rounded.numpy()


def _to_float32(vectors: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
    """Convert, with a copy only where needed; what is beyond float32 becomes infinite."""
    if vectors.dtype == np.float16:
        copied = np.require(vectors, np.float16, ["C_CONTIGUOUS", "WRITEABLE"])
        return torch.from_numpy(copied).float().numpy()
    with np.errstate(over="ignore"):
        return np.require(vectors, np.float32, ["C_CONTIGUOUS", "WRITEABLE"])
