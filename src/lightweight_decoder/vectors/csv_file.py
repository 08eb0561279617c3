"""CSV and TSV, with vectors as JSON lists in one column or a number in each of many columns."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from lightweight_decoder.errors import InputDataError
from lightweight_decoder.vectors.list_columns import list_rows, text_rows
from lightweight_decoder.vectors.reader import FileReader, choose_entry, choose_text_entry
from lightweight_decoder.vectors.streams import (
    CHUNK_BYTES,
    MAX_LINE_BYTES,
    open_stream,
    read_head,
    require_final_newline,
)

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from lightweight_decoder.vectors.reader import StoredBlock

DELIMITERS = ("\t", ",", ";")
NUMBERED = re.compile(r"(?P<prefix>.*?)(?P<number>\d+)")
JSON_LIST = r"^\s*\[[^\[\]]*\]\s*$"


class CsvReader(FileReader):
    """A table of comma-, semicolon- or tab-separated values, plain or inside gzip or zstd.

    A vector is a JSON list in one column, or is spread over columns whose names are one prefix and
    consecutive numbers (``dim_0,dim_1,…`` or ``0,1,…``). A file whose first line is all numbers has
    no names: each column is a number of the vector.

    Args:
        path: The file; its last line must end with a newline.
        vector_column: The column of JSON lists, or the prefix of the numbered columns; may be left
            out where only one is there.
        text_column: The column of texts; may be left out where only one more holds strings, or one
            is called "text".
    """

    def __init__(
        self, path: Path, *, vector_column: str | None = None, text_column: str | None = None
    ) -> None:
        require_final_newline(path)
        self.path = path
        first_line = read_head(path, MAX_LINE_BYTES).partition(b"\n")[0].decode("utf-8-sig")
        self._delimiter = max(DELIMITERS, key=first_line.count)
        self._has_names = not _is_data(first_line.split(self._delimiter))
        first = self._first_batch()
        groups = (
            _numbered_columns(first.schema.names) if self._has_names else {"": first.schema.names}
        )
        lists = [field.name for field in first.schema if _holds_lists(first, field)]
        chosen = choose_entry(path, lists or list(groups), vector_column, option="vector_column")
        self._vector_columns = [chosen] if chosen in lists else groups[chosen]
        self._is_list = chosen in lists
        names = [
            field.name
            for field in first.schema
            if field.name not in self._vector_columns
            and (text_column or pa.types.is_string(field.type))
        ]
        self._text_column = choose_text_entry(path, names, text_column)
        super().__init__(
            path,
            num_rows=None,
            dim=self._first_width(first),
            dtype="text",
            has_texts=self._text_column is not None,
        )

    def _first_batch(self) -> pa.RecordBatch:
        """Return the first rows with every column, its type guessed by Arrow."""
        with (
            open_stream(self.path) as stream,
            self._open(stream, pa.csv.ConvertOptions(null_values=[])) as reader,
        ):
            first = reader.read_next_batch()
        name, count = Counter(first.schema.names).most_common(1)[0]
        if count > 1:
            raise InputDataError(
                "columns have the same name",
                where=self.path,
                at="line 1",
                expected="a name for each column, none of them twice",
                found=f"{count} columns {name!r}",
                advice="Rename them.",
            )
        for field in first.schema:
            if pa.types.is_binary(field.type):
                raise InputDataError(
                    "a column is not valid UTF-8",
                    where=self.path,
                    at=f"column {field.name}",
                    expected="UTF-8 text",
                    found="other bytes",
                    advice="Convert the file to UTF-8.",
                )
        return first

    def _open(self, stream: pa.NativeFile, convert: pa.csv.ConvertOptions) -> pa.CSVStreamingReader:
        """Open the table at its start."""
        return pa.csv.open_csv(
            stream,
            read_options=pa.csv.ReadOptions(
                block_size=CHUNK_BYTES,
                use_threads=False,
                autogenerate_column_names=not self._has_names,
            ),
            parse_options=pa.csv.ParseOptions(delimiter=self._delimiter, newlines_in_values=True),
            convert_options=convert,
        )

    def _first_width(self, first: pa.RecordBatch) -> int:
        """Return d from the columns, or from the first list."""
        if not self._is_list:
            return len(self._vector_columns)
        return str(first.column(self._vector_columns[0])[0]).count(",") + 1

    def _stored_blocks(self, block_rows: int) -> Generator[StoredBlock]:
        number_type = pa.string() if self._is_list else pa.float32()
        types = dict.fromkeys(self._vector_columns, number_type)
        if self._text_column is not None:
            types[self._text_column] = pa.string()
        convert = pa.csv.ConvertOptions(
            column_types=types, include_columns=list(types), null_values=[]
        )
        first_row = 0
        with open_stream(self.path) as stream, self._open(stream, convert) as reader:
            for batch in reader:
                for start in range(0, batch.num_rows, block_rows):
                    rows = batch.slice(start, block_rows)
                    texts = None
                    if self._text_column is not None:
                        texts = text_rows(self.path, rows.column(self._text_column), first_row)
                    yield self._vectors(rows, first_row), texts
                    first_row += rows.num_rows

    def _vectors(self, rows: pa.RecordBatch, first_row: int) -> npt.NDArray[np.generic]:
        """Return a batch's vectors as (b, d)."""
        if self._is_list:
            lists = _parse_lists(self.path, rows.column(self._vector_columns[0]), first_row)
            return list_rows(self.path, lists, self.dim, first_row)
        return np.column_stack([rows.column(name).to_numpy() for name in self._vector_columns])


def _is_data(fields: Sequence[str]) -> bool:
    """Say whether a first line is a vector already: all numbers, and not pandas' 0,1,2,…."""
    try:
        numbers = [float(field) for field in fields]
    except ValueError:
        return False
    return numbers != list(range(len(numbers)))


def _numbered_columns(names: Sequence[str]) -> dict[str, list[str]]:
    """Return, by prefix, the columns numbered without a gap, in the order of their numbers."""
    numbers: defaultdict[str, dict[int, str]] = defaultdict(dict)
    for name in names:
        if match := NUMBERED.fullmatch(name):
            numbers[match["prefix"]][int(match["number"])] = name
    return {
        prefix: [columns[number] for number in sorted(columns)]
        for prefix, columns in numbers.items()
        if len(columns) > 1 and max(columns) - min(columns) == len(columns) - 1
    }


def _holds_lists(first: pa.RecordBatch, field: pa.Field) -> bool:
    """Say whether a column's first value looks like a JSON list."""
    return pa.types.is_string(field.type) and str(first.column(field.name)[0]).lstrip()[:1] == "["


def _parse_lists(path: Path, column: pa.Array, first_row: int) -> pa.ListArray:
    """Parse JSON lists of numbers."""
    wrong = np.flatnonzero(
        ~pc.match_substring_regex(column, JSON_LIST).to_numpy(zero_copy_only=False)
    )
    if wrong.size:
        raise InputDataError(
            "a vector is not a list of numbers",
            where=path,
            at=f"row {first_row + int(wrong[0])}",
            expected="a JSON list such as [0.1, 0.2]",
            found=repr(str(column[int(wrong[0])])[:40]),
        )
    fields = pc.split_pattern(pc.utf8_trim(column, "[] \t\r\n"), ",")
    numbers = pc.utf8_trim_whitespace(fields.flatten()).cast(pa.float32())
    return pa.ListArray.from_arrays(fields.offsets, numbers)
