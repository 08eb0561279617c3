"""Files that are whole or not there, and where files of the user's own are kept."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from lightweight_decoder.errors import InputDataError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lightweight_decoder.errors import LightweightDecoderError


CACHE_VARIABLE = "LIGHTWEIGHT_DECODER_CACHE"
"""Environment variable that names the folder of all caches."""


def user_cache_dir() -> Path:
    """Return ``$LIGHTWEIGHT_DECODER_CACHE``, else the user's folder for caches; it may be missing.

    Nothing in it is ever needed: what cannot be read or written there is made anew.
    """
    if chosen := os.environ.get(CACHE_VARIABLE):
        return Path(chosen)
    import platformdirs  # noqa: PLC0415, most calls do without it

    return platformdirs.user_cache_path("lightweight-decoder", appauthor=False)


@contextlib.contextmanager
def whole_file(
    path: Path,
    *,
    error: type[LightweightDecoderError] = InputDataError,
    advice: str = "Free some space or name another folder.",
) -> Iterator[Path]:
    """Yield a temporary file beside ``path``, put in its place once everything is written.

    Args:
        path: The file to make or to replace.
        error: What to raise where that is refused.
        advice: What to do then.

    Raises:
        LightweightDecoderError: ``error``; what was at ``path`` before is still there.
    """
    temporary = None
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
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


def _umask() -> int:
    """Return the process's mask for new files, which temporary files do not follow."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
