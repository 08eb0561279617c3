"""A folder of files of one format."""

from __future__ import annotations

import numpy as np
import pytest

from lightweight_decoder.errors import InputDataError
from lightweight_decoder.vectors import open_embeddings


@pytest.fixture
def shards(tmp_path, vectors):
    """Return a folder of three shards, whose alphabetical order is not their order."""
    for name, rows in (("part-1", slice(0, 3)), ("part-2", slice(3, 4)), ("part-10", slice(4, 7))):
        np.save(tmp_path / f"{name}.npy", vectors[rows])
    return tmp_path


def test_shards_are_read_in_the_order_of_their_numbers(shards, read_all, vectors):
    (shards / "_SUCCESS").write_text("")
    reader = open_embeddings(shards)
    assert (reader.num_rows, reader.dim, reader.dtype) == (7, 5, "float32")
    for block_rows in (None, 2):
        np.testing.assert_array_equal(read_all(reader, block_rows=block_rows)[0], vectors)


def test_every_format_can_be_sharded(tmp_path, read_all, file_format, vectors, texts):
    for shard, rows in enumerate((slice(0, 3), slice(3, 7))):
        path = tmp_path / f"{shard}-{file_format.file_name}"
        file_format.write(path, vectors[rows], texts[rows])
    reader = open_embeddings(tmp_path)
    assert reader.num_rows == (7 if file_format.num_rows_known else None)
    read_vectors, read_texts = read_all(reader)
    np.testing.assert_array_equal(read_vectors, vectors)
    assert read_texts == (texts if file_format.has_texts else None)


def test_one_bad_shard_is_named(shards):
    path = shards / "part-2.npy"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputDataError, match=r"part-2\.npy: the array is cut off"):
        open_embeddings(shards)


def test_bad_row_is_named_within_its_shard(shards):
    np.save(shards / "part-10.npy", np.full((3, 5), np.nan, np.float32))
    with pytest.raises(InputDataError, match=r"part-10\.npy, row 0"):
        list(open_embeddings(shards).blocks())


@pytest.mark.parametrize(
    ("rows", "what"), [(np.ones((2, 4), np.float32), "width"), (np.ones((2, 5)), "dtype")]
)
def test_shards_that_differ_are_refused(shards, rows, what):
    np.save(shards / "part-3.npy", rows)
    with pytest.raises(InputDataError, match=rf"part-3\.npy: the shards differ in their {what}"):
        open_embeddings(shards)


def test_shards_of_two_formats_are_refused(shards, vectors):
    np.savez(shards / "part-3.npz", vectors)
    with pytest.raises(InputDataError, match=r"differ in their format.*expected NpyReader"):
        open_embeddings(shards)


def test_empty_folder_is_refused(tmp_path):
    with pytest.raises(InputDataError, match="files with embeddings, found none"):
        open_embeddings(tmp_path)
