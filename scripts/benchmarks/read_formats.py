"""Read speed of every embedding format against ``cat`` of the same file, in the same run.

    python scripts/benchmarks/read_formats.py --rows 100000 --dim 384 --output formats.csv

Writes seeded files into a temporary folder, reads each in turn with ``cat``, with
``open_embeddings`` (checks included, page cache warm) and with the format's library alone, and
prints the medians. The library gives no float32 blocks and checks nothing: for packed and text
formats that unpacking, or that parsing, is what limits a reader.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import statistics
import subprocess
import tempfile
import time
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import datasets
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.ipc
import pyarrow.json
import pyarrow.parquet as pq
import safetensors.torch
import torch

from lightweight_decoder.vectors import open_embeddings

if TYPE_CHECKING:
    from collections.abc import Callable

    from lightweight_decoder.datatypes import FloatArray

TEXT_SHARE = 8
"""Packed and text files have so many times fewer rows: they take that much longer."""


@dataclass(frozen=True)
class Format:
    """How a file is written, and how its library reads it when nothing else is done.

    ``alone`` is None where no library that is kept here reads the format.
    """

    name: str
    suffix: str
    write: Callable[[Path, FloatArray], None]
    alone: Callable[[Path], object] | None = None
    is_short: bool = False


def main() -> None:
    """Print one line for each format."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--formats", nargs="+", choices=[each.name for each in formats()])
    parser.add_argument("--output", type=Path, help="a CSV file for the same figures")
    options = parser.parse_args()
    vectors = np.random.default_rng(0).standard_normal((options.rows, options.dim), np.float32)
    print(f"{options.rows} x {options.dim}, short ones {options.rows // TEXT_SHARE}; MB/s")
    print(f"{'format':22}{'MB':>6}{'cat':>8}{'read':>8}{'share':>8}{'library':>9}{'share':>8}")
    figures = []
    for each in formats():
        if options.formats is not None and each.name not in options.formats:
            continue
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"embeddings{each.suffix}"
            each.write(path, vectors[::TEXT_SHARE] if each.is_short else vectors)
            figures.append(measure(each, path, options.repeats))
        print_figures(figures[-1])
    if options.output is not None:
        with options.output.open("w", newline="") as file:
            writer = csv.DictWriter(file, Figures._fields)
            writer.writeheader()
            writer.writerows(each._asdict() for each in figures)


class Figures(NamedTuple):
    """Megabytes of a file, and megabytes a second of the ways to read it."""

    name: str
    megabytes: float
    cat: float
    read: float
    alone: float | None


def measure(each: Format, path: Path, repeats: int) -> Figures:
    """Measure one file, the three ways in turn, and return the medians."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    ways: list[Callable[[], object]] = [partial(cat, files), partial(read_blocks, path)]
    if each.alone is not None:
        ways.append(partial(each.alone, path))
    for way in ways:
        way()
    times = [[seconds(way) for way in ways] for _ in range(repeats)]
    megabytes = sum(file.stat().st_size for file in files) / 1e6
    rates = [megabytes / statistics.median(column) for column in zip(*times, strict=True)]
    return Figures(each.name, megabytes, rates[0], rates[1], rates[2] if len(rates) > 2 else None)  # noqa: PLR2004


def print_figures(found: Figures) -> None:
    """Print one line of the table."""
    numbers = (
        f"{found.megabytes:6.0f}{found.cat:8.0f}{found.read:8.0f}{found.read / found.cat:8.1%}"
    )
    alone = "" if found.alone is None else f"{found.alone:9.0f}{found.alone / found.cat:8.1%}"
    print(f"{found.name:22}{numbers}{alone}", flush=True)


def seconds(work: Callable[[], object]) -> float:
    """Time one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def cat(files: list[Path]) -> None:
    """Read the bytes and do nothing with them."""
    subprocess.run(["/bin/cat", *files], stdout=subprocess.DEVNULL, check=True)


def read_blocks(path: Path) -> None:
    """Read everything, as a user would."""
    for _ in open_embeddings(path).blocks():
        pass


def formats() -> list[Format]:
    """Return every format, those that are stored plainly first."""
    half, brain = torch.float16, torch.bfloat16
    return [
        Format("npy float32", ".npy", np.save, np.load),
        Format("npy float16", ".npy", lambda p, rows: np.save(p, rows.astype(np.float16)), np.load),
        Format("npy float64", ".npy", lambda p, rows: np.save(p, rows.astype(np.float64)), np.load),
        Format(
            "npy int8", ".npy", lambda p, rows: np.save(p, (rows * 30).astype(np.int8)), np.load
        ),
        Format("npz stored", ".npz", np.savez, load_npz),
        Format(
            "pt", ".pt", lambda path, rows: torch.save(torch.from_numpy(rows), path), torch.load
        ),
        Format("safetensors float32", ".safetensors", write_safetensors, load_safetensors),
        Format(
            "safetensors float16",
            ".safetensors",
            partial(write_safetensors, dtype=half),
            load_safetensors,
        ),
        Format(
            "safetensors bfloat16",
            ".safetensors",
            partial(write_safetensors, dtype=brain),
            load_safetensors,
        ),
        Format("arrow list", ".arrow", lambda p, rows: write_arrow(p, lists(rows)), load_arrow),
        Format(
            "arrow fixed-size list",
            ".arrow",
            lambda p, rows: write_arrow(p, fixed_lists(rows)),
            load_arrow,
        ),
        Format("hugging face", "", write_hugging_face, load_hugging_face),
        Format("hdf5", ".h5", write_hdf5, load_hdf5),
        Format("fvecs", ".fvecs", write_fvecs, partial(np.fromfile, dtype="<f4")),
        Format("word2vec binary", ".bin", write_word2vec_binary),
        Format("shards of npy", "", write_shards, load_shards),
        Format("parquet plain", ".parquet", write_parquet, load_parquet),
        Format(
            "parquet default",
            ".parquet",
            lambda p, rows: pq.write_table(lists(rows), p),
            load_parquet,
        ),
        Format("npz packed", ".npz", np.savez_compressed, load_npz, is_short=True),
        Format("word2vec text", ".vec", write_word2vec, parse_numbers, is_short=True),
        Format("glove", ".txt", write_glove, parse_numbers, is_short=True),
        Format("word2vec text gzip", ".gz", write_gzip, partial(unpack, "gzip"), is_short=True),
        Format("word2vec text zstd", ".zst", write_zstd, partial(unpack, "zstd"), is_short=True),
        Format("csv list", ".csv", write_csv_lists, parse_numbers, is_short=True),
        Format("csv columns", ".csv", write_csv_columns, pa.csv.read_csv, is_short=True),
        Format("json lines", ".jsonl", write_json_lines, pa.json.read_json, is_short=True),
    ]


def write_safetensors(path: Path, rows: FloatArray, dtype: torch.dtype = torch.float32) -> None:
    """Write one tensor."""
    safetensors.torch.save_file({"vectors": torch.from_numpy(rows).to(dtype)}, path)


def texts(rows: FloatArray) -> list[str]:
    """Return a text a row."""
    return [f"phrase_{row}" for row in range(len(rows))]


def lists(rows: FloatArray) -> pa.Table:
    """Return texts and vectors as a table with a list column."""
    offsets = np.arange(len(rows) + 1, dtype=np.int32) * rows.shape[1]
    column = pa.ListArray.from_arrays(offsets, pa.array(rows.ravel()))
    return pa.table({"text": texts(rows), "vector": column})


def fixed_lists(rows: FloatArray) -> pa.Table:
    """Return texts and vectors as a table with a fixed-size-list column."""
    column = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), rows.shape[1])
    return pa.table({"text": texts(rows), "vector": column})


def write_arrow(path: Path, table: pa.Table) -> None:
    """Write an Arrow IPC file."""
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=2**16)


def write_parquet(path: Path, rows: FloatArray) -> None:
    """Write Parquet without compression or dictionaries."""
    pq.write_table(lists(rows), path, compression="none", use_dictionary=False)


def write_hdf5(path: Path, rows: FloatArray) -> None:
    """Write one data set."""
    with h5py.File(path, "w") as file:
        file["vectors"] = rows


def write_fvecs(path: Path, rows: FloatArray) -> None:
    """Write each row behind its width."""
    widths = np.full((len(rows), 1), rows.shape[1], dtype="<i4").view("<f4")
    np.hstack([widths, rows]).tofile(path)


def write_word2vec_binary(path: Path, rows: FloatArray) -> None:
    """Write word2vec's binary file."""
    with path.open("wb") as file:
        file.write(b"%d %d\n" % rows.shape)
        for text, row in zip(texts(rows), rows, strict=True):
            file.write(text.encode() + b" " + row.tobytes() + b"\n")


def write_hugging_face(path: Path, rows: FloatArray) -> None:
    """Write a data set to disk."""
    datasets.disable_progress_bars()
    datasets.Dataset(lists(rows)).save_to_disk(path)


def write_word2vec(path: Path, rows: FloatArray) -> None:
    """Write word2vec's text file, six digits a number as it does."""
    with path.open("wb") as file:
        file.write(b"%d %d\n" % rows.shape)
        for text, row in zip(texts(rows), rows.tolist(), strict=True):
            file.write(text.encode() + b"".join(b" %f" % number for number in row) + b"\n")


def write_csv_lists(path: Path, rows: FloatArray) -> None:
    """Write a column of JSON lists."""
    with path.open("w") as file:
        file.write("text,vector\n")
        for text, row in zip(texts(rows), rows.tolist(), strict=True):
            file.write(f'{text},"[{", ".join(f"{number:f}" for number in row)}]"\n')


def write_csv_columns(path: Path, rows: FloatArray) -> None:
    """Write a column a number."""
    with path.open("w") as file:
        file.write(",".join(["text", *map(str, range(rows.shape[1]))]) + "\n")
        for text, row in zip(texts(rows), rows.tolist(), strict=True):
            file.write(f"{text},{','.join(f'{number:f}' for number in row)}\n")


def write_json_lines(path: Path, rows: FloatArray) -> None:
    """Write an object a line."""
    with path.open("w") as file:
        for text, row in zip(texts(rows), rows.tolist(), strict=True):
            vector = [round(number, 6) for number in row]
            file.write(json.dumps({"text": text, "vector": vector}) + "\n")


def write_gzip(path: Path, rows: FloatArray) -> None:
    """Write word2vec's text inside gzip, at its fastest level: unpacking costs the same."""
    write_word2vec(path, rows)
    path.write_bytes(gzip.compress(path.read_bytes(), compresslevel=1))


def write_zstd(path: Path, rows: FloatArray) -> None:
    """Write word2vec's text inside zstd."""
    write_word2vec(path, rows)
    path.write_bytes(pa.compress(path.read_bytes(), "zstd", asbytes=True))


def write_glove(path: Path, rows: FloatArray) -> None:
    """Write word2vec's text without its first line, which is GloVe's (and fastText's) layout."""
    write_word2vec(path, rows)
    path.write_bytes(path.read_bytes().partition(b"\n")[2])


def write_shards(path: Path, rows: FloatArray) -> None:
    """Write eight files."""
    path.mkdir()
    for number, part in enumerate(np.array_split(rows, 8)):
        np.save(path / f"{number}.npy", part)


def unpack(codec: str, path: Path) -> None:
    """Unpack a file and drop what comes out."""
    with pa.OSFile(str(path)) as file, pa.CompressedInputStream(file, codec) as stream:
        while stream.read(2**20):
            pass


def load_npz(path: Path) -> object:
    """Read with numpy."""
    return np.load(path)["arr_0"]


def load_safetensors(path: Path) -> object:
    """Copy the tensor out of the mapped file, which alone reads nothing."""
    return safetensors.torch.load_file(path)["vectors"].clone()


def load_arrow(path: Path) -> object:
    """Read with Arrow, not mapped, since that alone reads nothing."""
    with pa.OSFile(str(path)) as file:
        return pa.ipc.open_file(file).read_all()


def load_hugging_face(path: Path) -> object:
    """Read into memory with the library's own switch."""
    return datasets.load_from_disk(path, keep_in_memory=True)


def load_hdf5(path: Path) -> object:
    """Read with h5py."""
    with h5py.File(path) as file:
        return file["vectors"][:]


def load_shards(path: Path) -> object:
    """Read one file after the other with numpy."""
    return [len(np.load(shard)) for shard in sorted(path.iterdir())]


def load_parquet(path: Path) -> object:
    """Decode with Arrow, a block's rows at a time."""
    with pq.ParquetFile(path, memory_map=True) as file:
        return list(map(len, file.iter_batches(682, use_threads=False)))


def parse_numbers(path: Path) -> object:
    """Parse only the file's numbers with Arrow as one column; see ``numbers_of``."""
    return pa.csv.read_csv(
        numbers_of(path),
        read_options=pa.csv.ReadOptions(column_names=["number"]),
        convert_options=pa.csv.ConvertOptions(column_types={"number": pa.float32()}),
    )


@cache
def numbers_of(path: Path) -> pa.Buffer:
    """Return the numbers of a text file, one a line, in memory."""
    fields = path.read_bytes().translate(bytes.maketrans(b" ,", b"\n\n"), b'[]"').split(b"\n")
    return pa.py_buffer(
        b"\n".join(field for field in fields if not field.startswith((b"p", b"t", b"v")))
    )


if __name__ == "__main__":
    main()
