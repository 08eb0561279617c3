"""Word vectors as text (word2vec, GloVe, fastText ``.vec``) and as word2vec's binary file."""

from __future__ import annotations

import re
from contextlib import closing
from itertools import takewhile
from statistics import mode
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.csv

from lightweight_decoder.errors import InputDataError
from lightweight_decoder.vectors.columns import NUMBER
from lightweight_decoder.vectors.reader import FileReader, check_shape
from lightweight_decoder.vectors.streams import (
    CHUNK_BYTES,
    codec_of,
    open_stream,
    read_head,
    read_lines,
    read_text_head,
    read_up_to,
)

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from lightweight_decoder.vectors.reader import StoredBlock

HEADER = re.compile(rb"[ \t]*(\d{1,19})[ \t]+(\d{1,19})[ \t\r]*\n")
SAMPLE_LINES = 100
HEADER_BYTES = 2**8
NUMBERS_TO_SEE = 8
ODD_SPACE = re.compile(rb"[\t\v\f\r]|  ")


class WordVectorsReader(FileReader):
    """Lines of a token and d numbers between white space, plain or inside gzip or zstd.

    word2vec and fastText begin with a line of n and d; GloVe has none, so there d is how many
    numbers most of the first 100 lines end in. The last d fields of a line are the vector: what
    stands before them, spaces included, is the token. Without a header, a token of several parts
    may not end in a number, which a row with a number too many would look like. Tokens may repeat;
    every line is a row.
    """

    def __init__(self, path: Path) -> None:
        header = read_counts(path)
        if header is None:
            num_rows, dim = None, _sample_width(path)
        else:
            num_rows, dim = header
            check_promise(path, num_rows, dim, number_bytes=2)
        self._has_header = header is not None
        super().__init__(path, num_rows=num_rows, dim=dim, dtype="text", has_texts=True)

    def _stored_blocks(self, block_rows: int) -> Generator[StoredBlock]:
        line_number = 1
        with closing(read_lines(self.path, max_lines=block_rows, must_end=True)) as batches:
            for lines in batches:
                rows = lines[1:] if self._has_header and line_number == 1 else lines
                first_line = line_number + len(lines) - len(rows)
                if rows:
                    yield self._parse(rows, first_line)
                line_number += len(lines)

    def _parse(self, lines: Sequence[bytes], first_line: int) -> StoredBlock:
        """Split lines into tokens and one (b, d) array."""
        tokens, vectors = [], []
        for line_number, line in enumerate(lines, first_line):
            token, vector = self._split(line, line_number)
            tokens.append(decode_token(self.path, token, f"line {line_number}"))
            vectors.append(vector)
        numbers = _parse_numbers(b" ".join(vectors), len(lines) * self.dim)
        if numbers is None:
            raise self._bad_number(vectors, first_line)
        return numbers.reshape(-1, self.dim), tokens

    def _split(self, line: bytes, line_number: int) -> tuple[bytes, bytes]:
        """Split a line into its token and its numbers, these between single spaces."""
        line = line.rstrip()
        if line.count(b" ") == self.dim and not ODD_SPACE.search(line):
            token, _, vector = line.partition(b" ")
            return token, vector
        fields = line.rsplit(None, self.dim)
        token = fields[0] if len(fields) > self.dim else b""
        ends = token.rsplit(None, 1)[-1:]
        is_short = len(fields) <= self.dim and not (
            len(fields) == self.dim and line[:1].isspace() and self._has_header
        )
        if is_short or (not self._has_header and len(token.split()) > 1 and is_number(ends[0])):
            raise InputDataError.unexpected(
                self.path,
                f"a token and {self.dim} numbers, between white space",
                f"{len(line.split())} fields",
                at=f"line {line_number}",
                summary="the vectors differ in width",
                advice="Each line needs as many numbers as most of the first ones.",
            )
        return token, b" ".join(fields[-self.dim :])

    def _bad_number(self, vectors: Sequence[bytes], first_line: int) -> InputDataError:
        """Find the number that could not be parsed."""
        wrong = (
            (line_number, field)
            for line_number, vector in enumerate(vectors, first_line)
            for field in vector.split(b" ")
            if not is_number(field)
        )
        line_number, field = next(wrong)
        return InputDataError.unexpected(
            self.path,
            f"{self.dim} numbers at the end of the line",
            repr(field[:40]),
            at=f"line {line_number}",
            summary="this is not a number",
        )


class Word2VecBinaryReader(FileReader):
    """word2vec's binary file: a line of n and d, then each token, a space and d float32 numbers.

    Plain or inside gzip or zstd; with the newline that some programs write after a vector, or not.
    """

    def __init__(self, path: Path) -> None:
        num_rows, dim = read_counts(path) or (0, 0)
        check_promise(path, num_rows, dim, number_bytes=4)
        super().__init__(path, num_rows=num_rows, dim=dim, dtype="float32", has_texts=True)

    def _stored_blocks(self, block_rows: int) -> Generator[StoredBlock]:
        buffer = bytearray(CHUNK_BYTES + 8 * self.dim)
        row, filled = 0, 0
        with open_stream(self.path) as stream:
            read_up_to(stream, read_head(self.path, HEADER_BYTES).index(b"\n") + 1)
            while num_read := stream.readinto(memoryview(buffer)[filled:]):
                filled, start = filled + num_read, 0
                while max_rows := min(block_rows, (self.num_rows or 0) - row):
                    tokens, vectors, start = self._split(buffer, start, filled, max_rows)
                    if not tokens:
                        break
                    yield vectors, self._decode(tokens, row)
                    row += len(tokens)
                filled -= start
                buffer[:filled] = buffer[start : start + filled]
                if row == self.num_rows and buffer[:filled].strip(b"\n"):
                    self._check_count(row + 1)

    def _split(
        self, buffer: bytearray, start: int, filled: int, max_rows: int
    ) -> tuple[list[bytearray], npt.NDArray[np.float32], int]:
        """Return tokens and vectors of the whole rows from ``start`` on, and where they end."""
        tokens: list[bytearray] = []
        vectors: list[memoryview] = []
        view, size = memoryview(buffer), 4 * self.dim
        while len(tokens) < max_rows:
            space = buffer.find(b" ", start, filled)
            end = space + 1 + size
            if space < 0 or end > filled:
                break
            tokens.append(buffer[start:space])
            vectors.append(view[space + 1 : end])
            start = end
        numbers = np.frombuffer(bytearray().join(vectors), dtype="<f4")
        return tokens, numbers.reshape(-1, self.dim), start

    def _decode(self, tokens: Sequence[bytearray], first_row: int) -> list[str]:
        """Decode tokens, each perhaps behind the newline that ends the row before."""
        try:
            # A token has no spaces, so that one decoding does for all.
            return b" ".join(tokens).decode().removeprefix("\n").replace(" \n", " ").split(" ")
        except UnicodeDecodeError:
            return [
                decode_token(self.path, bytes(token), f"row {row}")
                for row, token in enumerate(tokens, first_row)
            ]


def read_counts(path: Path) -> tuple[int, int] | None:
    """Return n and d from the first line; None where it holds something else."""
    match = HEADER.match(read_text_head(path, HEADER_BYTES))
    return None if match is None else (int(match[1]), int(match[2]))


def check_promise(path: Path, num_rows: int, dim: int, *, number_bytes: int) -> None:
    """Refuse a header that promises more than a file of this size can hold."""
    check_shape(path, num_rows, dim)
    size = path.stat().st_size
    least = num_rows * (dim * number_bytes + 1)
    if codec_of(path) is None and least > size:
        raise InputDataError.unexpected(
            path,
            f"at least {least} bytes for {num_rows} vectors of {dim} numbers",
            f"{size} bytes",
            at="line 1",
            summary="the header promises more than there is",
            advice="The file may be cut off; write it again.",
        )


def decode_token(path: Path, token: bytes, at: str) -> str:
    """Decode a token, or say where it is not UTF-8."""
    try:
        return token.decode()
    except UnicodeDecodeError as error:
        raise InputDataError.unexpected(
            path,
            "UTF-8 text",
            repr(token[:40]),
            at=at,
            summary="a token is not valid UTF-8",
            advice="Convert the file to UTF-8.",
        ) from error


def _sample_width(path: Path) -> int:
    """Return d of a file without header: how many numbers most of the first lines end in."""
    with closing(read_lines(path, max_lines=SAMPLE_LINES, must_end=True)) as batches:
        lines = [line.split() for line in next(batches, [])]
    if not lines:
        raise InputDataError("there are no vectors", where=path, expected="at least one row")
    widths = list(map(_num_numbers_behind, lines))
    if mode(width == len(fields) for width, fields in zip(widths, lines, strict=True)):
        raise InputDataError.unexpected(
            path,
            "a token that is not a number, in most of the first lines",
            "only numbers",
            at="line 1",
            summary="this could be vectors without tokens, or tokens that are numbers",
            advice="Save plain vectors as .npy, or add word2vec's header line of counts.",
        )
    return mode(widths)


def ends_in_numbers(start: bytes, dim: int) -> bool:
    """Say whether the first line has a token and numbers, as far as it is there.

    What stands before the numbers is no token where a delimiter follows a number: a table then.
    """
    line, newline, _ = start.partition(b"\n")
    fields = line.split()
    if not newline:
        fields = fields[:-1]
    count = min(dim, NUMBERS_TO_SEE)
    if len(fields) <= count or not all(map(is_number, fields[-count:])):
        return False
    token = fields[-_num_numbers_behind(fields) - 1] if not all(map(is_number, fields)) else b""
    return not (len(token) > 1 and token.endswith((b",", b";", b"|")))


def _num_numbers_behind(fields: Sequence[bytes]) -> int:
    """Count the numbers that a line ends in."""
    return len(list(takewhile(is_number, reversed(fields))))


def is_number(field: bytes) -> bool:
    """Say whether a field could be part of a vector."""
    return NUMBER.fullmatch(field.decode("latin-1")) is not None


def _parse_numbers(text: bytes, count: int) -> npt.NDArray[np.float64] | None:
    """Parse numbers between single spaces; None unless all of them, and so many, are numbers.

    Arrow's CSV parser takes them as one column: four times as fast as numpy.fromstring.
    """
    if b"\r" in text or b"\n" in text:
        return None
    try:
        column = pa.csv.read_csv(
            pa.py_buffer(text.replace(b" ", b"\n")),
            read_options=pa.csv.ReadOptions(column_names=["number"], block_size=len(text) + 1),
            parse_options=pa.csv.ParseOptions(quote_char=False),
            convert_options=pa.csv.ConvertOptions(
                column_types={"number": pa.float64()}, null_values=[]
            ),
        ).column(0)
    except pa.ArrowInvalid:
        return None
    numbers: npt.NDArray[np.float64] = column.to_numpy()
    return numbers if len(numbers) == count else None
