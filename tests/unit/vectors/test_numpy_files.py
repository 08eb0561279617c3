"""Plain arrays: dtypes, headers that lie, archives, and ``.fvecs`` and its kin."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest
import scipy.sparse

from lightweight_decoder.errors import InputDataError
from lightweight_decoder.vectors import open_embeddings


def header(shape, dtype="<f4", order="False"):
    """Write a version 1.0 header by hand, after numpy's description of the format."""
    text = f"{{'descr': {dtype!r}, 'fortran_order': {order}, 'shape': {shape}, }}"
    text = text.ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8", ">f4", ">f2"])
@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_every_dtype_comes_out_as_float32(tmp_path, read_all, dtype, suffix):
    stored = (np.arange(-6, 24).reshape(10, 3) + 0.5).astype(dtype)
    path = tmp_path / f"a{suffix}"
    np.save(path, stored) if suffix == ".npy" else np.savez(path, stored)
    reader = open_embeddings(path)
    assert reader.dtype == stored.dtype.name
    np.testing.assert_array_equal(read_all(reader, block_rows=4)[0], stored.astype(np.float32))


def test_all_float16_bit_patterns(tmp_path, read_all):
    stored = np.arange(2**16, dtype=np.uint16).view(np.float16).reshape(-1, 16)
    path = tmp_path / "a.npy"
    np.save(path, stored)
    read = read_all(open_embeddings(path), on_bad_row="keep")[0]
    np.testing.assert_array_equal(read, stored.astype(np.float32))


@pytest.mark.parametrize("dtype", ["int64", "complex64", "bool", "U3", "datetime64[s]"])
def test_other_dtypes_are_refused(tmp_path, dtype):
    path = tmp_path / "a.npy"
    np.save(path, np.ones((2, 2)).astype(dtype))
    with pytest.raises(InputDataError, match=r"does not hold embeddings.*float32"):
        open_embeddings(path)


def test_one_vector_is_one_row(tmp_path, read_all):
    path = tmp_path / "a.npy"
    np.save(path, np.arange(4.0))
    reader = open_embeddings(path)
    assert (reader.num_rows, reader.dim) == (1, 4)
    np.testing.assert_array_equal(read_all(reader)[0], [[0, 1, 2, 3]])


@pytest.mark.parametrize("shape", [(), (2, 3, 4), (0, 3), (3, 0), (1, 2**20 + 1)])
def test_other_shapes_are_refused(tmp_path, shape):
    path = tmp_path / "a.npy"
    path.write_bytes(header(shape))
    with pytest.raises(InputDataError, match=r"2 dimensions|at least one row|1 to 1048576 numbers"):
        open_embeddings(path)


@pytest.mark.parametrize("rows", [3, 10**15, 10**30, -1])
def test_header_that_lies_is_refused(tmp_path, rows):
    path = tmp_path / "a.npy"
    path.write_bytes(header((rows, 4)) + np.ones((2, 4), np.float32).tobytes())
    with pytest.raises(InputDataError, match=r"cut off or damaged: expected \d+ bytes|no vectors"):
        open_embeddings(path)


def test_bytes_after_the_array_are_refused(tmp_path, vectors):
    path = tmp_path / "a.npy"
    with path.open("wb") as file:
        np.save(file, vectors)
        np.save(file, vectors)
    with pytest.raises(InputDataError, match="with one array in it"):
        open_embeddings(path)


def test_header_of_absurd_length_is_refused(tmp_path):
    path = tmp_path / "a.npy"
    path.write_bytes(b"\x93NUMPY\x02\x00" + (2**31).to_bytes(4, "little") + b" " * 1000)
    with pytest.raises(InputDataError, match="cannot be read"):
        open_embeddings(path)


def test_writing_to_a_block_leaves_the_file_alone(tmp_path, read_all, vectors):
    path = tmp_path / "a.npy"
    np.save(path, vectors)
    reader = open_embeddings(path)
    next(reader.blocks()).vectors[:] = 7
    np.testing.assert_array_equal(read_all(reader)[0], vectors)


def test_archive_with_several_arrays_needs_a_key(tmp_path, read_all, vectors):
    path = tmp_path / "a.npz"
    np.savez(path, train=vectors, test=vectors[:2], labels=np.arange(7))
    with pytest.raises(InputDataError, match=r"which vectors.*'train', 'test'.*key="):
        open_embeddings(path)
    with pytest.raises(InputDataError, match="expected an entry 'val'"):
        open_embeddings(path, key="val")
    np.testing.assert_array_equal(read_all(open_embeddings(path, key="test"))[0], vectors[:2])


def test_matrix_is_preferred_to_vectors(tmp_path, vectors):
    path = tmp_path / "a.npz"
    np.savez(path, mean=vectors[0], vectors=vectors)
    assert open_embeddings(path).num_rows == 7


def test_archive_of_bytes_as_texts(tmp_path, read_all):
    path = tmp_path / "a.npz"
    np.savez(path, vectors=np.ones((2, 3)), names=np.array(["ä".encode(), b"b"]))
    assert read_all(open_embeddings(path))[1] == ["ä", "b"]


def test_texts_of_another_count_are_refused(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, vectors=np.ones((2, 3)), text=np.array(["a", "b", "c"]))
    with pytest.raises(InputDataError, match="expected 2 texts, one a vector, found 3 texts"):
        open_embeddings(path)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("block_rows", [None, 1, 3])
def test_columns_before_rows_in_an_archive(tmp_path, read_all, vectors, save, block_rows):
    path = tmp_path / "a.npz"
    texts = np.array(list("abcdefg"))
    save(path, vectors=np.asfortranarray(vectors), text=texts)
    read, read_texts = read_all(open_embeddings(path), block_rows=block_rows)
    np.testing.assert_array_equal(read, vectors)
    assert read_texts == list("abcdefg")


def test_sparse_matrix_is_refused(tmp_path):
    path = tmp_path / "a.npz"
    scipy.sparse.save_npz(path, scipy.sparse.csr_matrix(np.eye(3, dtype=np.float32)))
    with pytest.raises(InputDataError, match="found a sparse matrix of SciPy"):
        open_embeddings(path)


def test_texts_of_absurd_width_are_refused(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, vectors=np.ones((1, 3)), text=np.array(["a" * 20_000]))
    with pytest.raises(InputDataError, match="at most 65536 bytes a text, found 80000"):
        open_embeddings(path)


@pytest.mark.parametrize("rows", [3, 10**15])
def test_member_that_lies_is_refused(tmp_path, rows):
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", header((rows, 4)) + np.ones((2, 4), np.float32).tobytes())
    with pytest.raises(InputDataError, match="a is cut off or damaged"):
        open_embeddings(path)


def test_flipped_bit_in_an_archive_is_found(tmp_path, vectors):
    buffer = io.BytesIO()
    np.savez(buffer, vectors=vectors)
    content = bytearray(buffer.getvalue())
    content[content.index(vectors.tobytes()) + 5] ^= 1
    path = tmp_path / "a.npz"
    path.write_bytes(content)
    with pytest.raises(InputDataError, match="Bad CRC-32"):
        list(open_embeddings(path).blocks())


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
