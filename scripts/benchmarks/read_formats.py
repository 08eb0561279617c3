"""Read speed of every embedding format against ``cat`` of the same file, in the same run.

    python scripts/benchmarks/read_formats.py --rows 100000 --dim 384

Writes seeded files into a temporary folder, reads each in turn with ``cat`` and with
``open_embeddings`` (checks included, page cache warm), and prints the medians. For packed and text
formats the last column is their library alone on the same bytes: unpacking without parsing, or
parsing without our checks, which is what limits them.
"""

from __future__ import annotations

import argparse
import gzip
import json
import statistics
import subprocess
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

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

from lightweight_decoder.embeddings import open_embeddings

if TYPE_CHECKING:
    from collections.abc import Callable

    from lightweight_decoder.datatypes import FloatArray

TEXT_SHARE = 8
"""Packed and text files have so many times fewer rows: they take that much longer."""


@dataclass(frozen=True)
class Format:
    """How a file is written, and how its library reads it when nothing else is done.

    ``prepare`` returns that reading as a function, for packed and text formats only.
    """

    name: str
    suffix: str
    write: Callable[[Path, FloatArray], None]
    prepare: Callable[[Path], Callable[[], object]] | None = None
    is_short: bool = False


def main() -> None:
    """Print one line for each format."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    vectors = np.random.default_rng(0).standard_normal((options.rows, options.dim), np.float32)
    print(
        f"{options.rows} x {options.dim}, packed and text ones {options.rows // TEXT_SHARE}; MB/s"
    )
    print(f"{'format':24}{'MB':>8}{'cat':>8}{'read':>8}{'share':>8}{'library alone':>16}")
    for each in formats():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"embeddings{each.suffix}"
            each.write(path, vectors[::TEXT_SHARE] if each.is_short else vectors)
            report(each, path, options.repeats)


def report(each: Format, path: Path, repeats: int) -> None:
    """Measure one file, the three ways in turn, and print the medians."""
    files = list(path.iterdir()) if path.is_dir() else [path]
    ways: list[Callable[[], object]] = [partial(cat, files), partial(read_blocks, path)]
    if each.prepare is not None:
        ways.append(each.prepare(path))
    times = [[seconds(way) for way in ways] for _ in range(repeats)]
    megabytes = sum(file.stat().st_size for file in files) / 1e6
    rates = [megabytes / statistics.median(column) for column in zip(*times, strict=True)]
    limit = "".join(f"{rate:16.0f}" for rate in rates[2:])
    numbers = f"{megabytes:8.0f}{rates[0]:8.0f}{rates[1]:8.0f}{rates[1] / rates[0]:8.1%}{limit}"
    print(f"{each.name:24}{numbers}", flush=True)


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
        Format("npy float32", ".npy", np.save),
        Format("npy float16", ".npy", lambda path, rows: np.save(path, rows.astype(np.float16))),
        Format("npy float64", ".npy", lambda path, rows: np.save(path, rows.astype(np.float64))),
        Format("npy int8", ".npy", lambda path, rows: np.save(path, (rows * 30).astype(np.int8))),
        Format("npz stored", ".npz", lambda path, rows: np.savez(path, vectors=rows)),
        Format("pt", ".pt", lambda path, rows: torch.save(torch.from_numpy(rows), path)),
        Format("safetensors float32", ".safetensors", write_safetensors),
        Format("safetensors float16", ".safetensors", partial(write_safetensors, dtype=half)),
        Format("safetensors bfloat16", ".safetensors", partial(write_safetensors, dtype=brain)),
        Format("arrow list", ".arrow", lambda path, rows: write_arrow(path, lists(rows))),
        Format(
            "arrow fixed-size list", ".arrow", lambda p, rows: write_arrow(p, fixed_lists(rows))
        ),
        Format("hugging face", "", write_hugging_face),
        Format("hdf5", ".h5", write_hdf5),
        Format("fvecs", ".fvecs", write_fvecs),
        Format("word2vec binary", ".bin", write_word2vec_binary),
        Format("parquet list", ".parquet", write_parquet, read_parquet),
        Format("npz packed", ".npz", np.savez_compressed, read_npz, is_short=True),
        Format("word2vec text", ".vec", write_word2vec, parse_numbers, is_short=True),
        Format("word2vec text gzip", ".gz", write_gzip, partial(unpack, "gzip"), is_short=True),
        Format("word2vec text zstd", ".zst", write_zstd, partial(unpack, "zstd"), is_short=True),
        Format("csv list", ".csv", write_csv_lists, parse_numbers, is_short=True),
        Format("csv columns", ".csv", write_csv_columns, parse_csv, is_short=True),
        Format("json lines", ".jsonl", write_json_lines, parse_json, is_short=True),
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


def unpack(codec: str, path: Path) -> Callable[[], object]:
    """Unpack a file and drop what comes out."""

    def read() -> None:
        with pa.OSFile(str(path)) as file, pa.CompressedInputStream(file, codec) as stream:
            while stream.read(2**20):
                pass

    return read


def read_npz(path: Path) -> Callable[[], object]:
    """Unpack with numpy."""
    return lambda: np.load(path)["arr_0"]


def read_parquet(path: Path) -> Callable[[], object]:
    """Decode with Arrow, without our checks."""
    return lambda: list(map(len, pq.ParquetFile(path, memory_map=True).iter_batches(2**12)))


def parse_csv(path: Path) -> Callable[[], object]:
    """Parse with Arrow, the whole file at once."""
    return partial(pa.csv.read_csv, path)


def parse_json(path: Path) -> Callable[[], object]:
    """Parse with Arrow, the whole file at once."""
    return partial(pa.json.read_json, path)


def parse_numbers(path: Path) -> Callable[[], object]:
    """Parse only the file's numbers, in memory already, with Arrow as one column."""
    fields = path.read_bytes().translate(bytes.maketrans(b" ,", b"\n\n"), b'[]"').split(b"\n")
    text = b"\n".join(field for field in fields if not field.startswith((b"p", b"t", b"v")))
    types = {"number": pa.float32()}
    return lambda: pa.csv.read_csv(
        pa.py_buffer(text),
        read_options=pa.csv.ReadOptions(column_names=["number"]),
        convert_options=pa.csv.ConvertOptions(column_types=types),
    )


if __name__ == "__main__":
    main()
