"""Puts a finished folder in its place, or leaves everything as it was."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from lightweight_decoder.bank.manifest import MANIFEST_NAME
from lightweight_decoder.errors import BankBuildError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_LOCK_NAME = ".lock"

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def placed_when_finished(output: Path, *, overwrite: bool) -> Iterator[Path]:
    """Give a temporary sibling of ``output`` to write into; rename it to ``output`` at the end.

    If the body raises, Ctrl-C included, the sibling is removed and ``output`` stays untouched. A
    killed process leaves the sibling, ``.NAME.partial``, and nothing under the final name; the next
    build of the same output replaces it. One that is building at the moment is waited for.

    Args:
        output: The final folder.
        overwrite: Whether a bank that is there may be replaced. Nothing but a bank (or an empty
            folder) ever is.

    Raises:
        BankBuildError: If ``output`` exists and may not be replaced, or cannot be written.
    """
    _check_replaceable(output, overwrite=overwrite)
    partial = output.with_name(f".{output.name}.partial")
    with _reporting_unwritable(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        lock = _take(partial)
    try:
        _check_replaceable(output, overwrite=overwrite)  # another process may have built it
        with _reporting_unwritable(output):
            _empty(partial)
        yield partial
        with _reporting_unwritable(output):
            (partial / _LOCK_NAME).unlink()
            _sync_folder(partial)
            _move(partial, output)
            _sync_folder(output.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    finally:
        lock.release()


def _take(partial: Path) -> FileLock:
    """Make a folder and lock it, so that no other process writes into it."""
    lock = FileLock(partial / _LOCK_NAME)
    while True:
        partial.mkdir(exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # who had it put the folder in its place
            try:
                lock.acquire(timeout=0)
            except Timeout:
                _log.warning("waiting for another process, which is building into %s", partial)
                lock.acquire()
            if (partial / _LOCK_NAME).exists():
                return lock
            lock.release()


def _empty(partial: Path) -> None:
    """Remove what a killed build left."""
    left = [path for path in partial.iterdir() if path.name != _LOCK_NAME]
    if left:
        _log.warning("removing what an interrupted build left in %s", partial)
    for path in left:
        path.unlink()


def _check_replaceable(output: Path, *, overwrite: bool) -> None:
    """Refuse to replace what the caller may want to keep."""
    if not os.path.lexists(output):
        return
    if not overwrite:
        raise BankBuildError.unexpected(
            output,
            "a path where nothing is",
            None,
            summary="the output exists already",
            advice="Choose another path, or allow it to be replaced with overwrite=true",
        )
    if not (output.is_dir() and ((output / MANIFEST_NAME).exists() or not any(output.iterdir()))):
        raise BankBuildError.unexpected(
            output,
            "a phrase bank, an empty folder or nothing",
            None,
            summary="the output exists and is not a phrase bank, so it is not replaced",
            advice="Choose another path",
        )


def _move(partial: Path, output: Path) -> None:
    """Rename ``partial`` to ``output``; what was there is back in place if that fails."""
    if not output.exists():
        partial.rename(output)
        return
    old = output.with_name(f".{output.name}.old-{os.getpid()}")
    shutil.rmtree(old, ignore_errors=True)
    output.rename(old)
    try:
        partial.rename(output)
    except BaseException:
        old.rename(output)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _sync_folder(folder: Path) -> None:
    """Make a folder's entries survive a power cut, where the system can open folders."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _reporting_unwritable(output: Path) -> Iterator[None]:
    """Turn a failure of the file system into an error of ours."""
    try:
        yield
    except OSError as error:
        raise BankBuildError.unexpected(
            output,
            "a folder that can be made and renamed",
            f"{error.strerror} ({error.filename})",
            summary="the output folder cannot be written",
            advice="Choose another path, or give write permission",
        ) from error
