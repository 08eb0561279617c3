"""What every embedding format has in common: the interface, and the checks on what comes out."""

from __future__ import annotations

import logging
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from lightweight_decoder.errors import InputDataError, LightweightDecoderError
from lightweight_decoder.vectors.directions import refuse_directionless, to_float32

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator
    from pathlib import Path

    import numpy.typing as npt

    from lightweight_decoder.datatypes import FloatArray

_log = logging.getLogger(__name__)

BLOCK_BYTES = 2**20
"""Default size of a block as float32: larger ones fall out of the processor's cache."""

MAX_BLOCK_ROWS = 2**16
MAX_DIM = 2**20
"""Far above any embedding; catches damaged headers before anything is allocated."""

BYTE_DTYPES = ("int8", "uint8")
RANGES_SUFFIX = ".ranges.npy"
BITS_SAMPLE = 64
BITS_MARGIN = 0.1
SHOWN_NAMES = 10
TEXT_ENTRY = "text"

FLOAT_DTYPES = ("float16", "bfloat16", "float32", "float64", "int8")
"""What array formats may store; integers are taken at face value, without a scale."""

NOT_SUPPORTED = (AttributeError, ImportError, NotImplementedError, TypeError)
NOT_SUPPORTED_WORDS = re.compile(
    r"not registered|not built|(not |un)supported|encrypt|filter", re.IGNORECASE
)
"""What libraries raise at a file that is whole, but has what they or we cannot do; or say of it."""

OnBadRow = Literal["raise", "keep"]
StoredBlock = tuple["npt.NDArray[np.generic]", Sequence[str | None] | None]


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
            on_bad_row: What happens at a vector that is missing, all zeros, or has a NaN or an
                infinity: ``"raise"``, or ``"keep"`` it as it is; a missing one is all NaN, a
                missing text is empty.

        Yields:
            Blocks of at least one row, in the file's order. Float64 is rounded to float32; a row
            beyond float32's range is scaled, which keeps its direction.

        Raises:
            InputDataError: ``block_rows`` is below 1, or the file is damaged, changes its width, or
                has a bad row; the message names the file and the row (from 0) or line (from 1).
                Blocks before it were right.
        """


class FileReader(EmbeddingReader):
    """A reader of one file: formats say how stored rows are found, this checks and converts."""

    may_be_bits = True

    def __init__(
        self, path: Path, *, num_rows: int | None, dim: int, dtype: str, has_texts: bool
    ) -> None:
        check_shape(path, num_rows, dim)
        is_int8 = dtype in BYTE_DTYPES and self.may_be_bits
        self._ranges = read_ranges(path, dim) if is_int8 else None
        self.path = path
        self.num_rows = num_rows
        self.dim = dim
        self.dtype = dtype
        self.has_texts = has_texts

    @abstractmethod
    def _stored_blocks(self, block_rows: int) -> Generator[StoredBlock]:
        """Yield (b, d) arrays of any real dtype, 1 <= b <= block_rows, and their texts.

        A missing vector is all NaN, a missing text None.
        """

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
                    refuse_missing_texts(self.path, stored[1], first_row)
                first_row = next_row
                yield block
        self._check_count(first_row)

    def _block(self, stored: StoredBlock, first_row: int) -> EmbeddingBlock:
        """Check a block's width and count of texts, and convert it to float32."""
        array, texts = stored
        if array.ndim != 2 or array.shape[1] != self.dim:  # noqa: PLR2004
            raise InputDataError.unexpected(
                self.path,
                f"{self.dim} numbers a row",
                f"a block of shape {array.shape}",
                at=f"row {first_row}",
                summary="the vectors changed their width",
            )
        if first_row == 0 and self.may_be_bits and array.dtype.name in BYTE_DTYPES:
            refuse_packed_bits(self.path, array)
        rows = first_row + len(array)
        if self.num_rows is not None and rows > self.num_rows:
            self._check_count(rows)
        if texts is not None and len(texts) != len(array):
            check_text_count(self.path, first_row + len(texts), rows)
        filled = None if texts is None else [text or "" for text in texts]
        if self._ranges is not None:
            array = from_int8(array, self._ranges)
        return EmbeddingBlock(to_float32(array), filled, first_row)

    def _check_count(self, found: int) -> None:
        """Refuse a file that ends before, or goes on after, the row its header promised."""
        promised = self.num_rows or 0
        if found != promised and (self.num_rows is not None or found == 0):
            raise InputDataError.unexpected(
                self.path,
                f"{promised} rows" if promised else "at least one row",
                f"{found} rows" if found <= promised else f"{found} or more",
                summary="the number of rows is wrong",
                advice="The file may be cut off; write it again." if found < promised else None,
            )


@contextmanager
def damage_as_input_error(path: Path, at: str | None = None) -> Generator[None]:
    """Turn whatever a format's library raises while it reads a file into our own error."""
    try:
        yield
    except LightweightDecoderError:
        raise
    except Exception as error:
        found = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise InputDataError.unreadable(path, found, at=at, advice=_advice_on(error)) from error


def _advice_on(error: Exception) -> str | None:
    """Say what to do about an error of a library; only some of them mean damage."""
    if isinstance(error, NOT_SUPPORTED) or NOT_SUPPORTED_WORDS.search(str(error)):
        return "The file uses something that is not supported; save the vectors as .npy."
    if isinstance(error, OSError) and error.errno is not None:
        return None
    return "The file may be damaged or cut off; write it again."


def resolve_block_rows(block_rows: int | None, dim: int) -> int:
    """Return a block's number of rows: the one asked for, or the default for this width."""
    if block_rows is None:
        return min(MAX_BLOCK_ROWS, max(1, BLOCK_BYTES // (4 * dim)))
    if block_rows < 1:
        raise InputDataError("a block needs rows", expected="block_rows >= 1", found=block_rows)
    return block_rows


def refuse_missing_texts(path: Path, texts: Sequence[str | None] | None, first_row: int) -> None:
    """Raise at the first row that has a vector and no text."""
    if texts is not None and None in texts:
        raise InputDataError.unexpected(
            path,
            "a text for each vector",
            "nothing (null)",
            at=f"row {first_row + texts.index(None)}",
            summary="a text is missing",
        )


def refuse_packed_bits(path: Path, array: npt.NDArray[np.generic]) -> None:
    """Refuse whole bytes that look like eight signs each, as binary quantization packs them.

    The two highest bits of a number that varies around a middle go together, one way or the other;
    the signs of two directions do not. Few numbers tell nothing.
    """
    top = array.view(np.uint8) >> 6
    differ = float(np.mean((top == 1) | (top == 2)))  # noqa: PLR2004 - bits 01 and 10
    if array.size >= BITS_SAMPLE and abs(differ - 0.5) < BITS_MARGIN:
        raise InputDataError.unexpected(
            path,
            "numbers of a vector",
            f"{array.dtype} that look like packed bits, 8 signs in each",
            summary="these are no embeddings as they are",
            advice="Unpack them, as numpy.unpackbits(…, axis=1) * 2.0 - 1; numbers, as float32.",
        )


def read_ranges(path: Path, dim: int) -> FloatArray | None:
    """Return what was the least and the most of each column, (2, d), before it was made int8.

    It is in ``NAME.ranges.npy`` beside the file, as sentence-transformers' ``quantize_embeddings``
    takes it. Without one, numbers are read as they are, and a warning says so.

    Raises:
        InputDataError: The file is no such array.
    """
    file = path.with_suffix(RANGES_SUFFIX)
    if not file.is_file():
        _log.warning(
            "%s: int8 numbers are read as they are; if each column has a range of its own, as "
            "sentence-transformers makes them, save the (2, d) ranges as %s",
            path,
            file.name,
        )
        return None
    with damage_as_input_error(file):
        ranges: FloatArray = np.load(file, allow_pickle=False).astype(np.float32)
    if ranges.shape != (2, dim) or not (ranges[0] <= ranges[1]).all() or np.isinf(ranges).any():
        raise InputDataError.unexpected(
            file,
            f"(2, {dim}) finite numbers: the least of each column, and the most",
            f"shape {ranges.shape}" if ranges.shape != (2, dim) else "others",
        )
    _log.info("%s: int8 numbers are scaled by %s", path, file.name)
    return ranges


def from_int8(array: npt.NDArray[np.generic], ranges: FloatArray) -> FloatArray:
    """Return the middle of the step that each number stands for; -128 is the lowest of 256."""
    steps = (ranges[1] - ranges[0]) / 255
    vectors: FloatArray = ranges[0] + (array.astype(np.float32) + 128.5) * steps
    return vectors


def check_shape(path: Path, num_rows: int | None, dim: int) -> None:
    """Refuse a file without rows, or with rows of a width that no embedding has."""
    if num_rows is not None and num_rows < 1:
        raise InputDataError.unexpected(
            path, "at least one row", num_rows, summary="there are no vectors"
        )
    if not 1 <= dim <= MAX_DIM:
        raise InputDataError.unexpected(
            path,
            f"1 to {MAX_DIM} numbers a row",
            dim,
            summary="the width of the vectors cannot be right",
            advice="Store one vector a row; an array may be transposed.",
        )


def check_array(path: Path, name: str, shape: Sequence[int], dtype: str) -> tuple[int, int]:
    """Return (n, d) of a stored array that holds embeddings; one vector alone is one row."""
    if dtype not in FLOAT_DTYPES:
        advice = "Convert it to float32; arrays of Python objects are never loaded."
        if dtype == "uint8":
            advice = "Convert it to float32; if these are packed bits, with numpy.unpackbits first."
        raise InputDataError.unexpected(
            path,
            f"numbers stored as {', '.join(FLOAT_DTYPES)}",
            dtype,
            summary=f"{name} does not hold embeddings",
            advice=advice,
        )
    if len(shape) not in (1, 2):
        raise InputDataError.unexpected(
            path,
            "2 dimensions: rows and columns",
            f"shape {tuple(shape)}",
            summary=f"{name} does not hold embeddings",
        )
    num_rows, dim = (1, shape[0]) if len(shape) == 1 else (shape[0], shape[1])
    check_shape(path, num_rows, dim)
    return num_rows, dim


def check_text_count(path: Path, num_texts: int, num_rows: int) -> None:
    """Refuse texts that do not go with the vectors row by row."""
    if num_texts != num_rows:
        raise InputDataError.unexpected(
            path,
            f"{num_rows} texts, one a vector",
            f"{num_texts} texts",
            summary="texts and vectors differ in number",
        )


def shown_names(names: Iterable[str]) -> str:
    """Return some names for a message."""
    names = list(names)
    return ", ".join(map(repr, names[:SHOWN_NAMES])) + (", …" if len(names) > SHOWN_NAMES else "")


def choose_entry(path: Path, names: Sequence[str], wanted: str | None, *, option: str) -> str:
    """Return the entry that holds the vectors: the one asked for, or the only one there is."""
    if wanted is None and len(names) == 1:
        return names[0]
    if wanted is not None and wanted in names:
        return wanted
    raise InputDataError.unexpected(
        path,
        "one entry with embeddings" if wanted is None else f"an entry {wanted!r}",
        shown_names(names) or "no entry that could hold embeddings",
        summary="the vectors were not found" if wanted or not names else "which vectors?",
        advice=f"Name the entry with {option}=…" if names else None,
    )


def choose_text_entry(path: Path, names: Sequence[str], wanted: str | None) -> str | None:
    """Return the entry with the texts: asked for, the only one, or the one called "text"."""
    if wanted is not None:
        return choose_entry(path, names, wanted, option="text_column")
    if len(names) == 1:
        return names[0]
    return TEXT_ENTRY if TEXT_ENTRY in names else None
