"""Rows on their way into a bank: what is refused or dropped, and how vectors are stored."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from lightweight_decoder.bank.phrases import TEXT_COLUMN, normalize_texts
from lightweight_decoder.errors import BankBuildError
from lightweight_decoder.vectors.directions import (
    has_direction,
    refuse_directionless,
    to_float32,
    unit_rows,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import numpy.typing as npt

    from lightweight_decoder.bank.manifest import StorageDtype
    from lightweight_decoder.datatypes import FloatArray, IntArray
    from lightweight_decoder.vectors.preprocessing import Preprocessing

OnBadRow = Literal["raise", "drop"]

AUTO_FLOAT16_BYTES = 2**30
"""Banks that would be larger than this in float32 are stored in float16."""

_BLOCK_ROWS = 8_192
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
    vectors: npt.ArrayLike
    metadata: Mapping[str, Sequence[object]] = field(default_factory=dict)


class RowsInMemory:
    """Rows that are all there, given out in blocks as often as they are asked for.

    Vectors may be torch's too, on any device.

    Raises:
        BankBuildError: If the vectors are no (rows, width) numbers, or texts, vectors and metadata
            differ in number.
    """

    def __init__(self, rows: BankRows) -> None:
        vectors: Any = rows.vectors
        if isinstance(vectors, torch.Tensor):
            vectors = vectors.detach().cpu()
            vectors = vectors.float() if vectors.dtype == torch.bfloat16 else vectors
        self._vectors = _array(vectors, dim=None, at="vectors")
        self._rows = rows
        _check_lengths(rows, len(self._vectors), at="all rows")

    def __len__(self) -> int:
        return len(self._vectors)

    def __iter__(self) -> Iterator[BankRows]:
        for start in range(0, len(self), _BLOCK_ROWS):
            rows = slice(start, start + _BLOCK_ROWS)
            metadata = {name: list(values[rows]) for name, values in self._rows.metadata.items()}
            yield BankRows(list(self._rows.texts[rows]), self._vectors[rows], metadata)

    def smallest_dtype(self, *, keeping: bool) -> Literal["auto", "float16"]:
        """How to store the vectors: float16 ones, where they stay as they are, lose nothing so."""
        return "float16" if keeping and self._vectors.dtype == np.float16 else "auto"


@dataclass(frozen=True, slots=True)
class UsableRows:
    """The b rows of a block that go into the bank.

    Texts are normalized, vectors (b, d) float32, finite, none all zero; metadata are columns of b
    values, ``rows`` (b,) the numbers in the input.
    """

    texts: list[str]
    vectors: FloatArray
    metadata: Mapping[str, Sequence[object]]
    rows: IntArray


class RowCheck:
    """Checks block after block: a row that cannot be used is an error, or left out and counted.

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
        if self._on_bad_row == "raise":
            refuse_unusable_texts(block.texts, texts, first_row=self.num_rows)
        self.num_rows += len(texts)
        usable = UsableRows(texts, vectors, block.metadata, rows)  # type: ignore[arg-type] # None is out
        if self._on_bad_row == "drop":
            usable = self._without(usable, self._why_bad(texts, vectors))
        return usable if self._preprocessing is None else self._preprocessed(usable)

    def _preprocessed(self, usable: UsableRows) -> UsableRows:
        """Apply the preprocessing; what it leaves without direction is bad too."""
        assert self._preprocessing is not None  # noqa: S101, the caller asks first
        if self._on_bad_row == "raise":
            refuse_directionless(usable.vectors, rows=usable.rows, error=BankBuildError)
        usable = replace(usable, vectors=self._preprocessing(usable.vectors))
        if self._on_bad_row == "drop":
            lost = ~has_direction(usable.vectors)
            return self._without(usable, {"vector without direction after preprocessing": lost})
        refuse_directionless(
            usable.vectors, rows=usable.rows, error=BankBuildError, after="after preprocessing"
        )
        return usable

    def _float32(self, block: BankRows) -> FloatArray:
        """Return a block's vectors as float32, or say what is wrong with them as a whole."""
        at = f"rows from {self.num_rows}"
        vectors = rows_as_float32(block.vectors, dim=self.dim, at=at)
        _check_lengths(block, len(vectors), at=at)
        self.dim = vectors.shape[1]
        return vectors

    def _check_columns(self, block: BankRows) -> None:
        """Refuse columns that differ from the first block's, or have the name of the texts."""
        at = f"rows from {self.num_rows}"
        if TEXT_COLUMN in block.metadata:
            problem = f"a metadata column may not be called {TEXT_COLUMN!r}"
            advice = "Give the column another name; this one holds the phrases"
            raise BankBuildError(problem, at=at, advice=advice)
        if self._columns is None:
            self._columns = set(block.metadata)
        if self._columns != set(block.metadata):
            expected, found = sorted(self._columns), sorted(block.metadata)
            raise BankBuildError.unexpected(
                None, expected, found, at=at, summary="the metadata columns change"
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


def refuse_unusable_texts(
    texts: Sequence[object], normalized: Sequence[str | None] | None = None, *, first_row: int = 0
) -> None:
    """Refuse texts that cannot be phrases, those that normalizing makes None of."""
    normalized = normalize_texts(texts) if normalized is None else normalized
    if None in normalized:
        place = normalized.index(None)
        raise BankBuildError.unexpected(
            None,
            "a text with something besides white space, in valid Unicode",
            repr(texts[place])[:80],
            at=f"row {first_row + place}",
            summary="a text cannot be a phrase",
            advice="Remove the row or repair its text, or drop such rows with on_bad_row=drop",
        )


def rows_as_float32(vectors: npt.ArrayLike, *, dim: int | None, at: str) -> FloatArray:
    """Return vectors as (b, d) float32, with a copy only where needed; d None: not known yet.

    Raises:
        BankBuildError: If they are no numbers or have another shape; ``at`` says where.
    """
    try:
        return to_float32(_array(vectors, dim=dim, at=at))
    except (TypeError, ValueError) as error:
        raise _no_numbers(at, error) from error


def _array(vectors: npt.ArrayLike, *, dim: int | None, at: str) -> npt.NDArray[Any]:
    """Return what numpy makes of vectors, if it is rows of some width, or of a known one."""
    try:
        array = np.asarray(vectors)
    except (TypeError, ValueError) as error:
        raise _no_numbers(at, error) from error
    width = array.shape[1] if array.ndim == 2 else 0  # noqa: PLR2004
    if not width or width != (dim or width):
        expected = f"(rows, {dim or 'width'})"
        raise BankBuildError.unexpected(
            None, expected, array.shape, at=at, summary="the vectors have another shape"
        )
    return array


def _no_numbers(at: str, error: Exception) -> BankBuildError:
    """Build the error for what numpy cannot make numbers of."""
    return BankBuildError("the vectors are not an array of numbers", at=at, found=error)


def _check_lengths(rows: BankRows, num_vectors: int, *, at: str) -> None:
    """Refuse texts or metadata that are not one per vector."""
    for what, values in {"texts": rows.texts, **rows.metadata}.items():
        if len(values) != num_vectors:
            raise BankBuildError.unexpected(
                None,
                f"{num_vectors} {'texts' if values is rows.texts else 'values'} (one per vector)",
                len(values),
                at=at,
                summary="texts and vectors differ in number"
                if values is rows.texts
                else f"the metadata column {what!r} has another length",
            )


def choose_dtype(
    dtype: Literal["auto", "float32", "float16"], dim: int, total: int | None
) -> StorageDtype:
    """Choose how vectors are stored: ``auto`` is float16 where float32 would take over 1 GiB."""
    if dtype != "auto":
        return dtype
    return "float16" if 4 * dim * (total or 0) > AUTO_FLOAT16_BYTES else "float32"


def stored_rows(
    vectors: FloatArray, dtype: StorageDtype, *, rows: IntArray
) -> npt.NDArray[np.float32] | npt.NDArray[np.float16]:
    """Scale (b, d) vectors to unit length and round them to how they are stored, in a new array.

    Rows that float16 holds as they are and that have unit length up to its rounding stay the same,
    bit by bit, where they are stored so.

    Raises:
        BankBuildError: If a row has a NaN or an infinite entry, or is all zero; the message has its
            number in ``rows``.
    """
    tensor = torch.from_numpy(vectors)
    if dtype == "float16":
        done = _are_stored_already(vectors)
        if not done.all():
            left = np.flatnonzero(~done)
            tensor = tensor.clone()
            tensor[left] = unit_rows(tensor[left], rows=rows[left], error=BankBuildError)
        return _to_float16(tensor)
    return unit_rows(tensor, rows=rows, error=BankBuildError).numpy()


def _are_stored_already(vectors: FloatArray) -> npt.NDArray[np.bool_]:
    """Say which rows are float16 numbers of unit length, (b,)."""
    with np.errstate(over="ignore", invalid="ignore"):
        squares = np.vecdot(vectors, vectors)
        dropped = np.bitwise_or.reduce(vectors.view(np.int32), axis=1) & _FLOAT16_DROPS
        is_stored: npt.NDArray[np.bool_] = (dropped == 0) & (abs(squares - 1) <= _FLOAT16_ROUNDING)
    return is_stored


def _to_float16(vectors: torch.Tensor) -> npt.NDArray[np.float16]:
    """Round to float16, in pieces of which torch stays in the calling thread."""
    # Its own threads wait for processors that hash and write: five times as slow.
    rounded = torch.empty(vectors.shape, dtype=torch.float16)
    rows = max(1, _PIECE // vectors.shape[1])
    for start in range(0, len(vectors), rows):
        rounded[start : start + rows].copy_(vectors[start : start + rows])
    return rounded.numpy()
