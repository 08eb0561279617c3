"""Which format a file is in, told by its content and its name; and folders of such files."""

from __future__ import annotations

import inspect
import json
import re
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightweight_decoder.errors import InputDataError
from lightweight_decoder.vectors.arrow_files import ArrowTable, ParquetTable
from lightweight_decoder.vectors.csv_dialect import DELIMITERS
from lightweight_decoder.vectors.csv_file import CsvTable
from lightweight_decoder.vectors.hdf5 import Hdf5Reader
from lightweight_decoder.vectors.json_file import JsonTable
from lightweight_decoder.vectors.numpy_files import NUMBER_TYPES, NpyReader, NpzReader, VecsReader
from lightweight_decoder.vectors.reader import (
    RANGES_SUFFIX,
    EmbeddingBlock,
    EmbeddingReader,
    OnBadRow,
    damage_as_input_error,
    resolve_block_rows,
)
from lightweight_decoder.vectors.streams import CODECS, UTF16_MARKS, read_text_head
from lightweight_decoder.vectors.table_vectors import TableReader
from lightweight_decoder.vectors.tables import LinesTable, Table
from lightweight_decoder.vectors.tensor_files import SafetensorsReader, TorchReader
from lightweight_decoder.vectors.word_vectors import (
    HEADER,
    Word2VecBinaryReader,
    WordVectorsReader,
    ends_in_numbers,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    Format = type[Any]

HUGGING_FACE_PREFIX = "hf:"
STATE_NAME = "state.json"
SPLITS_NAME = "dataset_dict.json"
HEAD_BYTES = 2**12

ZIP_MAGIC = b"PK"
MAGICS: dict[bytes, Format] = {
    b"\x93NUMPY": NpyReader,
    b"PAR1": ParquetTable,
    b"ARROW1": ArrowTable,
    b"\xff\xff\xff\xff": ArrowTable,
    b"\x89HDF\r\n\x1a\n": Hdf5Reader,
}
REFUSED = {
    b"\x80": "a Python pickle, which could run any code (torch.save before version 1.6 is one too)",
    b"FEA1": "Feather version 1; write version 2",
    b"\xba\x16\x4f\x2f": "a fastText model; export its vectors as .vec",
    b"\xd0\xcf\x11\xe0": "a document of old Microsoft Office; save a sheet as CSV",
    b"SQLite format 3": "an SQLite database; export a table as CSV",
    b"\x1f\x9d": "a file packed with compress; use gzip or zstd",
    b"BZh": "a file packed with bzip2; use gzip or zstd",
    b"\xfd7zXZ": "a file packed with xz; use gzip or zstd",
}
PACKED_SUFFIXES = (".gz", ".zst", ".zstd")
TABLES = (ArrowTable, CsvTable, JsonTable, LinesTable, ParquetTable)
TEXT_SUFFIXES: dict[str, Format] = {
    **dict.fromkeys((".csv", ".tsv"), CsvTable),
    **dict.fromkeys((".jsonl", ".ndjson", ".json"), JsonTable),
}
SUPPORTED = (
    ".npy, .npz, .pt, .safetensors, Parquet, Arrow IPC, CSV, JSON, word2vec, GloVe, fastText .vec, "
    ".fvecs, .bvecs, .ivecs, HDF5"
)
TABLE_FORMATS = "CSV, TSV, JSON, JSON lines, Parquet, Arrow IPC, or lines of text"
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1a]|\A[\x80-\xbf\xf8-\xff]")
_JSON_START = re.compile(rb'\s*(?:\{\s*["}]|\[)')


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
        vector_column: Which column to take from a table (Parquet, Arrow, JSON, CSV, data sets), or
            the prefix of the numbered columns that are one dimension each; needed where more than
            one holds vectors.
        text_column: Which column, or which entry of ``.npz``, ``.pt`` and HDF5, holds the texts.
            By default the one called "text", or the only one with texts; without either, the
            reader has no texts.

    Returns:
        A reader with the file's shape and dtype, that gives float32 blocks with their texts.

    Raises:
        InputDataError: There is no such file, its format is unknown, it is damaged, it promises
            more than it holds, or it holds no (n, d) numbers; or an option does not fit its format.
        MissingDependencyError: HDF5 needs h5py.
    """
    options = {"key": key, "vector_column": vector_column, "text_column": text_column}
    given = {name: value for name, value in options.items() if value is not None}
    place = Path(str(path).removeprefix(HUGGING_FACE_PREFIX))
    with damage_as_input_error(place):
        if place.is_dir():
            return ShardsReader(place, [_open_file(file, given) for file in _files(path)])
        return _open_file(place, given)


def open_tables(path: str | Path) -> list[Table]:
    """Open a table of any format, or each table of a folder in order; see :func:`open_embeddings`.

    A text file whose name does not end as a table's is one of lines.

    Raises:
        InputDataError: There is no such file, it is damaged, or it is no table.
    """
    tables: list[Table] = []
    for file in _files(path):
        with damage_as_input_error(file):
            opened = _recognize(file, as_table=True)
            if opened not in TABLES:
                raise InputDataError.unexpected(
                    file, TABLE_FORMATS, "a file of arrays", summary="this is no table"
                )
            tables.append(opened(file))
    return tables


def _files(path: str | Path) -> list[Path]:
    """Return the files that are read: those of a folder in the order of the numbers in their names.

    Names that begin with a dot or an underscore are left out, as Spark and Hadoop do; so are ranges
    of int8 numbers.
    """
    place = Path(str(path).removeprefix(HUGGING_FACE_PREFIX))
    if not place.is_dir():
        return [place]
    is_data_set = str(path).startswith(HUGGING_FACE_PREFIX)
    if is_data_set or any((place / name).is_file() for name in (STATE_NAME, SPLITS_NAME)):
        return _data_set_files(place)
    files = [
        file
        for file in place.iterdir()
        if not file.name.startswith((".", "_")) and not file.name.endswith(RANGES_SUFFIX)
    ]
    if not files:
        raise InputDataError.unexpected(
            place, "files of one format", "none", summary="the folder is empty"
        )
    return sorted(files, key=_natural_order)


def _natural_order(file: Path) -> tuple[list[str | int], str]:
    """Return a sorting key that takes runs of digits as numbers."""
    parts = re.split(r"(\d+)", file.name)
    return [int(part) if part.isdecimal() else part for part in parts], file.name


def _data_set_files(folder: Path) -> list[Path]:
    """Return the Arrow files of a Hugging Face data set; refuse one of several splits."""
    if (folder / SPLITS_NAME).is_file():
        splits = json.loads((folder / SPLITS_NAME).read_bytes())["splits"]
        raise InputDataError.unexpected(
            folder,
            "one data set",
            ", ".join(splits),
            summary="the folder holds a data set for each split",
            advice=f"Name the folder of one split, such as hf:{folder / splits[0]}.",
        )
    state = json.loads((folder / STATE_NAME).read_bytes())
    if state.get("_indices_data_files"):
        raise InputDataError.unexpected(
            folder,
            "rows in their order",
            "a selection of rows beside them",
            summary="the data set was saved by an old version of datasets",
            advice="Load it and save it again with a version from 2 on.",
        )
    # a name alone: a data set has no files elsewhere
    return [folder / Path(each["filename"]).name for each in state["_data_files"]]


def _open_file(path: Path, options: dict[str, str]) -> EmbeddingReader:
    """Open one file with the reader that its content asks for; refuse options that it has not."""
    with damage_as_input_error(path):
        opened = _recognize(path)
        is_table = opened in TABLES
        known = list(inspect.signature(TableReader if is_table else opened).parameters)[1:]
        for option, value in options.items():
            if option not in known:
                raise InputDataError.unexpected(
                    path,
                    ", ".join(known) or "no options",
                    f"{option}={value!r}",
                    summary=f"this format takes no {option}",
                    advice=f"Leave {option} out.",
                )
        reader: EmbeddingReader = (
            TableReader(opened(path), **options) if is_table else opened(path, **options)
        )
        return reader


def _recognize(path: Path, *, as_table: bool = False) -> Format:
    """Return what reads a file's content."""
    if not path.is_file():
        raise InputDataError.unexpected(
            path,
            "a file",
            "something else" if path.exists() else "nothing",
            summary="there is no such file",
        )
    with path.open("rb") as file:
        start = file.read(HEAD_BYTES)
    is_text = start.startswith((*CODECS, *UTF16_MARKS)) or (as_table and not _CONTROL.search(start))
    if path.suffix.lower() in NUMBER_TYPES:
        return VecsReader
    expected = TABLE_FORMATS if as_table else SUPPORTED
    if not is_text and (known := _recognize_binary(path, start, expected)) is not None:
        return known
    head = read_text_head(path, HEAD_BYTES)
    if not head:
        raise InputDataError.unexpected(
            path, "at least one row", "0 bytes", summary="the file is empty"
        )
    by_name = TEXT_SUFFIXES.get(_suffix(path))
    if as_table and b"\0" in head:
        raise _unknown(path, f"bytes {head[:8]!r} …", expected)
    return by_name or (LinesTable if as_table else _recognize_text(path, head))


def _recognize_binary(path: Path, start: bytes, expected: str) -> Format | None:
    """Return what reads a file that is no text."""
    if start.startswith(ZIP_MAGIC):
        return _recognize_zip(path, expected)
    for magic, known in MAGICS.items():
        if start.startswith(magic):
            return known
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size:
        return SafetensorsReader
    for magic, what in REFUSED.items():
        if start.startswith(magic):
            raise _unknown(path, what, expected)
    return None


def _recognize_zip(path: Path, expected: str) -> Format:
    """Tell numpy's archives from torch's by their members."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if any(name.endswith("data.pkl") for name in names):
        return TorchReader
    if any(name.endswith(".npy") for name in names):
        return NpzReader
    is_workbook = not {"[Content_Types].xml", "mimetype"}.isdisjoint(names)
    what = "a workbook; save its sheet as CSV" if is_workbook else "a zip archive without arrays"
    raise _unknown(path, what, expected)


def _recognize_text(path: Path, head: bytes) -> Format:
    """Tell the text formats apart, and word2vec's binary one, which begins as text."""
    if header := HEADER.match(head):
        is_text = ends_in_numbers(head[header.end() :], int(header[2]))
        return WordVectorsReader if is_text else Word2VecBinaryReader
    if b"\0" in head:
        raise _unknown(path, f"bytes {head[:8]!r} …")
    if ends_in_numbers(head, 1):
        return WordVectorsReader
    if _JSON_START.match(head):
        return JsonTable
    first_line = head.partition(b"\n")[0]
    if any(delimiter.encode() in first_line for delimiter in DELIMITERS):
        return CsvTable
    raise _unknown(path, f"text {first_line[:40]!r} …")


def _suffix(path: Path) -> str:
    """Return the ending of a name, below the one of what packed the file."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    return next((suffix for suffix in reversed(suffixes) if suffix not in PACKED_SUFFIXES), "")


def _unknown(path: Path, found: str, expected: str = SUPPORTED) -> InputDataError:
    """Say what is supported."""
    return InputDataError.unexpected(
        path,
        expected,
        found,
        summary="the format is not supported",
        advice="Save the vectors as .npy or .safetensors." if expected == SUPPORTED else None,
    )


class ShardsReader(EmbeddingReader):
    """Files that are one set of embeddings, one after the other; errors name the file and its row.

    Args:
        path: Their folder.
        shards: At least one reader, all of one format, width and dtype.
    """

    def __init__(self, path: Path, shards: Sequence[EmbeddingReader]) -> None:
        first = shards[0]
        for shard in shards[1:]:
            _check_alike(first, shard)
        counts = [shard.num_rows for shard in shards if shard.num_rows is not None]
        self._shards = shards
        self.path = path
        self.num_rows = sum(counts) if len(counts) == len(shards) else None
        self.dim = first.dim
        self.dtype = first.dtype
        self.has_texts = first.has_texts

    def blocks(
        self, block_rows: int | None = None, *, on_bad_row: OnBadRow = "raise"
    ) -> Iterator[EmbeddingBlock]:
        """See EmbeddingReader.blocks; a block never spans two shards."""
        rows = resolve_block_rows(block_rows, self.dim)
        first_row = 0
        for shard in self._shards:
            for block in shard.blocks(rows, on_bad_row=on_bad_row):
                yield EmbeddingBlock(block.vectors, block.texts, first_row)
                first_row += len(block.vectors)


def _check_alike(first: EmbeddingReader, shard: EmbeddingReader) -> None:
    """Refuse a shard that does not belong with the first one."""
    for what, expected, found in (
        ("format", _format_name(first), _format_name(shard)),
        ("width", first.dim, shard.dim),
        ("dtype", first.dtype, shard.dtype),
        ("presence of texts", first.has_texts, shard.has_texts),
    ):
        if expected != found:
            raise InputDataError.unexpected(
                shard.path,
                f"{expected}, as in {first.path.name}",
                found,
                summary=f"the shards differ in their {what}",
                advice="Keep only files of one set of embeddings in the folder.",
            )


def _format_name(reader: EmbeddingReader) -> str:
    """Return what reads a file's format."""
    return type(reader.table if isinstance(reader, TableReader) else reader).__name__
