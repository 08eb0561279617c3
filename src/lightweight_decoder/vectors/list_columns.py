"""Tables with a column of lists: Parquet, Arrow IPC, JSON lines, Hugging Face data sets."""

from __future__ import annotations

import json
from abc import abstractmethod
from contextlib import closing
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc
import pyarrow.json
import pyarrow.parquet as pq

from lightweight_decoder.errors import InputDataError, MissingDependencyError
from lightweight_decoder.vectors.reader import FileReader, choose_entry, choose_text_entry
from lightweight_decoder.vectors.streams import CHUNK_BYTES, MAX_LINE_BYTES, open_stream, read_head

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    import numpy.typing as npt

    from lightweight_decoder.vectors.reader import StoredBlock

NUMBER_TYPES = (pa.float16(), pa.float32(), pa.float64(), pa.int8())
END_OF_STREAM = b"\xff\xff\xff\xff\x00\x00\x00\x00"
IPC_FILE_MAGIC = b"ARROW1"


class TableReader(FileReader):
    """A reader of record batches: picks the two columns, and turns lists into rows.

    Args:
        path: The file.
        schema: The table's columns.
        num_rows: Its rows, where they are known.
        vector_column: The column of lists; may be left out where only one holds lists of floats.
        text_column: The column of texts (or of anything that Arrow can write as text, such as
            whole numbers); may be left out where only one holds strings, or one is called "text".
        dtype: How numbers are stored, if not as the column's type says.
    """

    def __init__(
        self,
        path: Path,
        schema: pa.Schema,
        *,
        num_rows: int | None,
        vector_column: str | None,
        text_column: str | None,
        dtype: str | None = None,
    ) -> None:
        self.path = path
        lists = [field.name for field in schema if _number_type(field.type) in NUMBER_TYPES]
        self._vector_column = choose_entry(path, lists, vector_column, option="vector_column")
        others = [field for field in schema if field.name != self._vector_column]
        names = [field.name for field in others if text_column or _is_text(field.type)]
        self._text_column = choose_text_entry(path, names, text_column)
        vector_type = _storage_type(schema.field(self._vector_column).type)
        super().__init__(
            path,
            num_rows=num_rows,
            dim=self._first_width(vector_type),
            dtype=dtype or _dtype_name(vector_type.value_type),
            has_texts=self._text_column is not None,
        )

    @property
    def _columns(self) -> list[str]:
        """The columns that are read."""
        return [name for name in (self._vector_column, self._text_column) if name is not None]

    @abstractmethod
    def _batches(self, block_rows: int) -> Generator[pa.RecordBatch]:
        """Yield record batches of any length that have, among others, the columns that are read."""

    def _first_width(self, vector_type: pa.DataType) -> int:
        """Return d, which only the first row tells where the type does not."""
        if pa.types.is_fixed_size_list(vector_type):
            return int(vector_type.list_size)
        with closing(self._sound_batches(1)) as batches:
            for batch in batches:
                if batch.num_rows:
                    first = batch.column(self._vector_column)[0].as_py()
                    return len(first or [])
        raise InputDataError("there are no vectors", where=self.path, expected="at least one row")

    def _sound_batches(self, block_rows: int) -> Generator[pa.RecordBatch]:
        """Yield batches that Arrow has checked: to touch a damaged one could end the process."""
        with closing(self._batches(block_rows)) as batches:
            for batch in batches:
                columns = batch.select(self._columns)
                columns.validate(full=True)
                yield columns

    def _stored_blocks(self, block_rows: int) -> Generator[StoredBlock]:
        first_row = 0
        with closing(self._sound_batches(block_rows)) as batches:
            for batch in batches:
                for start in range(0, batch.num_rows, block_rows):
                    rows = batch.slice(start, block_rows)
                    vectors = list_rows(
                        self.path, rows.column(self._vector_column), self.dim, first_row
                    )
                    texts = None
                    if self._text_column is not None:
                        texts = text_rows(self.path, rows.column(self._text_column), first_row)
                    first_row += rows.num_rows
                    yield vectors, texts


class ParquetReader(TableReader):
    """A Parquet file, read a few pages at a time."""

    def __init__(
        self, path: Path, *, vector_column: str | None = None, text_column: str | None = None
    ) -> None:
        with pq.ParquetFile(path, memory_map=True) as file:
            schema, num_rows = file.schema_arrow, file.metadata.num_rows
        super().__init__(
            path, schema, num_rows=num_rows, vector_column=vector_column, text_column=text_column
        )

    def _batches(self, block_rows: int) -> Generator[pa.RecordBatch]:
        with pq.ParquetFile(
            self.path, memory_map=True, pre_buffer=False, page_checksum_verification=True
        ) as file:
            yield from file.iter_batches(block_rows, columns=self._columns, use_threads=False)


class ArrowReader(TableReader):
    """An Arrow IPC file (Feather version 2) or IPC stream, mapped into memory.

    A compressed one is unpacked a record batch at a time: its batches bound the memory.
    """

    def __init__(
        self, path: Path, *, vector_column: str | None = None, text_column: str | None = None
    ) -> None:
        self._is_stream = read_head(path, len(IPC_FILE_MAGIC)) != IPC_FILE_MAGIC
        num_rows = None
        with pa.memory_map(str(path)) as source:
            if self._is_stream:
                self._check_end(path, source)
                with pa.ipc.open_stream(source) as reader:
                    schema = reader.schema
            else:
                with pa.ipc.open_file(source) as reader:
                    schema, num_rows = reader.schema, reader.count_rows()
        super().__init__(
            path, schema, num_rows=num_rows, vector_column=vector_column, text_column=text_column
        )

    @staticmethod
    def _check_end(path: Path, source: pa.MemoryMappedFile) -> None:
        """Refuse a stream without its end mark: Arrow would take what is left for all of it."""
        source.seek(-len(END_OF_STREAM), 2)
        if source.read() != END_OF_STREAM:
            raise InputDataError(
                "the Arrow stream has no end",
                where=path,
                at=f"byte {source.size() - len(END_OF_STREAM)}",
                expected="an end-of-stream mark",
                found="other bytes",
                advice="The file may be cut off; write it again, and close the writer.",
            )
        source.seek(0)

    def _batches(self, block_rows: int) -> Generator[pa.RecordBatch]:  # noqa: ARG002
        with pa.memory_map(str(self.path)) as source:
            if self._is_stream:
                with pa.ipc.open_stream(source) as reader:
                    yield from reader
            else:
                with pa.ipc.open_file(source) as reader:
                    for index in range(reader.num_record_batches):
                        yield reader.get_batch(index)


class JsonLinesReader(TableReader):
    """JSON lines, an object a line, plain or inside gzip or zstd; other keys are ignored."""

    def __init__(
        self, path: Path, *, vector_column: str | None = None, text_column: str | None = None
    ) -> None:
        super().__init__(
            path,
            _json_schema(path, vector_column, text_column),
            num_rows=None,
            vector_column=vector_column,
            text_column=text_column,
            dtype="text",
        )

    def _batches(self, block_rows: int) -> Generator[pa.RecordBatch]:  # noqa: ARG002
        types = {self._vector_column: pa.list_(pa.float32()), self._text_column: pa.string()}
        with (
            open_stream(self.path) as stream,
            pa.json.open_json(
                stream,
                read_options=pa.json.ReadOptions(block_size=CHUNK_BYTES, use_threads=False),
                parse_options=pa.json.ParseOptions(
                    explicit_schema=pa.schema([(name, types[name]) for name in self._columns]),
                    unexpected_field_behavior="ignore",
                ),
            ) as reader,
        ):
            yield from reader


class HuggingFaceReader(TableReader):
    """A data set that ``datasets.Dataset.save_to_disk`` wrote, mapped into memory."""

    def __init__(
        self, path: Path, *, vector_column: str | None = None, text_column: str | None = None
    ) -> None:
        self._dataset = _load_from_disk(path)
        super().__init__(
            path,
            self._dataset.features.arrow_schema,
            num_rows=len(self._dataset),
            vector_column=vector_column,
            text_column=text_column,
        )

    def _batches(self, block_rows: int) -> Generator[pa.RecordBatch]:
        columns = self._dataset.select_columns(self._columns).with_format("arrow")
        for table in columns.iter(block_rows):
            yield from table.to_batches()


def list_rows(path: Path, column: pa.Array, dim: int, first_row: int) -> npt.NDArray[np.generic]:
    """Return a column of lists as (b, d), without a copy; its row 0 is the file's ``first_row``."""
    lists = column.storage if isinstance(column, pa.ExtensionArray) else column
    widths = pc.fill_null(pc.list_value_length(lists), -1).to_numpy(zero_copy_only=False)
    wrong = np.flatnonzero(widths != dim)
    if wrong.size:
        raise InputDataError(
            "the vectors differ in width",
            where=path,
            at=f"row {first_row + int(wrong[0])}",
            expected=f"{dim} numbers, as in the first row",
            found="nothing (null)" if widths[wrong[0]] < 0 else f"{widths[wrong[0]]} numbers",
        )
    numbers = lists.flatten()
    if numbers.null_count:
        row, place = divmod(int(np.flatnonzero(numbers.is_null())[0]), dim)
        raise InputDataError(
            "a number is missing",
            where=path,
            at=f"row {first_row + row}",
            expected=f"{dim} numbers",
            found=f"null in column {place}",
        )
    return _view(numbers).reshape(-1, dim)


def _view(numbers: pa.Array) -> npt.NDArray[np.generic]:
    """Return numbers without nulls as an array that is writable where Arrow's memory is.

    What Arrow has just decoded then needs no copy to become a block; to_numpy is never writable.
    """
    dtype = np.dtype(numbers.type.to_pandas_dtype())
    memory = numbers.buffers()[1]
    if memory is None:
        return np.empty(0, dtype)
    return np.frombuffer(memory, dtype, len(numbers), numbers.offset * dtype.itemsize)


def text_rows(path: Path, column: pa.Array, first_row: int) -> list[str]:
    """Return a column as texts; its row 0 is the file's ``first_row``."""
    strings = column.cast(pa.string())
    texts: list[str] = strings.to_pylist()
    if strings.null_count:
        raise InputDataError(
            "a text is missing",
            where=path,
            at=f"row {first_row + texts.index(None)}",  # type: ignore[arg-type]
            expected="a text for each vector",
            found="nothing (null)",
        )
    return texts


def _storage_type(column: pa.DataType) -> pa.DataType:
    """Return the list type below Arrow's extension type for tensors."""
    return column.storage_type if isinstance(column, pa.BaseExtensionType) else column


def _number_type(column: pa.DataType) -> pa.DataType | None:
    """Return the type of a list column's numbers; None for other columns."""
    stored = _storage_type(column)
    is_list = (
        pa.types.is_list(stored)
        or pa.types.is_large_list(stored)
        or pa.types.is_fixed_size_list(stored)
    )
    return stored.value_type if is_list else None


def _is_text(column: pa.DataType) -> bool:
    """Say whether a column holds strings."""
    value = column.value_type if pa.types.is_dictionary(column) else column
    return bool(pa.types.is_string(value) or pa.types.is_large_string(value))


def _dtype_name(number_type: pa.DataType) -> str:
    """Return numpy's name of a type of Arrow."""
    return str(np.dtype(number_type.to_pandas_dtype()).name)


def _json_schema(path: Path, vector_column: str | None, text_column: str | None) -> pa.Schema:
    """Tell the columns of vectors and texts from the first line's object."""
    first = json.loads(read_head(path, MAX_LINE_BYTES).lstrip().partition(b"\n")[0])
    if not isinstance(first, dict):
        raise InputDataError(
            "a line is not an object",
            where=path,
            at="line 1",
            expected='{"text": "…", "embedding": [0.1, …]}',
            found=type(first).__name__,
        )
    fields = []
    for name, value in first.items():
        if name == vector_column or (isinstance(value, list) and _are_numbers(value)):
            fields.append((name, pa.list_(pa.float32())))
        elif name == text_column or isinstance(value, str):
            fields.append((name, pa.string()))
    return pa.schema(fields)


def _are_numbers(values: list[object]) -> bool:
    """Say whether a JSON list could be a vector."""
    return bool(values) and all(
        isinstance(value, int | float) and not isinstance(value, bool) for value in values
    )


def _load_from_disk(path: Path) -> Any:  # noqa: ANN401 - datasets is optional and untyped here
    """Open a Hugging Face data set; refuse one that has splits."""
    try:
        import datasets  # noqa: PLC0415
    except ImportError as error:
        raise MissingDependencyError(
            "datasets", extra="datasets", purpose=f"Reading the data set {path}"
        ) from error
    dataset = datasets.load_from_disk(str(path))
    if isinstance(dataset, datasets.DatasetDict):
        raise InputDataError(
            "the folder holds a data set for each split",
            where=path,
            expected="one data set",
            found=", ".join(dataset),
            advice=f"Name the folder of one split, such as hf:{path / next(iter(dataset), '')}.",
        )
    return dataset
