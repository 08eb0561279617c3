"""What every embedding format has in common: the interface, and the checks on what comes out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from lightweight_decoder.errors import InputDataError, LightweightDecoderError
from lightweight_decoder.vectors.directions import refuse_directionless, to_float32

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

    from lightweight_decoder.datatypes import FloatArray

BLOCK_BYTES = 2**20
"""Default size of a block as float32: larger ones fall out of the processor's cache."""

MAX_BLOCK_ROWS = 2**16
MAX_DIM = 2**20
"""Far above any embedding; catches damaged headers before anything is allocated."""

FLOAT_DTYPES = ("float16", "bfloat16", "float32", "float64", "int8")
"""What array formats may store; integers are taken at face value, without a scale."""

OnBadRow = Literal["raise", "keep"]
StoredBlock = tuple["npt.NDArray[np.generic]", list[str] | None]


@dataclass(frozen=True, slots=True)
class EmbeddingBlock:
    """Consecutive rows of an embedding file.

    Attributes:
        vectors: (b, d) float32, C order, writable; may be a copy-on-write view of mapped memory, so
            that writing to it never reaches the file.
        texts: The b texts of these rows; None where the file has none.
        first_row: Row of the file (from 0) that ``vectors[0]`` is.
    """

    vectors: FloatArray
    texts: list[str] | None
    first_row: int


class EmbeddingReader(ABC):
    """Embeddings in one format, read block by block in memory that does not grow with the file.

    Attributes:
        path: File or folder.
        num_rows: How many vectors there are; None where only reading everything would tell.
        dim: Width d of every vector.
        dtype: How numbers are stored: a numpy dtype's name, ``"bfloat16"``, or ``"text"``.
        has_texts: Whether blocks come with texts.
    """

    path: Path
    num_rows: int | None
    dim: int
    dtype: str
    has_texts: bool

    @abstractmethod
    def blocks(
        self, block_rows: int | None = None, *, on_bad_row: OnBadRow = "raise"
    ) -> Iterator[EmbeddingBlock]:
        """Read the file from its start; may be called again, and the file is open only meanwhile.

        Args:
            block_rows: Most rows that a block may have, at least 1; some formats give fewer. By
                default as many as make about 1 MiB.
            on_bad_row: What happens at a vector that is all zeros or has a NaN or an infinity:
                ``"raise"``, or ``"keep"`` it as it is.

        Yields:
            Blocks of at least one row, in the file's order. Float64 is rounded to float32; a row
            beyond its range is scaled.

        Raises:
            InputDataError: ``block_rows`` is below 1, or the file is damaged, changes its width, or
                has a bad row; the message names the file and the row (from 0) or line (from 1).
                Blocks before it were right.
        """


class FileReader(EmbeddingReader):
    """A reader of one file: formats say how stored rows are found, this checks and converts."""

    def __init__(
        self, path: Path, *, num_rows: int | None, dim: int, dtype: str, has_texts: bool
    ) -> None:
        check_shape(path, num_rows, dim)
        self.path = path
        self.num_rows = num_rows
        self.dim = dim
        self.dtype = dtype
        self.has_texts = has_texts

    @abstractmethod
    def _stored_blocks(self, block_rows: int) -> Generator[StoredBlock]:
        """Yield (b, d) arrays of any real dtype, 1 <= b <= block_rows, and their texts."""

    def blocks(
        self, block_rows: int | None = None, *, on_bad_row: OnBadRow = "raise"
    ) -> Iterator[EmbeddingBlock]:
        """See EmbeddingReader.blocks."""
        first_row = 0
        with closing(self._stored_blocks(resolve_block_rows(block_rows, self.dim))) as source:
            while True:
                with damage_as_input_error(self.path, f"row {first_row} or later"):
                    stored = next(source, None)
                    if stored is None:
                        break
                    block = self._block(stored, first_row)
                next_row = first_row + len(block.vectors)
                if on_bad_row == "raise":
                    rows = range(first_row, next_row)
                    refuse_directionless(
                        block.vectors, rows=rows, error=InputDataError, where=self.path
                    )
                first_row = next_row
                yield block
        self._check_count(first_row)

    def _block(self, stored: StoredBlock, first_row: int) -> EmbeddingBlock:
        """Check a block's width and count of texts, and convert it to float32."""
        array, texts = stored
        if array.ndim != 2 or array.shape[1] != self.dim:  # noqa: PLR2004
            raise InputDataError(
                "the vectors changed their width",
                where=self.path,
                at=f"row {first_row}",
                expected=f"{self.dim} numbers a row",
                found=f"a block of shape {array.shape}",
            )
        rows = first_row + len(array)
        if self.num_rows is not None and rows > self.num_rows:
            self._check_count(rows)
        if texts is not None and len(texts) != len(array):
            check_text_count(self.path, first_row + len(texts), rows)
        return EmbeddingBlock(to_float32(array), texts, first_row)

    def _check_count(self, found: int) -> None:
        """Refuse a file that ends before, or goes on after, the row its header promised."""
        if found != self.num_rows and (self.num_rows is not None or found == 0):
            raise InputDataError(
                "the number of rows is wrong",
                where=self.path,
                expected="at least one row" if self.num_rows is None else f"{self.num_rows} rows",
                found=f"{found} rows" if found <= (self.num_rows or 0) else f"{found} or more",
                advice="The file may be cut off; write it again.",
            )


@contextmanager
def damage_as_input_error(path: Path, at: str | None = None) -> Generator[None]:
    """Turn whatever a format's library raises on a damaged file into our own error."""
    try:
        yield
    except LightweightDecoderError:
        raise
    except Exception as error:
        raise InputDataError(
            "the file cannot be read",
            where=path,
            at=at,
            found=f"{type(error).__name__}: {error}" if str(error) else type(error).__name__,
            advice="The file may be damaged or cut off; write it again.",
        ) from error


def resolve_block_rows(block_rows: int | None, dim: int) -> int:
    """Return a block's number of rows: the one asked for, or the default for this width."""
    if block_rows is None:
        return min(MAX_BLOCK_ROWS, max(1, BLOCK_BYTES // (4 * dim)))
    if block_rows < 1:
        raise InputDataError("a block needs rows", expected="block_rows >= 1", found=block_rows)
    return block_rows


def check_shape(path: Path, num_rows: int | None, dim: int) -> None:
    """Refuse a file without rows, or with rows of a width that no embedding has."""
    if num_rows is not None and num_rows < 1:
        raise InputDataError(
            "there are no vectors", where=path, expected="at least one row", found=f"{num_rows}"
        )
    if not 1 <= dim <= MAX_DIM:
        raise InputDataError(
            "the width of the vectors cannot be right",
            where=path,
            expected=f"1 to {MAX_DIM} numbers a row",
            found=dim,
            advice="Store one vector a row: the array may be transposed, or the header damaged.",
        )


def check_array(path: Path, name: str, shape: Sequence[int], dtype: str) -> tuple[int, int]:
    """Return (n, d) of a stored array that holds embeddings; one vector alone is one row."""
    if dtype not in FLOAT_DTYPES:
        raise InputDataError(
            f"{name} does not hold embeddings",
            where=path,
            expected=f"numbers stored as {', '.join(FLOAT_DTYPES)}",
            found=dtype,
            advice="Convert it to float32; arrays of Python objects are never loaded.",
        )
    if len(shape) not in (1, 2):
        raise InputDataError(
            f"{name} does not hold embeddings",
            where=path,
            expected="2 dimensions: rows and columns",
            found=f"shape {tuple(shape)}",
        )
    num_rows, dim = (1, shape[0]) if len(shape) == 1 else (shape[0], shape[1])
    check_shape(path, num_rows, dim)
    return num_rows, dim


def check_text_count(path: Path, num_texts: int, num_rows: int) -> None:
    """Refuse texts that do not go with the vectors row by row."""
    if num_texts != num_rows:
        raise InputDataError(
            "texts and vectors differ in number",
            where=path,
            expected=f"{num_rows} texts, one a vector",
            found=f"{num_texts} texts",
        )


def choose_entry(path: Path, names: Sequence[str], wanted: str | None, *, option: str) -> str:
    """Return the entry that holds the vectors: the one asked for, or the only one there is."""
    if wanted is None and len(names) == 1:
        return names[0]
    if wanted is not None and wanted in names:
        return wanted
    shown = ", ".join(repr(name) for name in names[:10]) + (", …" if len(names) > 10 else "")  # noqa: PLR2004
    raise InputDataError(
        "the vectors were not found" if wanted is not None or not names else "which vectors?",
        where=path,
        expected="one entry with embeddings" if wanted is None else f"an entry {wanted!r}",
        found=shown or "no entry that could hold embeddings",
        advice=f"Name the entry with {option}=…" if names else None,
    )


def choose_text_entry(
    path: Path, names: Sequence[str], wanted: str | None, *, preferred: str = "text"
) -> str | None:
    """Return the entry with the texts: asked for, the only one, or the one called "text"."""
    if wanted is not None:
        return choose_entry(path, names, wanted, option="text_column")
    if len(names) == 1:
        return names[0]
    return preferred if preferred in names else None
