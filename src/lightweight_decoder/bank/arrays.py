"""The bank's two ``.npy`` files: written as a stream, opened as a map."""

from __future__ import annotations

import io
import mmap
import os
import sys
import tokenize
import weakref
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from lightweight_decoder.bank.output_file import OutputFile
from lightweight_decoder.errors import BankError
from lightweight_decoder.memory import move_limit

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from lightweight_decoder.bank.manifest import FileInfo

_HEADER_BYTES = 128
"""Room for the header of any array we write; a multiple of 64, so that the data stays aligned."""

_MAP_NORESERVE: Final = 0x4000  # mmap has a name for it from Python 3.13 on


class NpyWriter:
    """Appends rows to a ``.npy`` file whose number of rows is known for sure only at the end.

    Args:
        path: File to create, or to go on with.
        expected_rows: How many rows will come, as far as known. The header is written first; if it
            was right the file need not be read again for its checksum.
        kept_bytes: As for :class:`~lightweight_decoder.bank.output_file.OutputFile`.
    """

    def __init__(
        self,
        path: Path,
        *,
        expected_rows: int | None = None,
        kept_bytes: int = 0,
    ) -> None:
        self._row_shape: tuple[int, ...] = ()
        self._dtype: np.dtype[Any] | None = None
        self._expected_rows = expected_rows or 0
        self._num_rows = 0
        self.file = OutputFile(path, kept_bytes=kept_bytes)

    def append(self, rows: npt.NDArray[Any]) -> None:
        """Write ``rows``, (b, ...), behind those already there.

        They are written in the background and must stay as they are.

        Raises:
            BankBuildError: If the file cannot be written.
        """
        if self._dtype is None:
            self._dtype, self._row_shape = rows.dtype, rows.shape[1:]
            self.file.write(_header((self._expected_rows, *self._row_shape), self._dtype))
        self._num_rows += len(rows)
        self.file.write(np.ascontiguousarray(rows).view(np.uint8).reshape(-1).data)

    def finish(self) -> FileInfo:
        """Write the header if it turned out wrong, and wait for the disk."""
        assert self._dtype is not None  # noqa: S101, no file is finished without rows
        return self.file.finish(_header((self._num_rows, *self._row_shape), self._dtype))

    def close(self) -> None:
        """Stop where it is."""
        self.file.close()


def _header(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bytes:
    """Return a version 1.0 header of exactly the reserved size."""
    buffer = io.BytesIO()
    description = {
        "shape": shape,
        "fortran_order": False,
        "descr": np.lib.format.dtype_to_descr(dtype),
    }
    np.lib.format.write_array_header_1_0(buffer, description)
    header = buffer.getvalue()
    if len(header) != _HEADER_BYTES:
        raise AssertionError(f"numpy wrote a header of {len(header)} bytes")
    return header


def map_array(path: Path, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Map a ``.npy`` file into memory without reading its data.

    The map is private (copy on write): torch may look at it without a warning, and the file cannot
    be changed through it. No memory is set aside for such copies, so that a bank may be larger than
    the machine's memory: a plain private map of more is refused by Linux.

    Raises:
        BankError: If the file is not a plain ``.npy`` array of that shape and dtype. Object arrays
            are refused without being loaded.
    """
    try:
        array = _without_reserve(np.lib.format.open_memmap(path, mode="r"), path)
    except (ValueError, OSError, SyntaxError, tokenize.TokenError, OverflowError) as error:
        raise _unreadable(path, "a .npy file of numbers", str(error)) from error
    expected = (shape, np.dtype(dtype), True)
    found = (array.shape, array.dtype, bool(array.flags.c_contiguous))
    if found != expected:
        raise _unreadable(path, _describe(*expected), _describe(*found))
    return array


def _without_reserve(array: np.memmap[Any, Any], path: Path) -> npt.NDArray[Any]:
    """Map again what is mapped read-only, private and writable; its header was checked."""
    if not sys.platform.startswith("linux"):
        return np.lib.format.open_memmap(path, mode="c")
    with path.open("rb") as file:
        num_bytes = os.fstat(file.fileno()).st_size
        move_limit(num_bytes)
        mapped = mmap.mmap(
            file.fileno(),
            0,
            flags=mmap.MAP_PRIVATE | _MAP_NORESERVE,
            prot=mmap.PROT_READ | mmap.PROT_WRITE,
        )
    weakref.finalize(mapped, move_limit, -num_bytes)
    return np.ndarray(
        array.shape,
        array.dtype,
        buffer=mapped,
        offset=array.offset,
        order="C" if array.flags.c_contiguous else "F",
    )


def _describe(shape: tuple[int, ...], dtype: np.dtype[Any], in_rows: bool) -> str:  # noqa: FBT001
    """Put an array's header in words."""
    return f"shape {shape} of {dtype}{'' if in_rows else ' stored by columns'}"


def _unreadable(path: Path, expected: str, found: str) -> BankError:
    """Build the error for a file that is not the array the manifest promises."""
    return BankError(
        "the array does not match the manifest",
        where=path,
        expected=expected,
        found=found,
        advice="The bank was cut or altered; copy or build it again",
    )
