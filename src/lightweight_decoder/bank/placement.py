"""Puts a finished folder in its place, or leaves everything as it was."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import logging
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lightweight_decoder.bank.manifest import (
    FILE_NAMES,
    MANIFEST_NAME,
    PREPROCESSING_NAME,
    VECTORS_NAME,
    old_place,
)
from lightweight_decoder.errors import BankBuildError, InputDataError
from lightweight_decoder.files import sync_folder

try:
    import fcntl
except ModuleNotFoundError:  # on Windows
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_NAMES = {MANIFEST_NAME, *FILE_NAMES, PREPROCESSING_NAME}
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_CANNOT_EXCHANGE = {errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM}

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def placed_when_finished(output: Path, *, overwrite: bool) -> Iterator[Path]:
    """Give a temporary sibling of ``output`` to write into; rename it to ``output`` at the end.

    If the body raises, Ctrl-C included, the sibling is removed and ``output`` stays untouched. A
    killed process leaves the sibling, ``.NAME.partial``; the next build of the same output replaces
    it. One that is building at the moment is waited for.

    At every moment there is a whole bank under the name, the old or the new: the two are exchanged
    in one step. Where the file system cannot do that (only Linux can, and not on all of them), the
    old one is ``.NAME.old`` for an instant; a process killed there leaves it so, and the next build
    puts it back first.

    Args:
        output: The final folder; a link to it is followed.
        overwrite: Whether a bank that is there may be replaced. Nothing but a bank (or an empty
            folder) ever is.

    Raises:
        BankBuildError: If ``output`` exists and may not be replaced, or cannot be written.
    """
    output = Path(os.path.realpath(output))
    _check_replaceable(output, overwrite=overwrite)
    partial = output.with_name(f".{output.name}.partial")
    with contextlib.ExitStack() as stack:
        with _reporting_unwritable(output):
            output.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(_taken(partial))
        try:
            with _reporting_unwritable(output):
                _restore(output)
            _check_replaceable(output, overwrite=overwrite)  # another process may have built it
            with _reporting_unwritable(output):
                _empty(partial)
            yield partial
            with _reporting_unwritable(output):
                sync_folder(partial)
                _move(partial, output)
                sync_folder(output.parent)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise


def refuse_output_over(output: Path, inputs: Iterable[Path]) -> None:
    """Refuse an output file that would replace what it is made from, or part of a bank.

    Raises:
        InputDataError: If ``output`` is one of the inputs, by whatever name, or lies inside a
            phrase bank.
    """
    advice = "Choose another place with output="
    real = Path(os.path.realpath(output))
    for source in inputs:
        if real == Path(os.path.realpath(source)) or _is_same(real, source):
            problem = "the output would replace its input"
            raise InputDataError.unexpected(
                output, "a path of its own", f"the input {source}", summary=problem, advice=advice
            )
    for folder in real.parents:
        if (folder / MANIFEST_NAME).is_file() and (folder / VECTORS_NAME).is_file():
            problem, found = "the output lies inside a phrase bank", f"the bank {folder}"
            raise InputDataError.unexpected(
                output, "a place outside of every bank", found, summary=problem, advice=advice
            )


def _is_same(one: Path, other: Path) -> bool:
    """Say whether two names are of one file."""
    try:
        return one.samefile(other)
    except OSError:
        return False


@contextlib.contextmanager
def _taken(folder: Path) -> Iterator[None]:
    """Make a folder and lock it, so that no other process writes into it."""
    with contextlib.ExitStack() as stack:
        while not _took(folder, stack):
            stack.close()
        yield


def _took(folder: Path, stack: contextlib.ExitStack) -> bool:
    """Make and lock a folder; False where who had it before put it in its place."""
    try:
        folder.mkdir(exist_ok=True)
        return os.path.samestat(stack.enter_context(_locked(folder)), folder.stat())
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[os.stat_result]:
    """Lock a folder itself, so that no lock is ever left; give what it is by then."""
    if fcntl is None:
        yield folder.stat()
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                _log.warning("waiting for another process, which is writing %s", folder)
                fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield os.fstat(descriptor)
    finally:
        os.close(descriptor)


def _empty(partial: Path) -> None:
    """Remove what a killed build left."""
    left = list(partial.iterdir())
    if left:
        _log.warning("removing what an interrupted build left in %s", partial)
    for path in left:
        path.unlink()


def _check_replaceable(output: Path, *, overwrite: bool) -> None:
    """Refuse to replace what the caller may want to keep."""
    refuse_output_over(output, ())
    if not os.path.lexists(output):
        return
    if not overwrite:
        expected = "a path where nothing is"
        problem = "the output exists already"
        advice = "Choose another path, or allow it to be replaced with overwrite=true"
        raise BankBuildError.unexpected(output, expected, None, summary=problem, advice=advice)
    if not _is_bank_or_empty(output):
        expected = "a phrase bank and nothing else, an empty folder, or nothing"
        problem = "the output exists and is not a phrase bank, so it is not replaced"
        advice = "Choose another path"
        raise BankBuildError.unexpected(output, expected, None, summary=problem, advice=advice)


def _is_bank_or_empty(folder: Path) -> bool:
    """Say whether a folder holds nothing, or a bank and nothing else."""
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else {""}
    return not names or MANIFEST_NAME in names <= _NAMES


def _move(partial: Path, output: Path) -> None:
    """Put ``partial`` where ``output`` is, and remove what was there."""
    if not output.exists():
        partial.rename(output)
        return
    with _locked(output):  # whoever waits for the name of ``partial`` waits until it is gone
        if not _exchanged(partial, output):
            output.rename(old_place(output))
            try:
                partial.rename(output)
            except BaseException:
                old_place(output).rename(output)
                raise
            old_place(output).rename(partial)
        shutil.rmtree(partial, ignore_errors=True)


def _exchanged(one: Path, other: Path) -> bool:
    """Exchange two folders in one step; False where the system cannot do that."""
    if not sys.platform.startswith("linux"):
        return False
    library = ctypes.CDLL(None, use_errno=True)
    if not hasattr(library, "renameat2"):
        return False
    names = os.fsencode(one), os.fsencode(other)
    if library.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _CANNOT_EXCHANGE:
        return False
    raise OSError(number, os.strerror(number), str(other))


def _restore(output: Path) -> None:
    """Tidy up after a process that was killed while it replaced a bank without an exchange."""
    old = old_place(output)
    if old.exists() and not output.exists():
        _log.warning("putting %s back, which an interrupted build left as %s", output, old)
        old.rename(output)
    elif _is_bank_or_empty(old):
        shutil.rmtree(old)


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
