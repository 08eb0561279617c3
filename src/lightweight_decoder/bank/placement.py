"""Puts a finished folder in its place, or leaves everything as it was."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from typing import TYPE_CHECKING, Literal

from filelock import FileLock, Timeout

from lightweight_decoder.bank.manifest import MANIFEST_NAME
from lightweight_decoder.errors import BankBuildError, ResumeError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Interrupted = Literal["discard", "keep", "resume"]

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def placed_when_finished(
    output: Path, *, overwrite: bool, interrupted: Interrupted = "discard"
) -> Iterator[Path]:
    """Give a temporary sibling of ``output`` to write into; rename it to ``output`` at the end.

    If the body raises an error, the sibling is removed and ``output`` stays untouched. A killed
    process leaves the sibling behind and nothing under the final name.

    Args:
        output: The final folder.
        overwrite: Whether a bank that is there may be replaced. Nothing but a bank (or an empty
            folder) ever is.
        interrupted: ``"discard"``: Ctrl-C removes the sibling too. ``"keep"``: Ctrl-C leaves it,
            what an earlier one left is removed. ``"resume"``: that is given back as it is.

    Raises:
        BankBuildError: If ``output`` exists and may not be replaced, cannot be written, or is being
            built by another process at this moment (not where interrupted builds are discarded).
    """
    _check_replaceable(output, overwrite=overwrite)
    suffix = f"-{os.getpid()}" if interrupted == "discard" else ""
    partial = output.with_name(f".{output.name}.partial{suffix}")
    with _reporting_unwritable(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        lock = contextlib.nullcontext() if interrupted == "discard" else _locked(partial)
    with lock:
        with _reporting_unwritable(output):
            _prepare(partial, resume=interrupted == "resume")
        try:
            yield partial
            with _reporting_unwritable(output):
                _sync_folder(partial)
                _move(partial, output)
                _sync_folder(output.parent)
        except ResumeError:
            raise
        except BaseException as error:
            if interrupted == "discard" or isinstance(error, Exception):
                shutil.rmtree(partial, ignore_errors=True)
            else:
                _log.warning("%s is kept; resume=true goes on with it", partial)
            raise


def _prepare(partial: Path, *, resume: bool) -> None:
    """Make an empty folder, or find the one of the build to go on with."""
    if partial.is_dir() and resume:
        _log.info("going on with %s", partial)
        return
    if partial.is_dir():
        # Process ids come again: what a killed process of the same number left is in the way.
        _log.warning("removing %s, which an interrupted build left", partial)
        shutil.rmtree(partial)
    elif resume:
        _log.info("there is no interrupted build to go on with, starting anew")
    partial.mkdir()


@contextlib.contextmanager
def _locked(partial: Path) -> Iterator[None]:
    """Hold the lock on ``partial`` that no other process can have at the same time."""
    path = partial.with_name(f"{partial.name}.lock")
    lock = FileLock(path, timeout=0)
    with _reporting_unwritable(partial):
        try:
            lock.acquire()
        except Timeout as error:
            raise BankBuildError(
                "another process is building this bank",
                where=partial,
                expected="one build at a time",
                found=f"{path.name} is locked",
                advice="Wait for it, or choose another output",
            ) from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()
        lock.release()


def _check_replaceable(output: Path, *, overwrite: bool) -> None:
    """Refuse to replace what the caller may want to keep."""
    if not os.path.lexists(output):
        return
    if not overwrite:
        raise BankBuildError(
            "the output exists already",
            where=output,
            expected="a path where nothing is",
            advice="Choose another path, or allow it to be replaced with overwrite=true",
        )
    if not (output.is_dir() and ((output / MANIFEST_NAME).exists() or not any(output.iterdir()))):
        raise BankBuildError(
            "the output exists and is not a phrase bank, so it is not replaced",
            where=output,
            expected="a phrase bank, an empty folder or nothing",
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
        raise BankBuildError(
            "the output folder cannot be written",
            where=output,
            expected="a folder that can be made and renamed",
            found=f"{error.strerror} ({error.filename})",
            advice="Choose another path, or give write permission",
        ) from error
