"""CSV and its kin as a table: what separates cells, what quotes them, whether there are names."""

from __future__ import annotations

import logging
import re
from itertools import chain, pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv

from lightweight_decoder.errors import InputDataError
from lightweight_decoder.vectors.columns import MISSING, NUMBER, Kind, is_bare_list, is_list_text
from lightweight_decoder.vectors.streams import (
    CHUNK_BYTES,
    MAX_LINE_BYTES,
    after_last_newline,
    read_pieces,
    read_text_head,
)
from lightweight_decoder.vectors.tables import Table

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from lightweight_decoder.datatypes import IntArray
    from lightweight_decoder.vectors.tables import Role

_log = logging.getLogger(__name__)

DELIMITERS = ("\t", ";", ",", "|")

_DELIMITER_HINT = re.compile(rb'"?sep=([\t;,|])"?\r?\n')
"""What Excel puts in front of a table, and reads itself."""

_SNIFFED_ROWS = 100
_WHOLE_NUMBER = re.compile(r"\s*\d+\s*")
_DECIMAL_COMMA = re.compile(r"\s*[+-]?\d+,\d+\s*")
_VALUE = re.compile(
    r"(?i:true|false)|\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?.{0,6})?"
)
_OPEN_CELL = re.compile(rb'"[^"]*+(?:""[^"]*+)*+')
_IN_QUOTES = re.compile(rb'(?<![^\t\r\n])"((?:[^"]|"")*)"(?=[\t\r\n])')
_NEEDS_QUOTES = re.compile(rb'[\t\r\n",;]')


class CsvTable(Table):
    """A table of cells between commas, semicolons, tabs or bars, plain or inside gzip or zstd.

    The first line has the names, unless it holds a vector, or numbers that are no numbering: then
    the columns are ``column_1``, ``column_2``, …. Quotation marks around a cell are no part of it;
    between tabs only where all of the file keeps to that, as texts may begin with one. Numbers may
    have decimal commas where something else separates them.

    Args:
        path: The file. Where vectors are read, its last line must end with a newline.
    """

    is_typed = False

    def __init__(self, path: Path) -> None:
        head = read_text_head(path, CHUNK_BYTES)
        if b"\n" not in head:
            head = read_text_head(path, MAX_LINE_BYTES)
        hint = _DELIMITER_HINT.match(head)
        start = hint.end() if hint else 0
        is_tsv = any(suffix.lower() == ".tsv" for suffix in path.suffixes[-2:])
        told = "\t" if is_tsv else hint[1].decode() if hint else None
        self._dialect = _sniff(path, head[start:], told)
        records = self._dialect.first_records(head[start:]) or [([""], 0)]
        first, end = records[0]
        rows = [cells for cells, _ in records if len(cells) == len(first)]
        has_names = not _is_data(first, rows[1:])
        self._start = start + end if has_names else start
        self._names = _names(path, rows.pop(0)) if has_names else _numbered(len(first))
        if not rows:
            raise InputDataError.unexpected(
                path, "rows below the names", "none", summary="the table is empty"
            )
        cells = list(zip(*rows, strict=True))
        kinds = list(map(_kind, cells))
        numbers = (some for kind, some in zip(kinds, cells, strict=True) if kind == "number")
        self._has_commas = any(map(_DECIMAL_COMMA.fullmatch, chain.from_iterable(numbers)))
        columns = list(zip(self._names, kinds, strict=True))
        if not has_names:
            # of columns without names, one with texts is no dimension with a mistake in it
            columns = [(name, "text" if kind == "mixed" else kind) for name, kind in columns]
            if _counts_rows(cells, kinds):
                _log.info("%s: %s counts the rows and is left out", path, columns.pop(0)[0])
        super().__init__(path, columns)

    def _batches(self, roles: Mapping[str, Role], max_rows: int) -> Generator[pa.RecordBatch]:  # noqa: ARG002
        types = {
            str(self._names.index(name)): pa.float64() if role == "number" else pa.string()
            for name, role in roles.items()
        }
        is_quoted, delimiter = self._dialect.is_quoted, self._dialect.delimiter
        pieces = read_pieces(
            self.path,
            whole=_Records(self.path, delimiter) if is_quoted else after_last_newline,
            must_end=any(role != "text" for role in roles.values()),
        )
        first_row, start = 0, self._start
        for piece in pieces:
            rows, start = piece[start:], 0
            if rows.strip(b"\r\n"):
                table = self._parse(rows, types, first_row)
                first_row += table.num_rows
                yield from table.to_batches()

    def _parse(self, rows: bytes, types: Mapping[str, pa.DataType], first_row: int) -> pa.Table:
        """Let Arrow parse whole rows; name the one that it cannot."""
        _refuse_other_encodings(self.path, rows, first_row)
        misfits: list[pa.csv.InvalidRow] = []
        try:
            return self._read(rows, types, misfits)
        except pa.ArrowInvalid as error:
            for misfit in misfits:
                raise InputDataError.unexpected(
                    self.path,
                    f"{misfit.expected_columns} cells, as in the first line",
                    f"{misfit.actual_columns}: {misfit.text[:40]!r}",
                    at=f"row {first_row + misfit.number - 1}",
                    summary="the rows differ in length",
                ) from error
            self._refuse_other_cells(rows, types, first_row)
            raise

    def _refuse_other_cells(
        self, rows: bytes, types: Mapping[str, pa.DataType], first_row: int
    ) -> None:
        """Refuse the first cell that is no number where one has to be."""
        texts = self._read(rows, dict.fromkeys(types, pa.string()), [])
        for place in (place for place, kind in types.items() if kind == pa.float64()):
            for row, cell in enumerate(texts.column(place).to_pylist()):
                if cell.strip() not in MISSING and not _is_number(cell):
                    raise InputDataError.unexpected(
                        self.path,
                        "a number",
                        repr(cell[:40]),
                        at=f"row {first_row + row}",
                        summary=f"the column {self._names[int(place)]!r} is not all numbers",
                    )

    def _read(
        self,
        rows: bytes,
        types: Mapping[str, pa.DataType],
        misfits: list[pa.csv.InvalidRow],
    ) -> pa.Table:
        """Parse with Arrow; rows of another length go to ``misfits``."""

        def refuse(row: pa.csv.InvalidRow) -> str:
            misfits.append(row)
            return "error"

        return pa.csv.read_csv(
            pa.py_buffer(rows),
            read_options=pa.csv.ReadOptions(
                block_size=len(rows) + 1,
                use_threads=False,
                column_names=list(map(str, range(len(self._names)))),
            ),
            parse_options=pa.csv.ParseOptions(
                delimiter=self._dialect.delimiter,
                quote_char='"' if self._dialect.is_quoted else False,
                newlines_in_values=self._dialect.is_quoted,
                invalid_row_handler=refuse,
            ),
            convert_options=pa.csv.ConvertOptions(
                column_types=dict(types),
                include_columns=list(types),
                null_values=list(MISSING),
                decimal_point="," if self._has_commas else ".",
            ),
        )


class _Dialect(NamedTuple):
    """What separates cells, and whether quotation marks may stand around them."""

    delimiter: str
    is_quoted: bool = True

    def first_records(self, head: bytes, count: int = _SNIFFED_ROWS) -> list[tuple[list[str], int]]:
        """Return the cells of the first records, and where each ends; blank lines are none."""
        records: list[tuple[list[str], int]] = []
        cells: list[str] = []
        place = 0
        pattern = _cell_pattern(self.delimiter, is_quoted=self.is_quoted)
        while place < len(head) and len(records) <= count:
            match = pattern.match(head, place)
            assert match is not None  # noqa: S101, it may be empty
            place = match.end()
            cell = match[2] if match[1] is None else match[1].replace(b'""', b'"')
            cells.append(cell.decode(errors="surrogateescape"))
            if match[3] != self.delimiter.encode():
                if cells != [""]:
                    records.append((cells, place))
                cells = []
        is_cut = len(head) >= CHUNK_BYTES and len(records) > 1
        return records[:-1] if is_cut else records


class _Records:
    """Tells where the last whole record of a text ends, whose cells may hold line ends in quotes.

    Args:
        path: The file, for messages.
        delimiter: What separates cells.
        is_strict: Refuse quotation marks inside of cells that have none around them.
    """

    def __init__(self, path: Path, delimiter: str, *, is_strict: bool = False) -> None:
        self._path = path
        self._pattern = _cell_pattern(delimiter, is_quoted=True)
        self._beside_quotes = np.frombuffer(f'{delimiter}\n\r"'.encode(), np.uint8)
        self._is_strict = is_strict
        self._num_lines = 0

    def __call__(self, text: bytes) -> int:
        """Return the length of the whole records.

        Raises:
            InputDataError: A quotation mark opens a cell, and none stands at its end.
        """
        if b'"' not in text:
            end = after_last_newline(text)
        else:
            data = np.frombuffer(text, np.uint8)
            quotes = np.flatnonzero(data == ord('"'))
            if self._are_around_cells(data, quotes):
                ends = np.flatnonzero(data == ord("\n")) + 1
                outside = ends[np.searchsorted(quotes, ends) % 2 == 0]
                end = int(outside[-1]) if len(outside) else 0
            else:
                end = self._end_cell_by_cell(text)
        self._num_lines += text.count(b"\n", 0, end)
        return end

    def _are_around_cells(self, data: npt.NDArray[np.uint8], quotes: IntArray) -> bool:
        """Say whether every first mark begins a cell, and every second ends one or doubles it."""
        opening, closing = quotes[::2], quotes[1::2]
        before = data[opening[opening > 0] - 1]
        behind = data[closing[closing < len(data) - 1] + 1]
        return bool(np.isin([*before, *behind], self._beside_quotes).all())

    def _end_cell_by_cell(self, text: bytes) -> int:
        """Return the length of the whole records, some of whose cells have marks inside."""
        end = place = 0
        while match := self._pattern.match(text, place):
            plain = match[2] or b""
            if plain.startswith(b'"') and _OPEN_CELL.fullmatch(text, place):
                break
            if plain.startswith(b'"') or (self._is_strict and b'"' in plain):
                line = self._num_lines + text.count(b"\n", 0, place) + 1
                raise InputDataError.unexpected(
                    self._path,
                    "a second quotation mark at the end of the cell, others in it doubled",
                    repr(plain[:40].decode(errors="replace")),
                    at=f"line {line}",
                    summary="a quotation mark opens a cell and does not close it",
                )
            place = match.end()
            if match[3].endswith(b"\n"):
                end = place
            if place == len(text):
                break
        return end


def _cell_pattern(delimiter: str, *, is_quoted: bool) -> re.Pattern[bytes]:
    """Return what matches a cell in quotes (group 1) or without (2), and what ends it (3)."""
    separator = re.escape(delimiter.encode())
    quoted = rb'"([^"]*+(?:""[^"]*+)*+)"' if is_quoted else rb"(?!)()"
    return re.compile(rb"(?:%b|([^%b\r\n]*+))(\r?\n|\r|%b|\Z)" % (quoted, separator, separator))


def _sniff(path: Path, head: bytes, told: str | None) -> _Dialect:
    """Tell what separates cells: all of the first records have as many of them, more than one.

    Args:
        path: The file.
        head: Its first bytes.
        told: What its name, or its first line, says.
    """
    found = {}
    for delimiter in DELIMITERS:
        for dialect in {_Dialect(delimiter), _Dialect(delimiter, is_quoted=delimiter != "\t")}:
            rows = [cells for cells, _ in dialect.first_records(head, _SNIFFED_ROWS // 5)]
            if len({len(cells) for cells in rows}) == 1 and len(rows[0]) > 1:
                has_commas = any(_DECIMAL_COMMA.fullmatch(cell) for row in rows for cell in row)
                found[delimiter] = (has_commas, len(rows[0]))
    first_line = head.partition(b"\n")[0]
    most = max((",", *DELIMITERS), key=lambda each: first_line.count(each.encode()))
    delimiter = told or max(found, key=lambda each: found[each], default=most)
    return _Dialect(delimiter, is_quoted=delimiter != "\t" or _keeps_to_quotes(path))


def _keeps_to_quotes(path: Path) -> bool:
    """Say whether a file puts cells between tabs into quotation marks, by a rule that all follow.

    Either it quotes what needs it (marks, separators, line ends) and nothing else, or all texts,
    the names in the first line among them. A mark elsewhere is part of a text.
    """
    is_rule = False
    try:
        for piece in read_pieces(path, whole=_Records(path, "\t", is_strict=True)):
            if not is_rule and b'"' in piece:
                first = piece.partition(b"\n")[0].rstrip(b"\r").split(b"\t")
                cells = _IN_QUOTES.findall(piece)
                is_rule = all(cell == b"" or _NEEDS_QUOTES.search(cell) for cell in cells) or all(
                    cell.startswith(b'"') or NUMBER.fullmatch(cell.decode(errors="replace"))
                    for cell in first
                )
                if not is_rule:
                    return False
    except InputDataError:
        return False
    return is_rule


def _numbered(count: int) -> list[str]:
    """Return names for columns without."""
    return [f"column_{number}" for number in range(1, count + 1)]


def _names(path: Path, cells: Sequence[str]) -> list[str]:
    """Return the names of a first line, which numpy puts behind a hash sign."""
    names = [cell.strip() for cell in cells]
    names[0] = names[0].lstrip("#").strip()
    _refuse_other_encodings(path, ",".join(names).encode(errors="surrogateescape"), None)
    return names


def _refuse_other_encodings(path: Path, text: bytes, first_row: int | None) -> None:
    """Refuse what is not UTF-8; ``first_row`` is None for names."""
    try:
        text.decode()
    except UnicodeDecodeError as error:
        row = text.count(b"\n", 0, error.start)
        raise InputDataError.unexpected(
            path,
            "UTF-8 text",
            repr(text[error.start : error.start + 20]),
            at="line 1" if first_row is None else f"row {first_row + row}",
            summary="the text is not valid UTF-8",
            advice="Convert the file to UTF-8.",
        ) from error


def _is_data(first: Sequence[str], rows: Sequence[Sequence[str]]) -> bool:
    """Say whether a first line is no line of names: it has a vector, or numbers in no order."""
    if any(is_list_text(cell) or is_bare_list(cell) for cell in first):
        return True
    places = [place for place, cell in enumerate(first) if _is_number(cell)]
    if not places or not all(_WHOLE_NUMBER.fullmatch(first[place]) for place in places):
        return bool(places)
    numbers = [int(first[place]) for place in places]
    if all(after - before == 1 for before, after in pairwise(numbers)) and (
        numbers[0] in (0, 1) or len(numbers) > 2  # noqa: PLR2004 - two may be so by chance
    ):
        return False
    below = [row[place] for row in rows for place in places]
    return not any(_is_number(cell) and not _WHOLE_NUMBER.fullmatch(cell) for cell in below)


def _counts_rows(columns: Sequence[Sequence[str]], kinds: Sequence[Kind]) -> bool:
    """Say whether the first column is 0, 1, 2, … or 1, 2, 3, …, beside columns with fractions."""
    first = columns[0]
    if kinds[0] != "number" or len(first) < 2 or not all(map(_WHOLE_NUMBER.fullmatch, first)):  # noqa: PLR2004
        return False
    start = int(first[0])
    return (
        start in (0, 1)
        and list(map(int, first)) == list(range(start, start + len(first)))
        and any(
            kind == "number" and not all(map(_WHOLE_NUMBER.fullmatch, cells))
            for kind, cells in zip(kinds[1:], columns[1:], strict=True)
        )
    )


def _kind(cells: Sequence[str]) -> Kind:
    """Tell by some cells what a column holds."""
    there = [cell for cell in cells if cell.strip() not in MISSING]
    num_numbers = sum(map(_is_number, there))
    if not there:
        return "text" if any(map(str.strip, cells)) else "other"
    if num_numbers:
        return "number" if num_numbers == len(there) else "mixed"
    return "value" if all(map(_VALUE.fullmatch, there)) else "text"


def _is_number(cell: str) -> bool:
    """Say whether a cell is a number, perhaps with a decimal comma."""
    return bool(NUMBER.fullmatch(cell) or _DECIMAL_COMMA.fullmatch(cell))
