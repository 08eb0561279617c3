"""What separates the cells of a CSV or its kin, and whether marks around them are part of them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lightweight_decoder.errors import InputDataError
from lightweight_decoder.vectors.columns import NUMBER
from lightweight_decoder.vectors.streams import CHUNK_BYTES, after_last_newline, read_pieces

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from lightweight_decoder.datatypes import IntArray

DELIMITERS = ("\t", ";", ",", "|")
SNIFFED_ROWS = 100
DECIMAL_COMMA = re.compile(r"\s*[+-]?\d+,\d+\s*")
_OPEN_CELL = re.compile(rb'"[^"]*+(?:""[^"]*+)*+')
_IN_QUOTES = re.compile(rb'(?<![^\t\r\n])"((?:[^"]|"")*)"(?=[\t\r\n])')
_NEEDS_QUOTES = re.compile(rb'[\t\r\n",;]')


class Dialect(NamedTuple):
    """What separates cells, and whether quotation marks may stand around them."""

    delimiter: str
    is_quoted: bool = True

    def first_records(self, head: bytes, count: int = SNIFFED_ROWS) -> list[tuple[list[str], int]]:
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


class Records:
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


def sniff(path: Path, head: bytes, told: str | None) -> Dialect:
    """Tell what separates cells: all of the first records have as many of them, more than one.

    Args:
        path: The file.
        head: Its first bytes.
        told: What its name, or its first line, says.
    """
    found = {}
    for delimiter in DELIMITERS:
        for dialect in {Dialect(delimiter), Dialect(delimiter, is_quoted=delimiter != "\t")}:
            rows = [cells for cells, _ in dialect.first_records(head, SNIFFED_ROWS // 5)]
            if len({len(cells) for cells in rows}) == 1 and len(rows[0]) > 1:
                has_commas = any(DECIMAL_COMMA.fullmatch(cell) for row in rows for cell in row)
                found[delimiter] = (has_commas, len(rows[0]))
    first_line = head.partition(b"\n")[0]
    most = max((",", *DELIMITERS), key=lambda each: first_line.count(each.encode()))
    delimiter = told or max(found, key=lambda each: found[each], default=most)
    return Dialect(delimiter, is_quoted=delimiter != "\t" or _keeps_to_quotes(path))


def _keeps_to_quotes(path: Path) -> bool:
    """Say whether a file puts cells between tabs into quotation marks, by a rule that all follow.

    Either it quotes what needs it (marks, separators, line ends) and nothing else, or all texts,
    the names in the first line among them. A mark elsewhere is part of a text; so are two between
    which the lines have as many tabs as all others.
    """
    is_rule = has_line_ends = False
    num_tabs = set[int]()
    try:
        for piece in read_pieces(path, whole=Records(path, "\t", is_strict=True)):
            has_marks = b'"' in piece
            if has_marks or not num_tabs:  # the names in the first line count
                num_tabs |= {line.count(b"\t") for line in piece.split(b"\n") if line}
            if not has_marks:
                continue
            cells = _IN_QUOTES.findall(piece)
            has_line_ends |= any(b"\n" in cell for cell in cells)
            if not is_rule:
                first = piece.partition(b"\n")[0].rstrip(b"\r").split(b"\t")
                is_rule = all(cell == b"" or _NEEDS_QUOTES.search(cell) for cell in cells) or all(
                    cell.startswith(b'"') or NUMBER.fullmatch(cell.decode(errors="replace"))
                    for cell in first
                )
                if not is_rule:
                    return False
    except InputDataError:
        return False
    return is_rule and not (has_line_ends and len(num_tabs) == 1 and num_tabs != {0})
