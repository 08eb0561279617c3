"""Bytes of a file, unpacked on the way where it is inside gzip or zstd."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import pyarrow as pa

from lightweight_decoder.errors import InputDataError

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

CHUNK_BYTES = 2**20
"""What is read at a time: small enough to stay in the processor's cache."""

MAX_LINE_BYTES = 4 * 2**20
"""Longer lines are no embeddings; a row of a table has to fit in as much."""

CODECS = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}


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


def codec_of(path: Path) -> str | None:
    """Return the codec that a file's first bytes name, if any."""
    with path.open("rb") as file:
        start = file.read(4)
    return next((codec for magic, codec in CODECS.items() if start.startswith(magic)), None)


def read_head(path: Path, num_bytes: int) -> bytes:
    """Return a file's first bytes, unpacked; fewer where it is shorter."""
    with open_stream(path) as stream:
        return read_up_to(stream, num_bytes)


def read_up_to(stream: pa.NativeFile, num_bytes: int) -> bytes:
    """Read until there are so many bytes or the stream ends."""
    parts = []
    while num_bytes and (part := stream.read(num_bytes)):
        parts.append(part)
        num_bytes -= len(part)
    return b"".join(parts)


def read_lines(path: Path, *, max_lines: int) -> Generator[list[bytes]]:
    """Yield lists of at most ``max_lines`` lines without their newlines, in bounded memory.

    Raises:
        InputDataError: A line is longer than 4 MiB, or the last one of a file that is not packed
            has no newline: the number at its end may be cut off, and nothing would tell.
    """
    rest, line_number = b"", 1
    with open_stream(path) as stream:
        while chunk := stream.read(CHUNK_BYTES):
            lines = (rest + chunk).split(b"\n")
            rest = lines.pop()
            line_number += len(lines)
            if len(rest) > MAX_LINE_BYTES:
                raise InputDataError(
                    "a line is too long",
                    where=path,
                    at=f"line {line_number}",
                    expected=f"at most {MAX_LINE_BYTES} bytes",
                    found="a longer line",
                    advice="The file may not be the text format that it looks like.",
                )
            for start in range(0, len(lines), max_lines):
                yield lines[start : start + max_lines]
    if rest:
        require_final_newline(path)
        yield [rest]


def require_final_newline(path: Path) -> None:
    """Refuse a file, if not packed, whose last line may have lost its end."""
    if codec_of(path) is not None:
        return
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - 1))
        last = file.read(1)
    if last not in (b"\n", b"\r"):
        raise InputDataError(
            "the last line has no end and may be cut off",
            where=path,
            at=f"byte {size}",
            expected="a newline at the end of the file",
            found=repr(last.decode("latin-1")),
            advice="If the file is complete, add a newline at its end.",
        )
