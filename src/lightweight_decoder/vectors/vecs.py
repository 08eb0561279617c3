"""``.fvecs``, ``.bvecs`` and ``.ivecs``: each vector behind its own width."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lightweight_decoder.errors import InputDataError
from lightweight_decoder.vectors.reader import FileReader, check_shape

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    import numpy.typing as npt

    from lightweight_decoder.vectors.reader import StoredBlock

NUMBER_TYPES = {".fvecs": "<f4", ".bvecs": "|u1", ".ivecs": "<i4"}


class VecsReader(FileReader):
    """A file of vectors, each an int32 width followed by its numbers, mapped into memory.

    The suffix says what the numbers are: float32, uint8 or int32 (http://corpus-texmex.irisa.fr).
    """

    def __init__(self, path: Path) -> None:
        numbers = np.dtype(NUMBER_TYPES[path.suffix.lower()])
        size = path.stat().st_size
        widths = np.fromfile(path, dtype="<i4", count=1)
        if not widths.size:
            raise InputDataError(
                "there are no vectors",
                where=path,
                expected="4 bytes with the width of the first one, and its numbers",
                found=f"{size} bytes",
            )
        dim = int(widths[0])
        check_shape(path, None, dim)
        row_bytes = 4 + dim * numbers.itemsize
        if size % row_bytes:
            raise InputDataError(
                "the file is cut off or damaged",
                where=path,
                at=f"byte {size - size % row_bytes}",
                expected=f"rows of {row_bytes} bytes, for {dim} numbers and their count",
                found=f"{size % row_bytes} bytes after the last whole row",
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
            raise InputDataError(
                "the vectors differ in width",
                where=self.path,
                at=f"row {row} (byte {row * self._row.itemsize})",
                expected=f"{self.dim} numbers",
                found=f"{widths[wrong[0]]} numbers",
                advice="The file may be damaged; write it again.",
            )
