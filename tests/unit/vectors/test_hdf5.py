"""HDF5: names, links, and data that are elsewhere or nowhere."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from lightweight_decoder.errors import InputDataError
from lightweight_decoder.vectors import open_embeddings


@pytest.fixture
def new_file(tmp_path):
    """Return an open HDF5 file; close it before reading."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        yield file


def open_closed(file, **options):
    path = file.filename
    file.close()
    return open_embeddings(path, **options)


def test_key_may_be_a_path(new_file, read_all, vectors):
    new_file["train/vectors"] = vectors.astype(np.float16)
    new_file["test/vectors"] = vectors
    new_file["test/names"] = ["ä"] * 7
    reader = open_closed(new_file, key="/test/vectors", text_column="test/names")
    read_vectors, texts = read_all(reader, block_rows=2)
    np.testing.assert_array_equal(read_vectors, vectors)
    assert texts == ["ä"] * 7


def test_several_data_sets_need_a_key(new_file, vectors):
    new_file["a"] = vectors
    new_file["b"] = vectors
    with pytest.raises(InputDataError, match=r"which vectors.*'a', 'b'"):
        open_closed(new_file)


@pytest.mark.parametrize("key", [None, "out", "out/vectors"])
def test_external_link_is_refused(tmp_path, new_file, vectors, key):
    with h5py.File(tmp_path / "secret.h5", "w") as other:
        other["vectors"] = vectors
    target = "/" if key == "out/vectors" else "/vectors"
    new_file["out"] = h5py.ExternalLink(str(tmp_path / "secret.h5"), target)
    with pytest.raises(InputDataError, match=r"link is not followed|no entry that could hold"):
        open_closed(new_file, key=key)


def test_soft_link_is_refused(new_file, vectors):
    new_file["a"] = vectors
    new_file["b"] = h5py.SoftLink("/a")
    with pytest.raises(InputDataError, match="found SoftLink to /a"):
        open_closed(new_file, key="b")


def test_data_in_another_file_are_refused(tmp_path, new_file):
    raw = tmp_path / "raw"
    raw.write_bytes(np.ones(6, np.float32).tobytes())
    new_file.create_dataset("a", (2, 3), "f4", external=[(str(raw), 0, 24)])
    with pytest.raises(InputDataError, match="found data in other files"):
        open_closed(new_file)


def test_virtual_data_set_is_refused(tmp_path, new_file, vectors):
    layout = h5py.VirtualLayout((7, 5), "f4")
    layout[:] = h5py.VirtualSource(str(tmp_path / "b.h5"), "v", (7, 5))
    new_file.create_virtual_dataset("a", layout)
    with pytest.raises(InputDataError, match="found data in other files"):
        open_closed(new_file)


def test_rows_that_were_never_written_are_refused(new_file):
    new_file.create_dataset("a", (10**15, 4), "f4", chunks=(1000, 4))
    with pytest.raises(InputDataError, match="found 0 of 1000000000000 chunks"):
        open_closed(new_file)


def test_contiguous_rows_that_were_never_written_are_refused(new_file):
    new_file.create_dataset("a", (10**9, 4), "f4")
    with pytest.raises(InputDataError, match="found 0 bytes"):
        open_closed(new_file)


def test_chunks_too_big_for_memory_are_refused(new_file):
    new_file.create_dataset("a", (10**6, 400), "f4", chunks=(10**6, 400), compression="gzip")
    with pytest.raises(InputDataError, match="found chunks of shape"):
        open_closed(new_file)


def test_texts_of_another_count_are_refused(new_file, vectors):
    new_file["a"] = vectors
    new_file["text"] = ["a", "b"]
    with pytest.raises(InputDataError, match="expected 7 texts, one a vector, found 2 texts"):
        open_closed(new_file)


def test_invalid_utf8_is_refused(new_file, vectors):
    new_file["a"] = vectors[:2]
    new_file["text"] = np.array([b"fine", b"\xff\xfe"])
    with pytest.raises(InputDataError, match="UnicodeDecodeError"):
        list(open_closed(new_file).blocks())


def test_one_vector_is_one_row(tmp_path, read_all):
    path = tmp_path / "one.h5"
    with h5py.File(path, "w") as file:
        file["vectors"] = np.array([1.0, 2.0, 3.0], dtype=np.float32)

    vectors, _ = read_all(open_embeddings(path))
    np.testing.assert_array_equal(vectors, [[1.0, 2.0, 3.0]])
