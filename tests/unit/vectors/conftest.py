"""Every format with a writer that shares no code with its reader; contract tests run on all."""

from __future__ import annotations

import csv
import gzip
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from lightweight_decoder.datatypes import FloatArray


@dataclass(frozen=True)
class Format:
    """One way to write (n, d) vectors and n texts.

    ``counted`` says whether the file tells how many rows it has, so that losing whole rows shows.
    """

    name: str
    file_name: str
    write: Callable[[Path, FloatArray, Sequence[str]], None]
    has_texts: bool = True
    counted: bool = True
    num_rows_known: bool = True


def write_npy(path, vectors, texts):
    np.save(path, vectors)


def write_npy_fortran(path, vectors, texts):
    np.save(path, np.asfortranarray(vectors))


def write_npz(path, vectors, texts):
    np.savez(path, vectors=vectors, text=np.array(texts, dtype=str))


def write_npz_compressed(path, vectors, texts):
    np.savez_compressed(path, vectors=vectors)


def write_pt(path, vectors, texts):
    torch.save(torch.from_numpy(vectors), path)


def write_pt_dict(path, vectors, texts):
    torch.save({"step": 3, "vectors": torch.from_numpy(vectors), "text": list(texts)}, path)


def write_safetensors(path, vectors, texts):
    safetensors.torch.save_file({"vectors": torch.from_numpy(vectors)}, path)


def arrow_table(vectors, texts, *, fixed=False):
    numbers = pa.array(vectors.ravel())
    if fixed:
        lists = pa.FixedSizeListArray.from_arrays(numbers, vectors.shape[1])
    else:
        offsets = np.arange(len(vectors) + 1, dtype=np.int32) * vectors.shape[1]
        lists = pa.ListArray.from_arrays(offsets, numbers)
    return pa.table({"id": range(len(vectors)), "embedding": lists, "text": list(texts)})


def write_parquet(path, vectors, texts):
    pq.write_table(arrow_table(vectors, texts), path, row_group_size=3)


def write_parquet_fixed(path, vectors, texts):
    pq.write_table(arrow_table(vectors, texts, fixed=True), path)


def write_arrow_file(path, vectors, texts):
    table = arrow_table(vectors, texts, fixed=True)
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=3)


def write_feather_compressed(path, vectors, texts):
    table = arrow_table(vectors, texts)
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with pa.ipc.new_file(path, table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=3)


def write_arrow_stream(path, vectors, texts):
    table = arrow_table(vectors, texts)
    with pa.ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=3)


def write_csv_lists(path, vectors, texts):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "vector"])
        for text, vector in zip(texts, vectors.tolist(), strict=True):
            writer.writerow([text, json.dumps(vector)])


def write_csv_columns(path, vectors, texts):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "text", *(f"dim_{i}" for i in range(vectors.shape[1]))])
        for row, (text, vector) in enumerate(zip(texts, vectors.tolist(), strict=True)):
            writer.writerow([row, text, *vector])


def json_lines(vectors, texts):
    return "".join(
        json.dumps({"text": text, "more": {"a": [1]}, "embedding": vector}) + "\n"
        for text, vector in zip(texts, vectors.tolist(), strict=True)
    ).encode()


def write_json_lines(path, vectors, texts):
    path.write_bytes(json_lines(vectors, texts))


def word_lines(vectors, texts, *, end=""):
    return "".join(
        " ".join([text, *map(repr, vector)]) + end + "\n"
        for text, vector in zip(texts, vectors.tolist(), strict=True)
    ).encode()


def write_glove(path, vectors, texts):
    path.write_bytes(word_lines(vectors, texts))


def word2vec_text(vectors, texts):
    return b"%d %d\n" % vectors.shape + word_lines(vectors, texts, end=" ")


def write_word2vec_text(path, vectors, texts):
    path.write_bytes(word2vec_text(vectors, texts))


def write_word2vec_gzip(path, vectors, texts):
    path.write_bytes(gzip.compress(word2vec_text(vectors, texts)))


def write_json_lines_zstd(path, vectors, texts):
    path.write_bytes(pa.compress(json_lines(vectors, texts), "zstd", asbytes=True))


def word2vec_binary(vectors, texts):
    rows = (
        text.replace(" ", "_").encode() + b" " + vector.astype("<f4").tobytes() + b"\n"
        for text, vector in zip(texts, vectors, strict=True)
    )
    return b"%d %d\n" % vectors.shape + b"".join(rows)


def write_word2vec_binary(path, vectors, texts):
    path.write_bytes(word2vec_binary(vectors, texts))


def write_word2vec_binary_gzip(path, vectors, texts):
    path.write_bytes(gzip.compress(word2vec_binary(vectors, texts)))


def write_fvecs(path, vectors, texts):
    widths = np.full((len(vectors), 1), vectors.shape[1], dtype="<i4")
    path.write_bytes(np.hstack([widths.view("<f4"), vectors.astype("<f4")]).tobytes())


def write_hdf5(path, vectors, texts):
    with h5py.File(path, "w") as file:
        file["vectors"] = vectors
        file["text"] = list(texts)


def write_hdf5_chunked(path, vectors, texts):
    with h5py.File(path, "w") as file:
        chunks = (max(1, min(2, len(vectors))), vectors.shape[1])
        file.create_dataset(
            "group/vectors", data=vectors, chunks=chunks, maxshape=(None, None), compression="gzip"
        )


def write_hugging_face(path, vectors, texts):
    import datasets

    data_set = datasets.Dataset.from_dict({"embedding": vectors.tolist(), "text": list(texts)})
    data_set = data_set.cast_column("embedding", datasets.List(datasets.Value("float32")))
    datasets.disable_progress_bars()
    data_set.save_to_disk(path)


FILE_FORMATS = [
    Format("npy", "a.npy", write_npy, has_texts=False),
    Format("npy-fortran", "a.npy", write_npy_fortran, has_texts=False),
    Format("npz", "a.npz", write_npz),
    Format("npz-compressed", "a.npz", write_npz_compressed, has_texts=False),
    Format("pt", "a.pt", write_pt, has_texts=False),
    Format("pt-dict", "a.pth", write_pt_dict),
    Format("safetensors", "a.safetensors", write_safetensors, has_texts=False),
    Format("parquet", "a.parquet", write_parquet),
    Format("parquet-fixed", "a.parquet", write_parquet_fixed),
    Format("arrow-file", "a.arrow", write_arrow_file),
    Format("feather-lz4", "a.feather", write_feather_compressed),
    Format("arrow-stream", "a.arrows", write_arrow_stream),
    Format("csv-lists", "a.csv", write_csv_lists, counted=False, num_rows_known=False),
    Format("csv-columns", "a.csv", write_csv_columns, counted=False, num_rows_known=False),
    Format("jsonl", "a.jsonl", write_json_lines, counted=False, num_rows_known=False),
    Format("jsonl-zstd", "a.jsonl.zst", write_json_lines_zstd, num_rows_known=False),
    Format("glove", "a.txt", write_glove, counted=False, num_rows_known=False),
    Format("word2vec-text", "a.vec", write_word2vec_text),
    Format("word2vec-text-gzip", "a.vec.gz", write_word2vec_gzip),
    Format("word2vec-binary", "a.bin", write_word2vec_binary),
    Format("word2vec-binary-gzip", "a.bin.gz", write_word2vec_binary_gzip),
    Format("fvecs", "a.fvecs", write_fvecs, has_texts=False, counted=False),
    Format("hdf5", "a.h5", write_hdf5),
    Format("hdf5-chunked", "a.h5", write_hdf5_chunked, has_texts=False),
]
FORMATS = [*FILE_FORMATS, Format("hugging-face", "a", write_hugging_face)]


@pytest.fixture(params=FORMATS, ids=lambda each: each.name)
def embedding_format(request) -> Format:
    return request.param


@pytest.fixture(params=FILE_FORMATS, ids=lambda each: each.name)
def file_format(request) -> Format:
    return request.param


@pytest.fixture
def vectors() -> FloatArray:
    return np.random.default_rng(0).standard_normal((7, 5)).astype(np.float32)


@pytest.fixture
def texts() -> list[str]:
    return ["the", "naïve", "日本", "the", "a", "b,c", 'x"y']


@pytest.fixture(scope="session")
def read_all():
    """Return a function that reads everything, having checked that the blocks join up."""

    def read(reader, **options):
        vectors, texts, row = [], [], 0
        for block in reader.blocks(**options):
            assert block.first_row == row
            assert block.vectors.dtype == np.float32
            assert block.vectors.flags.writeable
            assert block.vectors.flags.c_contiguous
            assert (block.texts is not None) == reader.has_texts
            row += len(block.vectors)
            vectors.append(block.vectors)
            texts.extend(block.texts or [])
        return np.concatenate(vectors), texts if reader.has_texts else None

    return read
