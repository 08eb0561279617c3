"""What an installed torch has kernels for, read from its file."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from lightweight_decoder.accelerator.verdict_cache import cache_directory

if TYPE_CHECKING:
    from collections.abc import Iterator

_ARCH = rb"(?:(?:sm|compute)_\d+[a-z]?|gfx[0-9a-f]+(?:-generic)?(?::[a-z]+[+-])*)"
_ARCH_LIST = re.compile(rb"\0(" + _ARCH + rb"(?: " + _ARCH + rb")*)\0")
_ARCH_STARTS = (b"\0sm_", b"\0compute_", b"\0gfx")
_NOT_FOUND = -1


def read_arch_list() -> tuple[str, ...]:
    """Return the architectures that the installed torch was built for; empty where it has no list.

    torch's own way to ask, ``torch._C._cuda_getArchFlags()``, reads the same text, but marks this
    process: CUDA then refuses to start in a forked child ("Cannot re-initialize CUDA in forked
    subprocess"; seen with torch 2.11 and 2.14). Reading the file takes 0.1 s, so the answer is
    kept in the user's cache for as long as the file does not change.
    """
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return ()
    library = Path(spec.origin).parent / "lib" / "libtorch_python.so"
    with contextlib.suppress(OSError):
        note = _note(library)
        if not note.is_file():
            _keep(note, _scan(library))
        return tuple(note.read_text(encoding="ascii").split())
    with contextlib.suppress(OSError):  # the cache cannot be written
        return tuple(_scan(library).split())
    return ()


def _note(library: Path) -> Path:
    """Where the answer for this very file is kept."""
    status = library.stat()
    identity = f"{library} {status.st_size} {status.st_mtime_ns}"
    name = hashlib.sha256(identity.encode()).hexdigest()[:32]
    return cache_directory() / "arch_lists" / f"{name}.txt"


def _keep(note: Path, text: str) -> None:
    """Write the note at once or not at all."""
    note.parent.mkdir(parents=True, exist_ok=True)
    partial = note.with_suffix(f".{os.getpid()}")
    partial.write_text(text, encoding="ascii")
    partial.replace(note)


def _scan(library: Path) -> str:
    """Return the longest list of architectures in the file."""
    content = library.read_bytes()
    return max(_lists(content), key=len, default=b"").decode()


def _lists(content: bytes) -> Iterator[bytes]:
    """Each text that is a list of architectures."""
    for start in _ARCH_STARTS:
        place = content.find(start)  # ten times as fast as searching with the pattern
        while place != _NOT_FOUND:
            if found := _ARCH_LIST.match(content, place):
                yield found[1]
            place = content.find(start, place + 1)
