"""What every format must do, checked against writers that share no code with the readers."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import string
import tempfile
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lightweight_decoder.errors import InputDataError
from lightweight_decoder.vectors import open_embeddings

# The fixtures are the same for every example, and an example may touch the disk a few times.
PROPERTY = settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
NUMBERS = st.floats(-1e6, 1e6, width=32).filter(lambda number: number == 0 or abs(number) > 1e-6)
MATRICES = hnp.arrays(
    np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9), elements=NUMBERS
)
WORDS = st.text(string.ascii_letters + "äß日本🙂-_'", min_size=1, max_size=8)


def npy_header(rows):
    """Return the header of an .npy file that promises so many rows of 4 numbers."""
    file = io.BytesIO()
    description = {"descr": "<f4", "fortran_order": False, "shape": (rows, 4)}
    np.lib.format.write_array_header_2_0(file, description)
    return file.getvalue()


def zipped(array):
    """Return an archive with one array."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("vectors.npy", array)
    return file.getvalue()


def safetensors_header(rows):
    """Return the header of a .safetensors file that promises so many rows of 4 numbers."""
    entry = {"dtype": "F32", "shape": [rows, 4], "data_offsets": [0, rows * 16]}
    header = json.dumps({"vectors": entry}).encode()
    return len(header).to_bytes(8, "little") + header


@pytest.fixture
def write(tmp_path):
    def write_to(fmt, vectors, texts):
        path = tmp_path / fmt.file_name
        fmt.write(path, vectors, texts)
        return path

    return write_to


def test_says_shape_and_dtype(write, embedding_format, vectors, texts):
    reader = open_embeddings(write(embedding_format, vectors, texts))
    assert reader.num_rows == (7 if embedding_format.num_rows_known else None)
    assert reader.dim == 5
    assert reader.dtype in {"float32", "text"}
    assert reader.has_texts == embedding_format.has_texts


def test_can_be_read_again_in_any_block_size(write, read_all, embedding_format, vectors, texts):
    reader = open_embeddings(write(embedding_format, vectors, texts))
    for block_rows in (None, 1, 2, 7, 100):
        read_vectors, read_texts = read_all(reader, block_rows=block_rows)
        np.testing.assert_array_equal(read_vectors, vectors)
        if embedding_format.has_texts:
            assert read_texts == texts


@PROPERTY
@given(matrix=MATRICES, data=st.data(), block_rows=st.none() | st.integers(1, 10))
def test_gives_back_what_was_written(read_all, file_format, matrix, data, block_rows):
    words = data.draw(st.lists(WORDS, min_size=len(matrix), max_size=len(matrix)))
    # One number a row: csv-columns tells vectors by their several columns.
    assume(matrix.shape[1] > 1 or file_format.name != "csv-columns")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / file_format.file_name
        file_format.write(path, matrix, words)
        reader = open_embeddings(path)
        read_vectors, texts = read_all(reader, block_rows=block_rows, on_bad_row="keep")
    np.testing.assert_array_equal(read_vectors, matrix)
    if file_format.has_texts:
        assert texts == words


def test_bad_row_is_named(write, read_all, embedding_format, vectors, texts):
    for bad in (0.0, np.nan, np.inf, -np.inf):
        vectors[4] = bad
        reader = open_embeddings(write(embedding_format, vectors, texts))
        with pytest.raises(InputDataError, match="has no direction") as caught:
            list(reader.blocks(2))
        assert caught.value.at == "row 4"
        kept, _ = read_all(reader, on_bad_row="keep")
        np.testing.assert_array_equal(kept, vectors)


def test_cut_off_anywhere_is_refused(write, file_format, vectors, texts):
    path = write(file_format, vectors[:4], texts[:4])
    whole = path.read_bytes()
    sizes = {*range(0, len(whole), 1 + len(whole) // 150), *range(len(whole) - 20, len(whole))}
    for size in sorted(sizes):
        path.write_bytes(whole[:size])
        try:
            blocks = list(open_embeddings(path).blocks())
        except InputDataError:
            continue
        rows = np.concatenate([block.vectors for block in blocks])
        assert not file_format.counted or len(rows) == 4, f"{size} bytes gave {len(rows)} rows"
        np.testing.assert_array_equal(rows, vectors[: len(rows)])


@PROPERTY
@given(data=st.data())
def test_damage_is_refused_or_read(file_format, vectors, texts, data):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / file_format.file_name
        file_format.write(path, vectors, texts)
        content = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(1, 4))):
            place = data.draw(st.integers(0, len(content) - 1))
            content[place] = data.draw(st.integers(0, 255))
        path.write_bytes(content)
        try:
            for block in open_embeddings(path).blocks():
                assert np.isfinite(block.vectors).all()
        except InputDataError:
            pass


@PROPERTY
@given(content=st.binary(max_size=300))
def test_nonsense_is_refused(file_format, content):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / file_format.file_name
        path.write_bytes(content + b"\0")
        if path.suffix != ".fvecs":
            with pytest.raises(InputDataError):
                list(open_embeddings(path).blocks())


def test_the_name_does_not_matter(write, read_all, file_format, vectors, texts):
    if file_format.name in {"fvecs", "csv-lists", "csv-columns"}:
        pytest.skip("told by its name")
    path = write(file_format, vectors, texts)
    renamed = path.rename(path.with_name("embeddings"))
    read_vectors, _ = read_all(open_embeddings(renamed))
    np.testing.assert_array_equal(read_vectors, vectors)


def test_no_rows_is_refused(write, file_format, vectors):
    with pytest.raises(InputDataError, match=r"no vectors|empty|cannot be read|without"):
        list(open_embeddings(write(file_format, vectors[:0], [])).blocks())


@pytest.fixture
def memory_peaks():
    """Return a function giving the bytes that Python with numpy, and Arrow, held at most."""
    pool, usual = pa.proxy_memory_pool(pa.default_memory_pool()), pa.default_memory_pool()
    pa.set_memory_pool(pool)
    tracemalloc.start()
    yield lambda: (tracemalloc.get_traced_memory()[1], pool.max_memory())
    tracemalloc.stop()
    pa.set_memory_pool(usual)


def test_memory_stays_small_while_a_cut_off_file_is_refused(
    write, memory_peaks, file_format, vectors, texts
):
    path = write(file_format, vectors, texts)
    whole = path.read_bytes()
    for size in (len(whole) // 3, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with contextlib.suppress(InputDataError):
            list(open_embeddings(path).blocks())
    assert max(memory_peaks()) < 32_000_000


@pytest.mark.parametrize(
    "content",
    [
        b"%d 4\n" % 10**15 + b"a 1 2 3 4\n",
        b"%d 4\n" % 10**15 + b"a " + np.ones(4, "<f4").tobytes() + b"\n",
        gzip.compress(b"%d 4\n" % 10**15 + b"a 1 2 3 4\n"),
        safetensors_header(10**15) + bytes(64),
        npy_header(10**15) + bytes(64),
        zipped(npy_header(10**15) + bytes(64)),
    ],
    ids=["word2vec-text", "word2vec-binary", "word2vec-gzip", "safetensors", "npy", "npz"],
)
def test_memory_stays_small_while_a_promise_of_rows_is_refused(tmp_path, memory_peaks, content):
    path = tmp_path / "embeddings"
    path.write_bytes(content)
    with pytest.raises(InputDataError, match=r"number of rows is wrong|cut off|cannot be read"):
        list(open_embeddings(path).blocks())
    assert max(memory_peaks()) < 32_000_000
