"""What other libraries write, read by ours and by an independent one: the same, or refused."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING, NamedTuple

import h5py
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
import safetensors.numpy
import torch
from gensim.models import KeyedVectors

from lightweight_decoder.errors import InputDataError
from lightweight_decoder.vectors import open_embeddings
from lightweight_decoder.vectors.text_tables import read_columns

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from lightweight_decoder.datatypes import FloatArray

pytestmark = pytest.mark.slow

NUM_FILES = 200
MOST_REFUSED = 10
"""Of 200 files; a reader that refuses what it finds hard would pass otherwise."""

WORDS = (
    "a", "the", "Straße", "日本", "naïve", "🙂", "01234", "1_001", "1984", "-1.50", "1e5", "True",
    "false", "2024-01-31", "NA", "null", "nan", "it's", "a, b", "c; d", "e | f", 'say "hi"',
    'an inch is 1"', '"quoted" and not', "#hash", "= 1 + 1", "end,", "  two  spaces  ",
    "18446744073709551616",
)  # fmt: skip
LINES = ("two\nlines", "a\r\nb", "tab\tin it")


class Case(NamedTuple):
    """A file, what an independent reader found in it, and how ours is asked."""

    path: Path
    vectors: FloatArray | None
    texts: list[str] | None
    options: dict[str, str]


def draw_texts(rng, count, *, lines=True, words=WORDS):
    """Texts as they are hard to read: none is blank, and the first is a word."""
    known = (*words, *LINES) if lines else words
    texts = [" ".join(rng.choice(known, rng.integers(1, 4))) for _ in range(count)]
    return [str(rng.choice(["row", "phrase", "ein Text"])), *texts[1:]]


def draw_vectors(rng, count, *, dtype=np.float32):
    """Numbers of all sizes, some of them whole or zero, no row all zeros."""
    dim = int(rng.integers(2, 7))
    vectors = rng.standard_normal((count, dim)) * 10.0 ** rng.integers(-8, 8, (count, dim))
    vectors[rng.random((count, dim)) < 0.1] = 0
    whole = rng.random((count, dim)) < 0.1
    vectors[whole] = np.round(vectors[whole])
    vectors[:, 0] = rng.uniform(0.5, 2, count)
    return np.clip(vectors, -1e4, 1e4).astype(dtype)


def one_of(rng, *choices):
    return choices[rng.integers(len(choices))]


def compare(make: Callable[[np.random.Generator, Path], Case], tmp_path: Path) -> None:
    """Read many random files both ways."""
    refused = []
    for seed in range(NUM_FILES):
        folder = tmp_path / str(seed)
        folder.mkdir()
        case = make(np.random.default_rng(seed), folder)
        try:
            if case.vectors is None:
                texts = read_columns(case.path, [case.options["text_column"]])
                assert texts[case.options["text_column"]] == case.texts, case.path
                continue
            reader = open_embeddings(case.path, **case.options)
            blocks = list(reader.blocks(int(np.random.default_rng(seed).integers(1, 9))))
        except InputDataError as error:
            refused.append((case.path, error))
            continue
        vectors = np.concatenate([block.vectors for block in blocks])
        np.testing.assert_array_equal(vectors, case.vectors, err_msg=str(case.path))
        if case.texts is not None:
            assert [text for block in blocks for text in block.texts] == case.texts, case.path
    for path, error in refused:
        assert error.where == str(path)
        assert error.found is not None
    assert len(refused) <= MOST_REFUSED, refused[:5]


def pandas_csv(rng, folder):
    count = int(rng.integers(2, 20))
    vectors = draw_vectors(rng, count, dtype=one_of(rng, np.float32, np.float64))
    frame = pd.DataFrame(vectors, columns=[f"dim_{i}" for i in range(vectors.shape[1])])
    sep = one_of(rng, ",", ";", "\t", "|")
    decimal = one_of(rng, ".", ",") if sep in ";\t" else "."
    quoting = one_of(rng, csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC)
    frame.insert(int(rng.integers(0, frame.shape[1])), "text", draw_texts(rng, count))
    encoding = one_of(rng, "utf-8", "utf-8-sig", "utf-16")
    packed = one_of(rng, None, "gzip", "zstd")
    name = "a.tsv" if sep == "\t" else "a.csv"
    path = folder / {None: name, "gzip": name + ".gz", "zstd": name + ".zst"}[packed]
    text = frame.to_csv(
        sep=sep,
        decimal=decimal,
        quoting=quoting,
        index=bool(rng.integers(2)),
        float_format=one_of(rng, None, "%.9g", "%.12f"),
        lineterminator=one_of(rng, "\n", "\r\n"),
    ).encode(encoding)
    path.write_bytes(text if packed is None else pa.compress(text, packed, asbytes=True))
    read = pd.read_csv(
        io.BytesIO(text),
        sep=sep,
        decimal=decimal,
        encoding=encoding,
        dtype={"text": str},
        keep_default_na=False,
    )
    numbers = read[[name for name in read.columns if name.startswith("dim_")]]
    return Case(path, numbers.to_numpy(np.float64).astype(np.float32), list(read["text"]), {})


def csv_without_names(rng, folder):
    count = int(rng.integers(3, 20))
    vectors = draw_vectors(rng, count, dtype=np.float64) + 0.125
    frame = pd.DataFrame(vectors)
    has_texts, has_index = (bool(each) for each in rng.integers(2, size=2))
    if has_texts:
        frame.insert(0, "text", draw_texts(rng, count))
    path = folder / "a.csv"
    frame.to_csv(path, header=False, index=has_index)
    read = pd.read_csv(path, header=None, keep_default_na=False)
    if has_index:
        read = read.iloc[:, 1:]
    texts = list(read.iloc[:, 0]) if has_texts else None
    numbers = read.iloc[:, 1:] if has_texts else read
    return Case(path, numbers.to_numpy(np.float64).astype(np.float32), texts, {})


def tsv_without_quotes(rng, folder):
    count = int(rng.integers(2, 20))
    # one that is in quotation marks all by itself could be quoted
    texts = [f"{text} ." for text in draw_texts(rng, count, lines=False)]
    vectors = draw_vectors(rng, count, dtype=np.float64)
    path = folder / "a.tsv"
    names = ["text", *(f"dim_{i}" for i in range(vectors.shape[1]))]
    rows = ([text, *map(repr, row)] for text, row in zip(texts, vectors.tolist(), strict=True))
    path.write_text("".join("\t".join(row) + "\n" for row in [names, *rows]), encoding="utf-8")
    read = pd.read_csv(
        path,
        sep="\t",
        quoting=csv.QUOTE_NONE,
        dtype={"text": str},
        keep_default_na=False,
    )
    numbers = read.iloc[:, 1:].to_numpy(np.float64).astype(np.float32)
    return Case(path, numbers, list(read["text"]), {})


def csv_of_lists(rng, folder):
    count = int(rng.integers(2, 20))
    vectors = draw_vectors(rng, count)
    spell = one_of(
        rng,
        lambda v: json.dumps(v.tolist()),
        lambda v: str(tuple(v.tolist())),
        str,
        repr,
        lambda v: repr(torch.from_numpy(v)),
    )
    with np.printoptions(precision=9):
        torch.set_printoptions(precision=9)
        texts = list(map(spell, vectors))
        torch.set_printoptions(profile="default")
    frame = pd.DataFrame({"text": draw_texts(rng, count), "embedding": texts})
    path = folder / "a.csv"
    frame.to_csv(path, index=False)
    numbers = [np.float32(_numbers_in(text)) for text in texts]
    return Case(path, np.stack(numbers), frame["text"].tolist(), {})


def _numbers_in(text):
    """Parse a printed vector in another way than ours: by Python's own reader of numbers."""
    inner = text[
        text.index("[" if "[" in text else "(") + 1 : text.rindex("]" if "]" in text else ")")
    ]
    return [float(number) for number in inner.replace(",", " ").split()]


def polars_table(rng, folder):
    count = int(rng.integers(2, 20))
    vectors = draw_vectors(rng, count, dtype=one_of(rng, np.float32, np.float64))
    texts = draw_texts(rng, count)
    kind = one_of(rng, pl.String, pl.Categorical, pl.Enum(sorted(set(texts))))
    numbers = pl.Float32 if vectors.dtype == np.float32 else pl.Float64
    lists = one_of(rng, pl.List(numbers), pl.Array(numbers, vectors.shape[1]))
    frame = pl.DataFrame(
        {"text": pl.Series(texts, dtype=kind), "v": pl.Series(vectors.tolist(), dtype=lists)}
    )
    path = folder / "a"
    write = one_of(rng, "parquet", "ipc", "ipc_stream", "ndjson")
    if write == "ndjson":
        path = path.with_suffix(".jsonl")
        frame.write_ndjson(path)
        read = pl.read_ndjson(path)
    elif write == "parquet":
        frame.write_parquet(path, compression=one_of(rng, "zstd", "snappy", "lz4", "uncompressed"))
        read = pl.read_parquet(path)
    else:
        packed = one_of(rng, "uncompressed", "lz4", "zstd")
        getattr(frame, f"write_{write}")(path, compression=packed)
        read = getattr(pl, f"read_{write}")(path)
    found = np.array(read["v"].to_list(), np.float64).astype(np.float32)
    return Case(path, found, read["text"].cast(pl.String).to_list(), {})


def polars_csv(rng, folder):
    count = int(rng.integers(2, 20))
    vectors = draw_vectors(rng, count)
    frame = pl.DataFrame({"text": draw_texts(rng, count)}).hstack(
        pl.DataFrame(vectors, schema=[f"dim_{i}" for i in range(vectors.shape[1])])
    )
    sep = one_of(rng, ",", ";", "\t", "|")
    path = folder / ("a.tsv" if sep == "\t" else "a.csv")
    style = one_of(rng, "necessary", "always", "non_numeric")
    frame.write_csv(path, separator=sep, quote_style=style, include_bom=bool(rng.integers(2)))
    read = pl.read_csv(path, separator=sep, schema_overrides={"text": pl.String}, infer_schema=True)
    numbers = read.drop("text").cast(pl.Float64).to_numpy().astype(np.float32)
    return Case(path, numbers, read["text"].to_list(), {})


def pandas_json(rng, folder):
    count = int(rng.integers(2, 20))
    vectors = draw_vectors(rng, count, dtype=np.float64)
    labels = one_of(
        rng,
        draw_texts(rng, count),
        rng.integers(-9, 9, count).tolist(),
        rng.choice([True, False], count).tolist(),
    )
    frame = pd.DataFrame({"text": labels, "v": vectors.tolist()})
    path = folder / "a.json"
    lines = bool(rng.integers(2))
    frame.to_json(path, orient="records", lines=lines, double_precision=15)
    read = pl.read_ndjson(path) if lines else pl.read_json(path)
    texts = [str(label) for label in read["text"].to_list()]
    return Case(path, np.array(read["v"].to_list()).astype(np.float32), texts, {})


def arrow_table(rng, folder):
    count = int(rng.integers(2, 20))
    vectors = draw_vectors(rng, count, dtype=one_of(rng, np.float16, np.float32, np.float64))
    vectors = np.where(np.isfinite(vectors), vectors, 1).astype(vectors.dtype)
    numbers = pa.from_numpy_dtype(vectors.dtype)
    lists = one_of(
        rng, pa.list_(numbers), pa.large_list(numbers), pa.list_(numbers, vectors.shape[1])
    )
    texts = draw_texts(rng, count)
    strings = one_of(rng, pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string()))
    table = pa.table({"v": pa.array(list(vectors), lists), "text": pa.array(texts).cast(strings)})
    path = folder / "a"
    if rng.integers(2):
        pq.write_table(table, path, row_group_size=int(rng.integers(1, 9)))
        read = pq.read_table(path)
    else:
        packed = one_of(rng, "uncompressed", "lz4", "zstd")
        pa.feather.write_feather(table, path, compression=packed, chunksize=int(rng.integers(1, 9)))
        read = pa.feather.read_table(path)
    found = np.array(read["v"].to_pylist(), np.float64).astype(np.float32)
    return Case(path, found, read["text"].to_pylist(), {})


def wide_parquet(rng, folder):
    count = int(rng.integers(2, 20))
    vectors = draw_vectors(rng, count, dtype=one_of(rng, np.float32, np.float64))
    frame = pd.DataFrame(vectors, columns=[str(i) for i in range(vectors.shape[1])])
    frame["score"] = rng.random(count)
    frame["text"] = draw_texts(rng, count)
    path = folder / "a.parquet"
    frame.to_parquet(path, index=bool(rng.integers(2)))
    read = pl.read_parquet(path)
    numbers = read.select(str(i) for i in range(vectors.shape[1])).cast(pl.Float64).to_numpy()
    return Case(path, numbers.astype(np.float32), read["text"].to_list(), {})


def arrow_csv(rng, folder):
    count = int(rng.integers(2, 20))
    vectors = draw_vectors(rng, count, dtype=np.float64)
    columns = {f"d{i}": vectors[:, i] for i in range(vectors.shape[1])}
    table = pa.table({"text": draw_texts(rng, count, lines=False), **columns})
    sep = one_of(rng, ",", ";", "\t", "|")
    path = folder / ("a.tsv" if sep == "\t" else "a.csv")
    style = one_of(rng, "needed", "all_valid")
    options = pa.csv.WriteOptions(delimiter=sep, quoting_style=style)
    pa.csv.write_csv(table, path, options)
    read = pa.csv.read_csv(
        path,
        parse_options=pa.csv.ParseOptions(delimiter=sep),
        convert_options=pa.csv.ConvertOptions(column_types={"text": pa.string()}),
    )
    numbers = np.column_stack([read[name].to_numpy() for name in columns]).astype(np.float32)
    return Case(path, numbers, read["text"].to_pylist(), {})


def numpy_arrays(rng, folder):
    count = int(rng.integers(1, 20))
    dtype = one_of(rng, "<f2", ">f2", "<f4", ">f4", "<f8", ">f8", "i1")
    vectors = (rng.standard_normal((count, int(rng.integers(1, 9)))) * 9 + 50).astype(dtype)
    vectors = one_of(rng, np.ascontiguousarray, np.asfortranarray)(vectors)
    if rng.integers(2):
        np.save(folder / "a.npy", vectors)
        return Case(folder / "a.npy", np.load(folder / "a.npy").astype(np.float32), None, {})
    texts = np.array(draw_texts(rng, count))
    one_of(rng, np.savez, np.savez_compressed)(folder / "a.npz", v=vectors, text=texts)
    with np.load(folder / "a.npz") as read:
        return Case(folder / "a.npz", read["v"].astype(np.float32), read["text"].tolist(), {})


def numpy_text(rng, folder):
    vectors = draw_vectors(rng, int(rng.integers(2, 20)), dtype=np.float64)
    sep = one_of(rng, ",", ";", "\t", ", ")
    names = sep.join(f"d{i}" for i in range(vectors.shape[1]))
    path = folder / "a.csv"
    options = {"header": names, "comments": one_of(rng, "# ", "#", "")} if rng.integers(2) else {}
    np.savetxt(path, vectors, delimiter=sep, fmt=one_of(rng, "%.18e", "%.9g", "%.17g"), **options)
    read = np.loadtxt(path, delimiter=sep.strip(" "), skiprows=int(bool(options)), ndmin=2)
    return Case(path, read.astype(np.float32), None, {})


def gensim_vectors(rng, folder):
    count = int(rng.integers(2, 20))
    vectors = draw_vectors(rng, count)
    keyed = KeyedVectors(vectors.shape[1])
    words = [
        word
        for word in WORDS
        if " " not in word and not word.lstrip("-").replace(".", "").isdecimal()
    ]
    keyed.add_vectors([f"{words[i % len(words)]}_{i}" for i in range(count)], vectors)
    path = folder / one_of(rng, "a.vec", "a.txt", "a.vec.gz")
    is_binary, has_header = bool(rng.integers(2)), True
    if not is_binary:
        has_header = bool(rng.integers(2))
    keyed.save_word2vec_format(str(path), binary=is_binary, write_header=has_header)
    read = KeyedVectors.load_word2vec_format(str(path), binary=is_binary, no_header=not has_header)
    return Case(path, read.vectors, read.index_to_key, {})


def tensors(rng, folder):
    count = int(rng.integers(1, 20))
    vectors = draw_vectors(rng, count, dtype=one_of(rng, np.float32, np.float64))
    ids = np.arange(count * 3).reshape(count, 3)
    kind = one_of(rng, "pt", "safetensors", "h5")
    path = folder / f"a.{kind}"
    if kind == "pt":
        torch.save({"v": torch.from_numpy(vectors), "ids": torch.from_numpy(ids)}, path)
        read = torch.load(path, weights_only=True)["v"].numpy()
    elif kind == "safetensors":
        safetensors.numpy.save_file({"v": vectors, "ids": ids}, path)
        read = safetensors.numpy.load_file(path)["v"]
    else:
        with h5py.File(path, "w") as file:
            file["v"], file["ids"] = vectors, ids
        with h5py.File(path) as file:
            read = file["v"][:]
    return Case(path, read.astype(np.float32), None, {})


def labels_in_a_table(rng, folder):
    """Values that are no texts: the same texts in every format, those of pandas' CSV."""
    count = int(rng.integers(2, 20))
    day = pd.Timestamp("2024-02-28")
    label = one_of(
        rng,
        pd.Series(rng.choice([True, False], count)),
        pd.Series(rng.integers(-(2**62), 2**62, count)),
        pd.Series(rng.integers(0, 2**64, count, dtype=np.uint64)),
        pd.Series(draw_vectors(rng, count, dtype=np.float64)[:, 1]),
        pd.Series(draw_vectors(rng, count)[:, 1]),
        pd.Series([day + pd.Timedelta(int(days), "D") for days in rng.integers(0, 999, count)]),
        pd.Series([day + pd.Timedelta(int(s), "s") for s in rng.integers(1, 86_399, count)]),
        pd.Series([day + pd.Timedelta(int(us), "us") for us in rng.integers(1, 999_999, count)]),
        pd.Series(draw_texts(rng, count)).astype("category"),
    )
    frame = pd.DataFrame({"label": label, "other": range(count)})
    frame.to_csv(folder / "a.csv", index=False)
    frame.to_parquet(folder / "a.parquet")
    texts = pd.read_csv(folder / "a.csv", dtype=str, keep_default_na=False)["label"].tolist()
    path = folder / one_of(rng, "a.csv", "a.parquet")
    return Case(path, None, texts, {"text_column": "label"})


@pytest.mark.parametrize(
    "make",
    [
        pandas_csv,
        csv_without_names,
        tsv_without_quotes,
        csv_of_lists,
        polars_table,
        polars_csv,
        pandas_json,
        arrow_table,
        wide_parquet,
        arrow_csv,
        numpy_arrays,
        numpy_text,
        gensim_vectors,
        tensors,
        labels_in_a_table,
    ],
    ids=lambda make: make.__name__,
)
# gensim leaves its file open where there is no header
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_what_others_write_is_read_as_others_read_it(tmp_path, make):
    compare(make, tmp_path)
