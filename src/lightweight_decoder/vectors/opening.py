"""Which format a file is in: told by its content, and by its name where content cannot tell."""

from __future__ import annotations

import inspect
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from lightweight_decoder.errors import InputDataError
from lightweight_decoder.vectors.csv_file import CsvReader
from lightweight_decoder.vectors.hdf5 import Hdf5Reader
from lightweight_decoder.vectors.list_columns import (
    ArrowReader,
    HuggingFaceReader,
    JsonLinesReader,
    ParquetReader,
)
from lightweight_decoder.vectors.numpy_files import NpyReader, NpzReader
from lightweight_decoder.vectors.reader import EmbeddingReader, damage_as_input_error
from lightweight_decoder.vectors.shards import ShardsReader
from lightweight_decoder.vectors.streams import CODECS, read_head
from lightweight_decoder.vectors.tensor_files import SafetensorsReader, TorchReader
from lightweight_decoder.vectors.vecs import NUMBER_TYPES, VecsReader
from lightweight_decoder.vectors.word_vectors import (
    HEADER,
    LINE_PADDING,
    Word2VecBinaryReader,
    WordVectorsReader,
    is_number,
)

if TYPE_CHECKING:
    from collections.abc import Callable

HUGGING_FACE_PREFIX = "hf:"
HUGGING_FACE_FILES = ("state.json", "dataset_dict.json")
HEAD_BYTES = 2**12
NUMBERS_TO_SEE = 8

ZIP_MAGIC = b"PK"
MAGICS: dict[bytes, Callable[..., EmbeddingReader]] = {
    b"\x93NUMPY": NpyReader,
    b"PAR1": ParquetReader,
    b"ARROW1": ArrowReader,
    b"\xff\xff\xff\xff": ArrowReader,
    b"\x89HDF\r\n\x1a\n": Hdf5Reader,
}
REFUSED = {
    b"\x80": "a Python pickle, which could run any code (torch.save before version 1.6 is one too)",
    b"FEA1": "Feather version 1; write version 2",
    b"\xba\x16\x4f\x2f": "a fastText model; export its vectors as .vec",
    b"\x1f\x9d": "a file packed with compress; use gzip or zstd",
    b"BZh": "a file packed with bzip2; use gzip or zstd",
    b"\xfd7zXZ": "a file packed with xz; use gzip or zstd",
}
CSV_SUFFIXES = (".csv", ".tsv")
SUPPORTED = (
    ".npy, .npz, .pt, .safetensors, Parquet, Arrow IPC, CSV, JSON lines, word2vec, GloVe, "
    "fastText .vec, .fvecs, .bvecs, .ivecs, HDF5"
)


def open_embeddings(
    path: str | Path,
    *,
    key: str | None = None,
    vector_column: str | None = None,
    text_column: str | None = None,
) -> EmbeddingReader:
    """Open embeddings in any supported format, reading no more than what says their shape.

    The format is told by the content, and by the name's ending only where content cannot tell
    (``.fvecs`` and its kin, CSV against GloVe). Nothing in a file is ever executed.

    Args:
        path: A file; a folder of files of one format; or a data set of Hugging Face that
            ``save_to_disk`` wrote, as its folder or as ``"hf:FOLDER"``.
        key: Which array to take from ``.npz``, ``.pt``, ``.safetensors`` and HDF5; needed where
            more than one could hold embeddings.
        vector_column: Which column to take from a table (Parquet, Arrow, JSON lines, CSV, data
            sets); needed where more than one holds lists of floats.
        text_column: Which column, or which entry of ``.npz``, ``.pt`` and HDF5, holds the texts.
            By default the only one with strings, or the one called "text"; without either, the
            reader has no texts.

    Returns:
        A reader with the file's shape and dtype, that gives float32 blocks with their texts.

    Raises:
        InputDataError: There is no such file, its format is unknown, it is damaged, it promises
            more than it holds, or it holds no (n, d) numbers; or an option does not fit its format.
        MissingDependencyError: HDF5 needs h5py, or a data set needs datasets.
    """
    options = {"key": key, "vector_column": vector_column, "text_column": text_column}
    given = {name: value for name, value in options.items() if value is not None}
    is_data_set = str(path).startswith(HUGGING_FACE_PREFIX)
    place = Path(str(path).removeprefix(HUGGING_FACE_PREFIX) if is_data_set else path)
    with damage_as_input_error(place):
        if is_data_set or any((place / name).is_file() for name in HUGGING_FACE_FILES):
            return _construct(HuggingFaceReader, place, given)
        if place.is_dir():
            return ShardsReader(place, lambda shard: _open_file(shard, given))
        return _open_file(place, given)


def _open_file(path: Path, options: dict[str, str]) -> EmbeddingReader:
    """Open one file, with the reader that its content asks for."""
    with damage_as_input_error(path):
        if not path.is_file():
            raise InputDataError(
                "there is no such file",
                where=path,
                expected="a file with embeddings",
                found="something else" if path.exists() else "nothing",
            )
        return _construct(_recognize(path), path, options)


def _construct(
    reader: Callable[..., EmbeddingReader], path: Path, options: dict[str, str]
) -> EmbeddingReader:
    """Call a reader's constructor; refuse options that it has not."""
    known = list(inspect.signature(reader).parameters)[1:]
    for option, value in options.items():
        if option not in known:
            raise InputDataError(
                f"this format takes no {option}",
                where=path,
                expected=", ".join(known) or "no options",
                found=f"{option}={value!r}",
                advice=f"Leave {option} out.",
            )
    return reader(path, **options)


def _recognize(path: Path) -> Callable[..., EmbeddingReader]:
    """Return the reader for a file's content."""
    with path.open("rb") as file:
        start = file.read(HEAD_BYTES)
    if start.startswith(tuple(CODECS)):
        return _recognize_text(path, read_head(path, HEAD_BYTES))
    if start.startswith(ZIP_MAGIC):
        return _recognize_zip(path)
    for magic, reader in MAGICS.items():
        if start.startswith(magic):
            return reader
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size:
        return SafetensorsReader
    if path.suffix.lower() in NUMBER_TYPES:
        return VecsReader
    for magic, what in REFUSED.items():
        if start.startswith(magic):
            raise _unknown(path, what)
    return _recognize_text(path, start)


def _recognize_zip(path: Path) -> Callable[..., EmbeddingReader]:
    """Tell numpy's archives from torch's by their members."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if any(name.endswith("data.pkl") for name in names):
        return TorchReader
    if any(name.endswith(".npy") for name in names):
        return NpzReader
    raise _unknown(path, "a zip archive without arrays")


def _recognize_text(path: Path, start: bytes) -> Callable[..., EmbeddingReader]:
    """Tell the text formats apart, and word2vec's binary one, which begins as text."""
    if not start:
        raise InputDataError(
            "the file is empty", where=path, expected="embeddings", found="0 bytes"
        )
    if header := HEADER.match(start):
        is_text = _ends_in_numbers(start[header.end() :], int(header[2]))
        return WordVectorsReader if is_text else Word2VecBinaryReader
    if b"\0" in start:
        raise _unknown(path, f"bytes {start[:8]!r} …")
    if start.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{"):
        return JsonLinesReader
    if any(suffix.lower() in CSV_SUFFIXES for suffix in path.suffixes[-2:]):
        return CsvReader
    first_line = start.partition(b"\n")[0]
    if _ends_in_numbers(start, 1):
        return WordVectorsReader
    if any(delimiter in first_line for delimiter in (b",", b"\t", b";")):
        return CsvReader
    raise _unknown(path, f"text {first_line[:40]!r} …")


def _ends_in_numbers(start: bytes, dim: int) -> bool:
    """Say whether the first line has a token and numbers, as far as it is there."""
    line, newline, _ = start.partition(b"\n")
    fields = line.rstrip(LINE_PADDING).split(b" ")
    if not newline:
        fields.pop()
    count = min(dim, NUMBERS_TO_SEE)
    return len(fields) > count and all(is_number(field) for field in fields[-count:])


def _unknown(path: Path, found: str) -> InputDataError:
    """Say what is supported."""
    return InputDataError(
        "the format is not supported",
        where=path,
        expected=SUPPORTED,
        found=found,
        advice="Save the vectors as .npy or .safetensors.",
    )
