"""How much memory the process may hold, kept by the system and told by an error, and has held."""

from __future__ import annotations

import contextlib
import errno
import re
import sys
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

import pyarrow as pa
import torch

from lightweight_decoder.errors import MemoryBudgetError

try:
    import resource
except ImportError:  # on Windows
    resource = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

GIB = 2**30

_STACK_BYTES = 8 * 2**20  # the usual size of a thread's stack, of which little is ever touched
_OTHER_THREADS = 8  # progress bars, writers in the background
_EXHAUSTED = ("Cannot allocate memory", "not enough memory", "bad_alloc", "can't start new thread")
"""In the messages of RuntimeErrors: of torch (Linux, Windows), C++ libraries and Python."""

_in_force = Event()


@contextlib.contextmanager
def memory_budget(
    gib: float | None, *, work: str, advice: str, device: str = "cpu"
) -> Iterator[None]:
    """Let the block hold so many GiB more than the process holds now, and no more; None: no limit.

    Linux refuses what is beyond (``RLIMIT_DATA``): memory that can be written to and belongs to
    this process alone. Mapped files do not count, nor the stacks of threads, for which 8 MiB each
    are added. Elsewhere, and where a GPU is used, whose driver reserves far more than it takes,
    only ``require_memory`` keeps to the budget. Worker processes have the same budget each.

    The message says what the block does (``work``: "decoding") and how to do with less (``advice``,
    to follow "Raise max_memory_gb, or").

    Raises:
        MemoryBudgetError: The memory was not enough.
    """
    if gib is None:
        yield
        return
    try:
        with _limited(round(gib * GIB)) if _can_be_limited(device) else contextlib.nullcontext():
            yield
    except Exception as error:
        cause = _exhaustion(error)
        if cause is None or isinstance(error, MemoryBudgetError):
            raise
        raise _too_small(gib, work, f"refused: {_in_one_line(cause)}", advice) from error


def require_memory(gib: float | None, needed: Mapping[str, int], *, work: str, advice: str) -> None:
    """Refuse work that would hold more than a budget in GiB for sure, before it starts.

    ``needed`` are bytes that the work holds at once, by what they are for; the others are as of
    ``memory_budget``.

    Raises:
        MemoryBudgetError: The sum is above the budget; the message has all parts.
    """
    total = sum(needed.values())
    if gib is not None and total > gib * GIB:
        parts = ", ".join(f"{size / GIB:.3g} for {name}" for name, size in needed.items())
        raise _too_small(gib, work, f"needs at least {total / GIB:.3g} GiB ({parts})", advice)


def move_limit(num_bytes: int) -> None:
    """Move the limit in force, if there is one, by the size of a map that is not to count.

    Meant for maps of files that are private and writable, but never written to.
    """
    if _in_force.is_set():
        soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
        _set_limit(soft + num_bytes, hard)


def peak_memory_bytes() -> int:
    """Return the most memory that this process has held at once so far, mapped files included."""
    if resource is None:
        import psutil  # type: ignore[import-untyped]  # noqa: PLC0415 - for Windows alone

        return int(psutil.Process().memory_info().peak_wset)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


@contextlib.contextmanager
def _limited(num_bytes: int) -> Iterator[None]:
    """Have the system refuse more than so much more."""
    torch.zeros(2**18).add_(1)  # now torch's threads, and their stacks, are there
    num_threads = 2 * pa.cpu_count() + pa.io_thread_count() + _OTHER_THREADS
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    _set_limit(_data_bytes() + num_bytes + num_threads * _STACK_BYTES, hard)
    _in_force.set()
    try:
        yield
    finally:
        _in_force.clear()
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _set_limit(num_bytes: int, hard: int) -> None:
    """Set the limit, as far as the process may."""
    soft = num_bytes if hard == resource.RLIM_INFINITY else min(num_bytes, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _can_be_limited(device: str) -> bool:
    """Say whether the system can hold this work to a limit."""
    return sys.platform == "linux" and hasattr(resource, "RLIMIT_DATA") and device == "cpu"


def _data_bytes() -> int:
    """Return what counts for ``RLIMIT_DATA`` of what this process holds."""
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    (kilobytes,) = re.findall(r"^VmData:\s+(\d+) kB$", status, re.MULTILINE)
    return int(kilobytes) * 1024


def _exhaustion(error: BaseException | None) -> BaseException | None:
    """Return what says that memory ran out: an error or what caused it."""
    while error is not None and not _says_so(error):
        error = error.__cause__
    return error


def _says_so(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    told = isinstance(error, RuntimeError) and any(text in str(error) for text in _EXHAUSTED)
    return told or isinstance(error, MemoryError)  # numpy's and pyarrow's are of this kind


def _in_one_line(error: BaseException) -> str:
    """Return the message of an error, which may be empty, without places in C++ sources."""
    message = re.sub(r"^\[enforce fail at .*?\] .*?\. ", "", str(error))
    return " ".join(message.split()) or type(error).__name__


def _too_small(gib: float, work: str, found: str, advice: str) -> MemoryBudgetError:
    return MemoryBudgetError(
        f"{work} takes more memory than it may",
        where="max_memory_gb",
        expected=f"at most {gib:g} GiB above what the process holds at its start",
        found=found,
        advice=f"Raise max_memory_gb, or {advice}",
    )
