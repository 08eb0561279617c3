"""What every format must do, checked against writers that share no code with the readers."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lightweight_decoder.embeddings import open_embeddings
from lightweight_decoder.errors import InputDataError


def written(directory, fmt, vectors, texts):
    path = Path(directory) / fmt.file_name
    fmt.write(path, vectors, texts)
    return path


def test_says_shape_and_dtype(tmp_path, embedding_format, vectors, texts):
    reader = open_embeddings(written(tmp_path, embedding_format, vectors, texts))
    assert reader.num_rows == (7 if embedding_format.num_rows_known else None)
    assert reader.dim == 5
    assert reader.dtype in {"float32", "text"}
    assert reader.has_texts == embedding_format.has_texts


@pytest.mark.parametrize("block_rows", [None, 1, 2, 7, 100])
def test_gives_back_what_was_written(
    tmp_path, read_all, embedding_format, vectors, texts, block_rows
):
    reader = open_embeddings(written(tmp_path, embedding_format, vectors, texts))
    for _ in range(2):
        read_vectors, read_texts = read_all(reader, block_rows=block_rows)
        np.testing.assert_array_equal(read_vectors, vectors)
        if embedding_format.has_texts:
            assert read_texts == texts
