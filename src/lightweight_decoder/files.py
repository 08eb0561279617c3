"""Files that are whole or not there, and where files of the user's own are kept."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from lightweight_decoder.errors import InputDataError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lightweight_decoder.errors import LightweightDecoderError

CACHE_VARIABLE = "LIGHTWEIGHT_DECODER_CACHE"
"""Environment variable that names the folder of all caches."""

_WRITTEN_THROUGH = {"/dev/null", "/dev/stdout", "/dev/stderr"}
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_LONGEST_PREFIX = 40  # of at most 4 bytes each: a name may have 255


def user_cache_dir() -> Path:
    """Return ``$LIGHTWEIGHT_DECODER_CACHE``, else the user's folder for caches; it may be missing.

    Nothing in it is ever needed: what cannot be read or written there is made anew.
    """
    if chosen := os.environ.get(CACHE_VARIABLE):
        return Path(chosen)
    import platformdirs  # noqa: PLC0415, most calls do without it

    return platformdirs.user_cache_path("lightweight-decoder", appauthor=False)


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading; an ``OSError`` where it is a pipe or a device, which may not end."""
    kind = stat.S_IFMT(path.stat().st_mode)
    if kind != stat.S_IFREG:
        raise OSError(errno.EINVAL, f"{_KINDS.get(kind, 'something else')}, no file", str(path))
    return path.open("rb")


@contextlib.contextmanager
def whole_file(
    path: Path,
    *,
    error: type[LightweightDecoderError] = InputDataError,
    advice: str = "Free some space or name another folder.",
) -> Iterator[Path]:
    """Yield a temporary file beside ``path``, put in its place once everything is on the disk.

    A link is followed: what it points to is replaced. What replaces a file has its mode and, as far
    as the user may give it, its owner. ``/dev/null``, ``/dev/stdout`` and ``/dev/stderr`` are
    written through; everything else that is no regular file is refused.

    Raises:
        LightweightDecoderError: ``error``, with this advice; what was at ``path`` is still there.
    """
    target, temporary = Path(os.path.realpath(path)), None
    through = bool({os.path.abspath(path), str(target)} & _WRITTEN_THROUGH)  # noqa: PTH100, links stay
    try:
        if through:
            yield path
            return
        before = _replaceable(target)
        # named before it is there, or a signal in between would leave it behind
        temporary = target.with_name(f".{target.name[:_LONGEST_PREFIX]}.{secrets.token_hex(4)}")
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        _give_mode(temporary, before)
        temporary.replace(target)
        sync_folder(target.parent)
    except OSError as refusal:
        raise error(
            "the file cannot be written",
            where=path,
            found=refusal.strerror or str(refusal),
            advice=advice,
        ) from refusal
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _replaceable(target: Path) -> os.stat_result | None:
    """Return the status of the regular file that may be replaced, None where nothing is."""
    try:
        status = target.stat()
    except FileNotFoundError:
        return None
    kind = stat.S_IFMT(status.st_mode)
    if kind != stat.S_IFREG:
        raise OSError(errno.EINVAL, f"{_KINDS.get(kind, 'something else')} is there")
    if not os.access(target, os.W_OK):
        raise OSError(errno.EACCES, "a file is there that may not be written to")
    return status


def _give_mode(temporary: Path, before: os.stat_result | None) -> None:
    """Give a new file the mode of the one that it replaces, or that of any new file."""
    if before is None:
        mask = os.umask(0)  # which temporary files do not follow
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        return
    with contextlib.suppress(OSError, AttributeError):  # not everybody may, or can
        os.chown(temporary, before.st_uid, before.st_gid)
    temporary.chmod(stat.S_IMODE(before.st_mode))


def sync_folder(folder: Path) -> None:
    """Make a folder's entries survive a power cut, where the system can open folders."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
