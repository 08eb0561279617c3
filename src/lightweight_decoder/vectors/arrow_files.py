"""Parquet and Arrow's own files as tables."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc
import pyarrow.parquet as pq

from lightweight_decoder.errors import InputDataError
from lightweight_decoder.vectors.columns import kind_of, storage_type, to_texts
from lightweight_decoder.vectors.streams import read_head
from lightweight_decoder.vectors.tables import Table

if TYPE_CHECKING:
    from collections.abc import Collection, Generator, Iterable, Mapping
    from pathlib import Path

    from lightweight_decoder.vectors.tables import Role

END_OF_STREAM = b"\xff\xff\xff\xff\x00\x00\x00\x00"
IPC_FILE_MAGIC = b"ARROW1"
NO_CLASS = -1


class _TypedTable(Table):
    """A table whose columns have types of Arrow.

    Columns of classes, as data sets of Hugging Face have them, are read as the names of the
    classes, which stand in the schema.
    """

    def __init__(self, path: Path, schema: pa.Schema, *, num_rows: int) -> None:
        self._types = {field.name: storage_type(field.type) for field in schema}
        self._class_names = _class_names(schema)
        kinds = [kind_of(field.type) for field in schema]
        super().__init__(
            path,
            [
                (name, "text" if name in self._class_names else kind)
                for name, kind in zip(schema.names, kinds, strict=True)
            ],
            num_rows=num_rows,
        )

    def number_type(self, names: Collection[str]) -> str:
        """See the base."""
        types = [getattr(self._types[name], "value_type", self._types[name]) for name in names]
        if any(kind_of(each) == "text" for each in types):
            return super().number_type(names)
        return str(np.result_type(*(np.dtype(each.to_pandas_dtype()) for each in types)).name)

    def _texts(self, name: str, column: pa.Array) -> pa.StringArray:
        """See the base."""
        if name not in self._class_names:
            return to_texts(column)
        known = pc.if_else(pc.equal(column, NO_CLASS), None, column)
        return pa.array(self._class_names[name], pa.string()).take(known)


class ParquetTable(_TypedTable):
    """A Parquet file, read a few pages at a time."""

    def __init__(self, path: Path) -> None:
        with pq.ParquetFile(path, memory_map=True) as file:
            super().__init__(path, file.schema_arrow, num_rows=file.metadata.num_rows)

    def _batches(self, roles: Mapping[str, Role], max_rows: int) -> Generator[pa.RecordBatch]:
        with pq.ParquetFile(
            self.path, memory_map=True, pre_buffer=False, page_checksum_verification=True
        ) as file:
            batches = file.iter_batches(max_rows, columns=list(roles), use_threads=False)
            yield from _sound(batches, roles)


class ArrowTable(_TypedTable):
    """An Arrow IPC file (Feather version 2) or IPC stream, mapped into memory.

    A compressed one is unpacked a record batch at a time: its batches bound the memory.
    """

    def __init__(self, path: Path) -> None:
        self._is_stream = read_head(path, len(IPC_FILE_MAGIC)) != IPC_FILE_MAGIC
        if self._is_stream:
            _check_end(path)
        self.path = path
        with self._open() as reader:
            num_rows = (
                sum(batch.num_rows for batch in reader) if self._is_stream else reader.count_rows()
            )
            super().__init__(path, reader.schema, num_rows=num_rows)

    @contextmanager
    def _open(self) -> Generator[pa.RecordBatchReader]:
        """Map the file."""
        with (
            pa.memory_map(str(self.path)) as source,
            (pa.ipc.open_stream if self._is_stream else pa.ipc.open_file)(source) as reader,
        ):
            yield reader

    def _batches(self, roles: Mapping[str, Role], max_rows: int) -> Generator[pa.RecordBatch]:  # noqa: ARG002
        with self._open() as reader:
            count = None if self._is_stream else reader.num_record_batches
            batches = reader if count is None else map(reader.get_batch, range(count))
            yield from _sound(batches, roles)


def _sound(
    batches: Iterable[pa.RecordBatch], roles: Mapping[str, Role]
) -> Generator[pa.RecordBatch]:
    """Yield batches that Arrow has checked: to touch a damaged one could end the process."""
    for batch in batches:
        columns = batch.select(list(roles))
        columns.validate(full=True)
        yield columns


def _check_end(path: Path) -> None:
    """Refuse a stream without its end mark: Arrow would take what is left for all of it."""
    with path.open("rb") as file:
        start = file.seek(-len(END_OF_STREAM), 2)
        if file.read() != END_OF_STREAM:
            raise InputDataError.unexpected(
                path,
                "an end-of-stream mark",
                "other bytes",
                at=f"byte {start}",
                summary="the Arrow stream has no end",
                advice="The file may be cut off; write it again, and close the writer.",
            )


def _class_names(schema: pa.Schema) -> dict[str, list[str]]:
    """Return the names of classes that Hugging Face's data sets keep in a schema, by column."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        found = {name: feature["names"] for name, feature in features.items() if "names" in feature}
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        return {}
    return {
        field.name: found[field.name]
        for field in schema
        if pa.types.is_integer(field.type)
        and isinstance(found.get(field.name), list)
        and all(isinstance(name, str) for name in found[field.name])
    }
