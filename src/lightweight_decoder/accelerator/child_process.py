"""Run a program that may crash, hang, flood or lie, and come back in bounded time and memory."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    Message = dict[str, Any]

OUTPUT_LIMIT_BYTES = 1 << 20
_ERROR_TAIL_BYTES = 8192
_POLL_S = 0.05
_GRACE_S = 1.0  # a child in uninterruptible sleep cannot be reaped: do not wait for it


@dataclass(frozen=True)
class ChildOutcome:
    """What became of a child program.

    Attributes:
        messages: The JSON objects with a ``kind`` that it wrote, one a line; other lines are lost.
        ended: ``"exit"`` by itself, or stopped for its ``"time"`` or its ``"flood"`` of output.
        exit_code: Its exit status, negative for a signal; None if it was stopped.
        error_text: The end of what it wrote to standard error.
        elapsed_s: Wall-clock time.
    """

    messages: tuple[Message, ...]
    ended: Literal["exit", "time", "flood"]
    exit_code: int | None
    error_text: str
    elapsed_s: float


def run_child(
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    time_limit_s: float,
    on_message: Callable[[Message], float | None] | None = None,
) -> ChildOutcome:
    """Run a program in its own process group until it ends, floods, or its time is up.

    It has ``environment`` and no other. ``on_message`` is called with each record as it arrives and
    may return a new time limit in seconds, after which it and everything it started is killed.

    Raises:
        OSError: If the program cannot be started.
    """
    began = time.monotonic()
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=dict(environment),
        start_new_session=True,
    )
    chunks: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    errors: list[bytes] = []
    readers = (
        threading.Thread(target=_read_bounded, args=(process.stdout, chunks), daemon=True),
        threading.Thread(target=_read_tail, args=(process.stderr, errors), daemon=True),
    )
    for reader in readers:
        reader.start()
    messages: list[Message] = []

    def take(message: Message) -> float | None:
        messages.append(message)
        return on_message(message) if on_message else None

    exit_code = None
    try:
        ended = _listen(process, chunks, take, began=began, time_limit_s=time_limit_s)
        if ended == "exit":
            # Its output is closed: it ends now, or is stuck in its own teardown.
            with contextlib.suppress(subprocess.TimeoutExpired):
                exit_code = process.wait(_GRACE_S)
    finally:
        _kill_group(process)
        _close(process, readers)
    return ChildOutcome(
        messages=tuple(messages),
        ended=ended,
        exit_code=exit_code,
        error_text=b"".join(errors)[-_ERROR_TAIL_BYTES:].decode(errors="replace"),
        elapsed_s=time.monotonic() - began,
    )


def _listen(
    process: subprocess.Popen[bytes],
    chunks: queue.SimpleQueue[bytes | None],
    take: Callable[[Message], float | None],
    *,
    began: float,
    time_limit_s: float,
) -> Literal["exit", "time", "flood"]:
    """Hand on records until the child's output ends, is too much, or takes too long."""
    pending, size = b"", 0
    while (left_s := began + time_limit_s - time.monotonic()) > 0:
        exited = process.poll() is not None
        try:
            chunk = chunks.get(timeout=min(_POLL_S, left_s))
        except queue.Empty:
            if exited:  # something it started may still hold the pipe: nothing more will come
                return "exit"
            continue
        if chunk is None:
            return "exit"
        size += len(chunk)
        if size > OUTPUT_LIMIT_BYTES:
            return "flood"
        *lines, pending = (pending + chunk).split(b"\n")
        for message in filter(None, map(_parse, lines)):
            time_limit_s = take(message) or time_limit_s
    return "time"


def _read_bounded(pipe: IO[bytes], chunks: queue.SimpleQueue[bytes | None]) -> None:
    """Hand on what a pipe gives until it ends or has given more than the limit."""
    size = 0
    while size <= OUTPUT_LIMIT_BYTES and (chunk := os.read(pipe.fileno(), 1 << 16)):
        size += len(chunk)
        chunks.put(chunk)
    chunks.put(None)


def _read_tail(pipe: IO[bytes], errors: list[bytes]) -> None:
    """Read a pipe to its end, however long it is, and keep the last two chunks."""
    while chunk := os.read(pipe.fileno(), 1 << 16):
        errors.append(chunk)
        del errors[:-2]


def _parse(line: bytes) -> Message | None:
    """Return the record in a line, or None for anything else."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return message if isinstance(message, dict) and isinstance(message.get("kind"), str) else None


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a child and all it started; whether it dies is its business."""
    if sys.platform == "win32":
        process.kill()
    else:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_GRACE_S)


def _close(process: subprocess.Popen[bytes], readers: Sequence[threading.Thread]) -> None:
    """Close the pipes whose readers are done; a pipe that is still read must stay open."""
    for pipe, reader in zip((process.stdout, process.stderr), readers, strict=True):
        reader.join(_GRACE_S)
        if pipe and not reader.is_alive():
            pipe.close()
