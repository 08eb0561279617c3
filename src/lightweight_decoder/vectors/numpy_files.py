"""Plain arrays: numpy's ``.npy`` and ``.npz``; ``.fvecs`` and its kin."""

from __future__ import annotations

import io
import math
import shutil
import zipfile
from tempfile import TemporaryFile
from typing import IO, TYPE_CHECKING, NamedTuple

import numpy as np

from lightweight_decoder.errors import InputDataError
from lightweight_decoder.vectors.reader import (
    FLOAT_DTYPES,
    FileReader,
    check_array,
    check_shape,
    check_text_count,
    choose_entry,
    choose_text_entry,
)

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path

    import numpy.typing as npt

    from lightweight_decoder.vectors.reader import StoredBlock

MAX_HEADER_BYTES = 2**16
MAX_TEXT_BYTES = 2**16
SPARSE_MEMBERS = {"data", "format", "shape"}
NUMBER_TYPES = {".fvecs": "<f4", ".bvecs": "|u1", ".ivecs": "<i4"}


class NpyHeader(NamedTuple):
    """The header of an ``.npy`` file, and where its data begin."""

    shape: tuple[int, ...]
    fortran_order: bool
    dtype: np.dtype[np.generic]
    offset: int

    @property
    def file_bytes(self) -> int:
        """Size of a file with this header, all of it there."""
        return self.offset + math.prod(self.shape) * self.dtype.itemsize


def read_header(stream: IO[bytes]) -> NpyHeader:
    """Read an ``.npy`` header from a stream, however long it says it is, in bounded memory."""
    head = io.BytesIO(stream.read(MAX_HEADER_BYTES))
    version = np.lib.format.read_magic(head)
    if version == (1, 0):
        shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(head)
    else:
        shape, fortran_order, dtype = np.lib.format.read_array_header_2_0(head)
    return NpyHeader(shape, fortran_order, dtype, head.tell())


def check_size(path: Path, name: str, header: NpyHeader, size: int) -> None:
    """Refuse an array whose bytes are not exactly those that its header promises."""
    if header.file_bytes != size:
        raise InputDataError.unexpected(
            path,
            f"{header.file_bytes} bytes for shape {header.shape} of {header.dtype}",
            f"{size} bytes",
            summary=f"{name} is cut off or damaged",
            advice="Write the file again, with one array in it.",
        )


class NpyReader(FileReader):
    """A numpy ``.npy`` array, (n, d) or one vector (d,), mapped into memory."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self._header = read_header(file)
        num_rows, dim = check_array(path, "the array", self._header.shape, self._header.dtype.name)
        check_size(path, "the array", self._header, path.stat().st_size)
        super().__init__(
            path, num_rows=num_rows, dim=dim, dtype=self._header.dtype.name, has_texts=False
        )

    def _stored_blocks(self, block_rows: int) -> Generator[StoredBlock]:
        for vectors in _mapped_rows(self.path, self._header, block_rows):
            yield vectors, None


class NpzReader(FileReader):
    """An array of a numpy ``.npz`` archive, with the texts of another one where there is one.

    Args:
        path: The archive.
        key: Name of the (n, d) array; may be left out where only one could hold embeddings.
        text_column: Name of an (n,) array of strings; may be left out as for tables.
    """

    def __init__(
        self, path: Path, *, key: str | None = None, text_column: str | None = None
    ) -> None:
        with zipfile.ZipFile(path) as archive:
            headers = dict(_members(archive))
            vector_names = [
                name
                for name, header in headers.items()
                if header.dtype.name in FLOAT_DTYPES and len(header.shape) in (1, 2)
            ]
            text_names = [
                name
                for name, header in headers.items()
                if header.dtype.kind in "US" and len(header.shape) == 1
            ]
            self._key = choose_entry(
                path, _prefer_matrices(headers, vector_names), key, option="key"
            )
            self._text_key = choose_text_entry(path, text_names, text_column)
            self._header = headers[self._key]
            num_rows, dim = check_array(
                path, self._key, self._header.shape, self._header.dtype.name
            )
            self._check_members(path, archive, headers)
        super().__init__(
            path,
            num_rows=num_rows,
            dim=dim,
            dtype=self._header.dtype.name,
            has_texts=self._text_key is not None,
        )
        if self._text_key is not None:
            self._text_header = headers[self._text_key]
            check_text_count(path, self._text_header.shape[0], num_rows)

    def _check_members(
        self, path: Path, archive: zipfile.ZipFile, headers: dict[str, NpyHeader]
    ) -> None:
        """Refuse what cannot be streamed, such as texts of absurd width."""
        if set(headers) >= SPARSE_MEMBERS:
            raise InputDataError.unexpected(
                path,
                "an array of shape (n, d)",
                "a sparse matrix of SciPy",
                summary="the archive does not hold embeddings",
                advice="Save matrix.toarray() instead.",
            )
        for name in filter(None, (self._key, self._text_key)):
            check_size(path, name, headers[name], archive.getinfo(f"{name}.npy").file_size)
        if self._text_key is not None and headers[self._text_key].dtype.itemsize > MAX_TEXT_BYTES:
            raise InputDataError.unexpected(
                path,
                f"at most {MAX_TEXT_BYTES} bytes a text",
                f"{headers[self._text_key].dtype.itemsize} bytes",
                summary=f"the texts in {self._text_key} are too wide",
                advice="Save texts and vectors as Parquet, which gives each text its own length.",
            )

    def _stored_blocks(self, block_rows: int) -> Generator[StoredBlock]:
        with zipfile.ZipFile(self.path) as archive, TemporaryFile() as unpacked:
            if self._header.fortran_order and len(self._header.shape) > 1:
                vectors = _unpacked_rows(archive, self._key, self._header, block_rows, unpacked)
            else:
                vectors = _stream_rows(archive, self._key, self._header, block_rows, self.dim)
            if self._text_key is None:
                for block in vectors:
                    yield block.reshape(-1, self.dim), None
                return
            texts = _stream_rows(archive, self._text_key, self._text_header, block_rows, 1)
            for block, strings in zip(vectors, texts, strict=True):
                yield block.reshape(-1, self.dim), _decode(strings)


def _members(archive: zipfile.ZipFile) -> Iterator[tuple[str, NpyHeader]]:
    """Yield name and header of each array; the names are those that numpy shows."""
    for info in archive.infolist():
        if info.filename.endswith(".npy"):
            with archive.open(info) as stream:
                yield info.filename.removesuffix(".npy"), read_header(stream)


def _prefer_matrices(headers: dict[str, NpyHeader], names: list[str]) -> list[str]:
    """Leave single vectors out of the choice where there are matrices."""
    return [name for name in names if len(headers[name].shape) > 1] or names


def _stream_rows(
    archive: zipfile.ZipFile, name: str, header: NpyHeader, block_rows: int, row_numbers: int
) -> Iterator[npt.NDArray[np.generic]]:
    """Yield a member's rows, block by block; at its end zipfile compares the checksum."""
    left = header.file_bytes - header.offset
    row_bytes = row_numbers * header.dtype.itemsize
    with archive.open(f"{name}.npy") as stream:
        stream.read(header.offset)
        while left:
            block = stream.read(min(left, block_rows * row_bytes))
            if len(block) % row_bytes or not block:
                message = f"{name} ends early"
                raise EOFError(message)
            left -= len(block)
            yield np.frombuffer(block, dtype=header.dtype)
        stream.read(1)


def _unpacked_rows(
    archive: zipfile.ZipFile, name: str, header: NpyHeader, block_rows: int, file: IO[bytes]
) -> Iterator[npt.NDArray[np.generic]]:
    """Yield a member's rows, which lie column by column: from a file unpacked on disk, mapped."""
    with archive.open(f"{name}.npy") as stream:
        shutil.copyfileobj(stream, file)
    file.flush()
    yield from _mapped_rows(file, header, block_rows)


def _mapped_rows(
    file: Path | IO[bytes], header: NpyHeader, block_rows: int
) -> Iterator[npt.NDArray[np.generic]]:
    """Yield the rows of an ``.npy`` file, each block a copy-on-write view of it."""
    array: npt.NDArray[np.generic] = np.memmap(
        file,
        dtype=header.dtype,
        mode="c",
        offset=header.offset,
        shape=header.shape,
        order="F" if header.fortran_order else "C",
    )
    vectors = array.view(np.ndarray).reshape(-1, header.shape[-1])
    for start in range(0, len(vectors), block_rows):
        yield vectors[start : start + block_rows]


def _decode(strings: npt.NDArray[np.generic]) -> list[str]:
    """Return numpy strings as Python ones."""
    if strings.dtype.kind == "S":
        return [text.decode() for text in strings.tolist()]
    texts: list[str] = strings.tolist()
    return texts


class VecsReader(FileReader):
    """A file of vectors, each an int32 width followed by its numbers, mapped into memory.

    The suffix says what the numbers are: float32, uint8 or int32 (http://corpus-texmex.irisa.fr).
    """

    may_be_bits = False

    def __init__(self, path: Path) -> None:
        numbers = np.dtype(NUMBER_TYPES[path.suffix.lower()])
        size = path.stat().st_size
        widths = np.fromfile(path, dtype="<i4", count=1)
        if not widths.size:
            raise InputDataError.unexpected(
                path,
                "4 bytes with the width of the first one, and its numbers",
                f"{size} bytes",
                summary="there are no vectors",
            )
        dim = int(widths[0])
        check_shape(path, None, dim)
        row_bytes = 4 + dim * numbers.itemsize
        if size % row_bytes:
            raise InputDataError.unexpected(
                path,
                f"rows of {row_bytes} bytes, for {dim} numbers and their count",
                f"{size % row_bytes} bytes after the last whole row",
                at=f"byte {size - size % row_bytes}",
                summary="the file is cut off or damaged",
                advice="Write the file again.",
            )
        self._row = np.dtype([("dim", "<i4"), ("vector", numbers, (dim,))])
        super().__init__(
            path, num_rows=size // row_bytes, dim=dim, dtype=numbers.name, has_texts=False
        )

    def _stored_blocks(self, block_rows: int) -> Generator[StoredBlock]:
        rows: npt.NDArray[np.void] = np.memmap(
            self.path, dtype=self._row, mode="c", shape=(self.num_rows or 0,)
        ).view(np.ndarray)
        for start in range(0, len(rows), block_rows):
            block = rows[start : start + block_rows]
            self._check_widths(block["dim"], start)
            yield block["vector"], None

    def _check_widths(self, widths: npt.NDArray[np.int32], first_row: int) -> None:
        """Refuse a block in which a vector has another width than the first one of the file."""
        wrong = np.flatnonzero(widths != self.dim)
        if wrong.size:
            row = first_row + int(wrong[0])
            raise InputDataError.unexpected(
                self.path,
                f"{self.dim} numbers",
                f"{widths[wrong[0]]} numbers",
                at=f"row {row} (byte {row * self._row.itemsize})",
                summary="the vectors differ in width",
                advice="The file may be damaged; write it again.",
            )
