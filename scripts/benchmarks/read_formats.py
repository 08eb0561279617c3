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
    from collections.abc import Callable, Iterator

    from lightweight_decoder.datatypes import FloatArray

TEXT_SHARE = 8
"""Text files are so many times shorter: they are read that much slower."""


def main() -> None:
    """Print one line for each format."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    vectors = np.random.default_rng(0).standard_normal((options.rows, options.dim), np.float32)
    print(f"{options.rows} x {options.dim}, text formats {options.rows // TEXT_SHARE} rows, MB/s")
    print(f"{'format':24}{'MB':>8}{'cat':>8}{'read':>8}{'share':>8}{'library alone':>16}")
    for name, write, alone in formats():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name.replace(" ", "-").replace("-.", ".")
            write(path, vectors if alone in (None, read_parquet) else vectors[::TEXT_SHARE])
            report(name, path, alone, options.repeats)


def report(name: str, path: Path, alone: Callable[[Path], object] | None, repeats: int) -> None:
    """Measure one file and print its line."""
    size = sum(file.stat().st_size for file in path.rglob("*")) or path.stat().st_size
    files = [str(file) for file in path.iterdir()] if path.is_dir() else [str(path)]
    cat, read, library = [], [], []
    for _ in range(repeats):
        cat.append(
            seconds(
                lambda: subprocess.run(["/bin/cat", *files], stdout=subprocess.DEVNULL, check=True)
            )
        )
        read.append(seconds(lambda: read_blocks(path)))
        if alone is not None:
            library.append(seconds(lambda: alone(path)))
    rates = [size / 1e6 / statistics.median(each) for each in (cat, read, library) if each]
    limit = f"{rates[2]:16.0f}" if alone is not None else ""
    share = rates[1] / rates[0]
    print(
        f"{name:24}{size / 1e6:8.0f}{rates[0]:8.0f}{rates[1]:8.0f}{share:8.1%}{limit}", flush=True
    )


def seconds(work: Callable[[], object]) -> float:
    """Time one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def read_blocks(path: Path) -> None:
    """Read everything, as a user would."""
    for _ in open_embeddings(path).blocks():
        pass


def formats() -> Iterator[tuple[str, Callable[[Path, FloatArray], None], Callable | None]]:
    """Yield name with suffix, writer, and for packed and text formats their library alone."""
    yield "float32 .npy", np.save, None
    yield "float16 .npy", lambda path, rows: np.save(path, rows.astype(np.float16)), None
    yield "float64 .npy", lambda path, rows: np.save(path, rows.astype(np.float64)), None
    yield "int8 .npy", lambda path, rows: np.save(path, (rows * 30).astype(np.int8)), None
    yield "stored .npz", lambda path, rows: np.savez(path, vectors=rows), None
    yield "float32 .pt", lambda path, rows: torch.save(torch.from_numpy(rows), path), None
    yield (
        "float32 .safetensors",
        lambda path, rows: write_safetensors(path, rows, torch.float32),
        None,
    )
    yield (
        "float16 .safetensors",
        lambda path, rows: write_safetensors(path, rows, torch.float16),
        None,
    )
    yield (
        "bfloat16 .safetensors",
        lambda path, rows: write_safetensors(path, rows, torch.bfloat16),
        None,
    )
    yield "list .arrow", lambda path, rows: write_arrow(path, lists(rows)), None
    yield "fixed-size list .arrow", lambda path, rows: write_arrow(path, fixed_lists(rows)), None
    yield "plain .parquet", write_plain_parquet, read_parquet
    yield "fixed-size .parquet", write_fixed_parquet, read_parquet
    yield "float32 .h5", write_hdf5, None
    yield "float32 .fvecs", write_fvecs, None
    yield "word2vec .bin", write_word2vec_binary, None
    yield "hugging face", write_hugging_face, None
    yield "packed .npz", lambda path, rows: np.savez_compressed(path, vectors=rows), read_npz
    yield "word2vec .vec", write_word2vec, parse_numbers
    yield "word2vec .vec.gz", pack(write_word2vec, gzip_fast), unpack("gzip")
    yield "word2vec .vec.zst", pack(write_word2vec, zstd), unpack("zstd")
    yield "list .csv", write_csv_lists, parse_numbers
    yield "columns .csv", write_csv_columns, pa.csv.read_csv
    yield "objects .jsonl", write_json_lines, pa.json.read_json


def write_safetensors(path: Path, rows: FloatArray, dtype: torch.dtype) -> None:
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


def write_plain_parquet(path: Path, rows: FloatArray) -> None:
    """Write Parquet without compression or dictionaries."""
    pq.write_table(lists(rows), path, compression="none", use_dictionary=False)


def write_fixed_parquet(path: Path, rows: FloatArray) -> None:
    """Write Parquet with fixed-size lists."""
    pq.write_table(fixed_lists(rows), path, compression="none", use_dictionary=False)


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


def pack(
    write: Callable[[Path, FloatArray], None], codec: Callable[[bytes], bytes]
) -> Callable[[Path, FloatArray], None]:
    """Return a writer that packs what another one writes."""

    def write_packed(path: Path, rows: FloatArray) -> None:
        write(path, rows)
        path.write_bytes(codec(path.read_bytes()))

    return write_packed


def gzip_fast(content: bytes) -> bytes:
    """Pack with gzip's fastest level; unpacking costs the same."""
    return gzip.compress(content, compresslevel=1)


def zstd(content: bytes) -> bytes:
    """Pack with zstd."""
    packed: bytes = pa.compress(content, "zstd", asbytes=True)
    return packed


def unpack(codec: str) -> Callable[[Path], None]:
    """Return a function that unpacks a file and drops it."""

    def read(path: Path) -> None:
        with pa.OSFile(str(path)) as file, pa.CompressedInputStream(file, codec) as stream:
            while stream.read(2**22):
                pass

    return read


def read_npz(path: Path) -> None:
    """Unpack with numpy."""
    with np.load(path) as archive:
        archive["vectors"]


def read_parquet(path: Path) -> None:
    """Decode with Arrow, without our checks."""
    with pq.ParquetFile(path, memory_map=True) as file:
        for _ in file.iter_batches(2**12, use_threads=False):
            pass


def parse_numbers(path: Path) -> None:
    """Parse a file's numbers with Arrow, as one column and nothing else."""
    fields = path.read_bytes().translate(bytes.maketrans(b" ,", b"\n\n"), b'[]"').split(b"\n")
    numbers = b"\n".join(field for field in fields if not field.startswith((b"p", b"t", b"v")))
    pa.csv.read_csv(
        pa.py_buffer(numbers),
        read_options=pa.csv.ReadOptions(column_names=["number"]),
        convert_options=pa.csv.ConvertOptions(column_types={"number": pa.float32()}),
    )


if __name__ == "__main__":
    main()
