"""fvecs, bvecs and ivecs."""

from __future__ import annotations

import numpy as np
import pytest

from lightweight_decoder.errors import InputDataError
from lightweight_decoder.vectors import open_embeddings


def vecs(rows, dtype):
    return b"".join(np.int32(len(row)).tobytes() + np.array(row, dtype).tobytes() for row in rows)


@pytest.mark.parametrize(
    ("suffix", "dtype"), [(".fvecs", "float32"), (".bvecs", "uint8"), (".IVECS", "int32")]
)
def test_suffix_tells_the_numbers(tmp_path, read_all, suffix, dtype):
    rows = [[1, 2, 200], [3, 4, 5]]
    path = tmp_path / f"a{suffix}"
    path.write_bytes(vecs(rows, dtype))
    reader = open_embeddings(path)
    assert (reader.num_rows, reader.dim, reader.dtype) == (2, 3, dtype)
    np.testing.assert_array_equal(read_all(reader)[0], rows)


def test_mixed_widths_are_refused(tmp_path):
    path = tmp_path / "a.fvecs"
    path.write_bytes(vecs([[1, 2], [3, 4], [5], [6], [7, 8, 9, 10]], "float32")[:36])
    with pytest.raises(InputDataError, match=r"row 2 \(byte 24\).*expected 2 numbers, found 1"):
        list(open_embeddings(path).blocks())


def test_cut_off_row_is_refused(tmp_path):
    path = tmp_path / "a.bvecs"
    path.write_bytes(vecs([[1, 2], [3, 4]], "uint8")[:-1])
    with pytest.raises(InputDataError, match=r"byte 6: .*found 5 bytes after the last whole row"):
        open_embeddings(path)


@pytest.mark.parametrize("width", [0, -2, 2**31 - 1])
def test_absurd_width_is_refused(tmp_path, width):
    path = tmp_path / "a.fvecs"
    path.write_bytes(width.to_bytes(4, "little", signed=True) + bytes(100))
    with pytest.raises(InputDataError, match="width of the vectors cannot be right"):
        open_embeddings(path)


@pytest.mark.parametrize("suffix", [".fvecs", ".bvecs", ".ivecs"])
def test_less_than_a_width_is_refused(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"\1\0\0")  # found by fuzzing
    with pytest.raises(InputDataError, match=r"no vectors: expected 4 bytes.*found 3 bytes"):
        open_embeddings(path)
