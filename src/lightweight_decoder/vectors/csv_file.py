"""CSV and its kin as a table: what separates cells, what quotes them, whether there are names."""

from __future__ import annotations

import logging
import re
from itertools import chain, pairwise
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.csv

from lightweight_decoder.errors import InputDataError
from lightweight_decoder.vectors.columns import MISSING, NUMBER, Kind, is_bare_list, is_list_text
from lightweight_decoder.vectors.csv_dialect import DECIMAL_COMMA, Records, sniff
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

    from lightweight_decoder.vectors.tables import Role

_log = logging.getLogger(__name__)

_DELIMITER_HINT = re.compile(rb'"?sep=([\t;,|])"?\r?\n')
"""What Excel puts in front of a table, and reads itself."""

_SHOWN_NUMBERS = 3
_COMMENTS = re.compile(rb"\A(?:#[^\n]*\n)+")
_WHOLE_NUMBER = re.compile(r"\s*\d+\s*")
_VALUE = re.compile(
    r"(?i:true|false)|\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?.{0,6})?"
)


class CsvTable(Table):
    """A table of cells between commas, semicolons, tabs or bars, plain or inside gzip or zstd.

    The first line has the names, unless it holds a vector, or numbers that are no numbering: then
    the columns are ``column_1``, ``column_2``, …. Quotation marks around a cell are no part of it;
    between tabs only where all of the file keeps to that, as texts may begin with one. Numbers may
    have decimal commas where something else separates them. Lines in front that begin with a hash
    sign and have other cells than the rest are comments.

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
        head = head[start:]
        self._dialect = sniff(path, _COMMENTS.sub(b"", head) or head, told)
        records = self._dialect.first_records(head) or [([""], 0)]
        start, records = _without_comments(start, records)
        first, end = records[0]
        rows = [cells for cells, _ in records if len(cells) == len(first)]
        has_names = not _is_data(first, rows[1:])
        self._start = end if has_names else start
        self._names = _names(path, rows.pop(0)) if has_names else _numbered(len(first))
        if not rows:
            raise InputDataError.unexpected(
                path, "rows below the names", "none", summary="the table is empty"
            )
        cells = list(zip(*rows, strict=True))
        kinds = list(map(_kind, cells))
        numbers = (some for kind, some in zip(kinds, cells, strict=True) if kind == "number")
        self._has_commas = any(map(DECIMAL_COMMA.fullmatch, chain.from_iterable(numbers)))
        columns = list(zip(self._names, kinds, strict=True))
        if not has_names:
            # of columns without names, one with texts is no dimension with a mistake in it
            columns = [(name, "text" if kind == "mixed" else kind) for name, kind in columns]
            if _has_numbering(path, cells, kinds):
                _log.info("%s: %s numbers the rows and is left out", path, columns.pop(0)[0])
        super().__init__(path, columns)

    def _batches(self, roles: Mapping[str, Role], max_rows: int) -> Generator[pa.RecordBatch]:  # noqa: ARG002
        types = {
            str(self._names.index(name)): pa.float64() if role == "number" else pa.string()
            for name, role in roles.items()
        }
        is_quoted, delimiter = self._dialect.is_quoted, self._dialect.delimiter
        pieces = read_pieces(
            self.path,
            whole=Records(self.path, delimiter) if is_quoted else after_last_newline,
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


def _without_comments(
    start: int, records: list[tuple[list[str], int]]
) -> tuple[int, list[tuple[list[str], int]]]:
    """Return where the table begins, and its records with their ends, both in the file."""
    width = next((len(cells) for cells, _ in records if not cells[0].startswith("#")), 0)
    placed = [(cells, start + end) for cells, end in records]
    while width and placed[0][0][0].startswith("#") and len(placed[0][0]) != width:
        start = placed.pop(0)[1]
    return start, placed


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


def _has_numbering(path: Path, columns: Sequence[Sequence[str]], kinds: Sequence[Kind]) -> bool:
    """Say whether the first column has numbers of the rows, beside columns with fractions.

    Raises:
        InputDataError: The first or the last may be labels, or may be part of the vectors.
    """
    places = [place for place, kind in enumerate(kinds) if kind == "number"]
    whole = {p for p in places if all(map(_WHOLE_NUMBER.fullmatch, columns[p]))}
    if len(columns[0]) < 2 or len(whole) == len(places):  # noqa: PLR2004 - one row tells nothing
        return False
    first = list(map(int, columns[0])) if 0 in whole else []
    if first and first[0] in (0, 1) and first == list(range(first[0], first[0] + len(first))):
        return True
    is_alone = len(whole) == 1 and len(places) > 2  # noqa: PLR2004 - beside several dimensions
    if is_alone and len(set(first)) == len(first) > 0:
        return True
    for place in whole & {places[0], places[-1]} if is_alone else ():
        if any(int(cell) for cell in columns[place]):
            raise InputDataError.unexpected(
                path,
                "fractions, as in all other columns of numbers",
                f"whole numbers: {', '.join(columns[place][:_SHOWN_NUMBERS])}, …",
                at=_numbered(len(columns))[place],
                summary="this column may hold labels, or be part of the vectors",
                advice="Say so in a first line of names, such as label,dim_0,dim_1,…",
            )
    return False


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
    return bool(NUMBER.fullmatch(cell) or DECIMAL_COMMA.fullmatch(cell))
