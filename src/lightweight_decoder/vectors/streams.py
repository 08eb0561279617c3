"""Bytes of a file: unpacked from gzip or zstd on the way, and whole lines of UTF-8 of a text."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import pyarrow as pa

from lightweight_decoder.errors import InputDataError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

CHUNK_BYTES = 2**20
"""What is read at a time: small enough to stay in the processor's cache."""

MAX_LINE_BYTES = 4 * 2**20
"""Longer lines are no embeddings; a row of a table has to fit in as much."""

CODECS = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
UTF8_MARK = b"\xef\xbb\xbf"
UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


@contextmanager
def open_stream(path: Path) -> Generator[pa.NativeFile]:
    """Open a file for reading from its start, unpacked; cut off packed data raise while read."""
    codec = codec_of(path)
    with pa.OSFile(str(path)) as file:
        if codec is None:
            yield file
        else:
            with pa.CompressedInputStream(file, codec) as stream:
                yield stream


@contextmanager
def open_text(path: Path) -> Generator[pa.NativeFile]:
    """Open a text file as a stream of UTF-8; UTF-16 is told by its mark, and marks are left out."""
    mark = read_head(path, len(UTF8_MARK))
    with open_stream(path) as stream:
        if mark.startswith(UTF16_MARKS):
            with pa.transcoding_input_stream(stream, "utf-16", "utf-8") as text:
                yield text
        else:
            if mark == UTF8_MARK:
                read_up_to(stream, len(mark))
            yield stream


def codec_of(path: Path) -> str | None:
    """Return the codec that a file's first bytes name, if any."""
    with path.open("rb") as file:
        start = file.read(4)
    return next((codec for magic, codec in CODECS.items() if start.startswith(magic)), None)


def read_head(path: Path, num_bytes: int) -> bytes:
    """Return a file's first bytes, unpacked; fewer where it is shorter."""
    with open_stream(path) as stream:
        return read_up_to(stream, num_bytes)


def read_text_head(path: Path, num_bytes: int) -> bytes:
    """Return a text file's first bytes as UTF-8; fewer where it is shorter."""
    with open_text(path) as stream:
        return read_up_to(stream, num_bytes)


def read_up_to(stream: pa.NativeFile, num_bytes: int) -> bytes:
    """Read until there are so many bytes or the stream ends."""
    parts = []
    while num_bytes and (part := stream.read(num_bytes)):
        parts.append(part)
        num_bytes -= len(part)
    return b"".join(parts)


def after_last_newline(text: bytes) -> int:
    """Return where the last whole line ends."""
    return text.rfind(b"\n") + 1


def read_pieces(
    path: Path,
    *,
    whole: Callable[[bytes], int] = after_last_newline,
    must_end: bool = False,
) -> Generator[bytes]:
    """Yield a text file in pieces of whole lines, in bounded memory; only the last may have no end.

    Args:
        path: The file.
        whole: Returns how much of what was read is whole; by default all up to the last newline.
        must_end: Refuse a last line without a newline where the file is not packed: the number at
            its end may be cut off, and nothing would tell.

    Raises:
        InputDataError: A line is longer than 4 MiB, or the last one has no end and must have.
    """
    rest, line_number = b"", 1
    with open_text(path) as stream:
        while chunk := stream.read(CHUNK_BYTES):
            rest += chunk
            if end := whole(rest):
                piece, rest = rest[:end], rest[end:]
                line_number += piece.count(b"\n")
                yield piece
            if len(rest) > MAX_LINE_BYTES:
                raise InputDataError.unexpected(
                    path,
                    f"at most {MAX_LINE_BYTES} bytes",
                    "a longer line",
                    at=f"line {line_number}",
                    summary="a line is too long",
                    advice="The file may not be the text format that it looks like.",
                )
    if not rest:
        return
    if whole(rest + b"\n") <= len(rest):
        raise InputDataError.unexpected(
            path,
            "a second quotation mark",
            "none",
            at=f"line {line_number} or later",
            summary="a quotation mark opens a cell and does not close it",
        )
    if must_end and codec_of(path) is None and not rest.endswith((b"\n", b"\r")):
        raise InputDataError.unexpected(
            path,
            "a newline at the end of the file",
            repr(rest[-1:].decode("latin-1")),
            at=f"line {line_number}",
            summary="the last line has no end and may be cut off",
            advice="If the file is complete, add a newline at its end.",
        )
    yield rest


def read_lines(path: Path, *, max_lines: int, must_end: bool = False) -> Generator[list[bytes]]:
    """Yield lists of at most ``max_lines`` lines without newlines; see :func:`read_pieces`."""
    for piece in read_pieces(path, must_end=must_end):
        lines = piece.removesuffix(b"\n").split(b"\n")
        for start in range(0, len(lines), max_lines):
            yield lines[start : start + max_lines]
