"""The bank's two ``.npy`` files: written as a stream, opened as a map."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import tokenize
from typing import TYPE_CHECKING, Any, BinaryIO, Self

import numpy as np

from lightweight_decoder.errors import BankBuildError, BankError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import TracebackType

    import numpy.typing as npt

_HEADER_BYTES = 128
"""Room for the header of any array we write; a multiple of 64, so that the data stays aligned."""


class NpyWriter:
    """Appends rows to a ``.npy`` file whose number of rows is known only at the end.

    Args:
        path: File to create.
        dtype: How the rows are stored.
    """

    def __init__(self, path: Path, dtype: npt.DTypeLike) -> None:
        self.path = path
        self._dtype = np.dtype(dtype)
        self._row_shape: tuple[int, ...] = ()
        self._num_rows = 0
        self._file: BinaryIO

    def __enter__(self) -> Self:
        with reporting_full_disk(self.path, _HEADER_BYTES):
            self._file = self.path.open("wb")
            self._file.write(bytes(_HEADER_BYTES))
        return self

    def append(self, rows: npt.NDArray[Any]) -> None:
        """Write ``rows``, (b, ...), behind those already there.

        Raises:
            BankBuildError: If the file cannot be written.
        """
        self._row_shape = rows.shape[1:]
        self._num_rows += len(rows)
        stored = np.ascontiguousarray(rows, dtype=self._dtype)
        with reporting_full_disk(self.path, stored.nbytes):
            self._file.write(stored.data)

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if error_type is None:
                self._finish()
        finally:
            with contextlib.suppress(OSError):  # the first error is the one to report
                self._file.close()

    def _finish(self) -> None:
        """Write the header, whose shape is known only now."""
        with reporting_full_disk(self.path, _HEADER_BYTES):
            self._file.seek(0)
            self._file.write(_header((self._num_rows, *self._row_shape), self._dtype))
            flush_to_disk(self._file)


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


def flush_to_disk(file: BinaryIO) -> None:
    """Push a file's bytes through every cache to the device."""
    file.flush()
    os.fsync(file.fileno())


@contextlib.contextmanager
def reporting_full_disk(path: Path, needed_bytes: int) -> Iterator[None]:
    """Turn a failed write of ``needed_bytes`` bytes to ``path`` into an error of ours."""
    try:
        yield
    except OSError as error:
        free = shutil.disk_usage(path.parent).free if path.parent.is_dir() else 0
        raise BankBuildError(
            "the file cannot be written",
            where=path,
            expected=f"room for {needed_bytes:,} more bytes",
            found=f"{error.strerror or error} ({free:,} bytes free)",
            advice="Free some space or choose another output folder; nothing half-made was kept",
        ) from error


def map_array(path: Path, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Map a ``.npy`` file into memory without reading its data.

    The map is private (copy on write): torch may look at it without a warning, and the file cannot
    be changed through it.

    Raises:
        BankError: If the file is not a plain ``.npy`` array of that shape and dtype. Object arrays
            are refused without being loaded.
    """
    try:
        array = np.lib.format.open_memmap(path, mode="c")
    except (ValueError, OSError, SyntaxError, tokenize.TokenError, OverflowError) as error:
        raise _unreadable(path, "a .npy file of numbers", str(error)) from error
    expected = (shape, np.dtype(dtype), True)
    found = (array.shape, array.dtype, bool(array.flags.c_contiguous))
    if found != expected:
        raise _unreadable(path, _describe(*expected), _describe(*found))
    return array


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
