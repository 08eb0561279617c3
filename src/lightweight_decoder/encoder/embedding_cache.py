"""Vectors of texts on disk, so that no text is ever encoded twice by the same encoder."""

from __future__ import annotations

import hashlib
import logging
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lightweight_decoder.datatypes import FloatArray, IntArray

_T = TypeVar("_T")

_log = logging.getLogger(__name__)

_KEY_BYTES = 16  # collisions among a billion texts: about 1 in 10**21
_PAGE_BYTES = 16_384  # ten 384-wide vectors a page; the usual 4,096 would leave a quarter empty
_KEYS_PER_SELECT = 500  # below the 999 variables of old SQLite builds
_BUSY_SECONDS = 60.0
_STORED_DTYPE = np.dtype("<f4")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS vectors (key BLOB PRIMARY KEY, vector BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS width (id INTEGER PRIMARY KEY CHECK (id = 0), dim INTEGER NOT NULL);
"""


class EmbeddingCache:
    """Float32 vectors of width d in one SQLite file, found by the hash of their text.

    A cache is never a reason to fail: a damaged file, or one whose vectors have another width, is
    set aside under another name with a warning, and where the folder cannot be used everything
    goes on without a cache, after one warning. Several processes may use one file at once. Each
    call opens and closes the file, so a cache may be pickled and survives a fork.

    Args:
        path: The file; it and its folder are made when the first vectors are stored.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._usable = True

    def dim(self) -> int | None:
        """Return d, or None while nothing is stored."""
        return self._use(_read_dim, otherwise=None)

    def get(self, texts: Sequence[str]) -> tuple[IntArray, FloatArray]:
        """Look texts up.

        Args:
            texts: m texts.

        Returns:
            (f,) int64 places in ``texts`` of those that were found, ascending, and their (f, d)
            float32 vectors; d is 0 where nothing was ever stored.
        """
        keys = [_key(text) for text in texts]
        return self._use(lambda connection: _select(connection, keys), otherwise=_nothing())

    def put(self, texts: Sequence[str], vectors: FloatArray) -> None:
        """Store (b, d) float32 vectors of b texts, all or, if the process is killed, none."""
        keys = [_key(text) for text in texts]
        stored = [row.tobytes() for row in vectors.astype(_STORED_DTYPE, copy=False)]
        self._use(
            lambda connection: _insert(connection, keys, stored, dim=vectors.shape[1]),
            otherwise=None,
            create=True,
        )

    def _use(
        self, work: Callable[[sqlite3.Connection], _T], *, otherwise: _T, create: bool = False
    ) -> _T:
        """Return what work on the file gives, or the other value where there is no usable file."""
        if not self._usable or not (create or self._exists()):
            return otherwise
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self.path, timeout=_BUSY_SECONDS)) as connection:
                _prepare(connection)
                return work(connection)
        except (sqlite3.DatabaseError, _UnusableFileError, OSError) as error:
            if _is_damage(error):
                self._set_aside(error)
            else:
                self._give_up(error)
        return otherwise

    def _exists(self) -> bool:
        """Say whether there is a file, as far as one may look."""
        try:
            return self.path.exists()
        except OSError:
            return False

    def _give_up(self, error: Exception) -> None:
        """Go on without a cache, and say so once."""
        self._usable = False
        _log.warning(
            "%s: the cache of vectors cannot be used, going on without: %s", self.path, error
        )

    def _set_aside(self, error: Exception) -> None:
        """Rename the file, so that the next vectors go to a new one."""
        aside = self.path.with_name(f"{self.path.name}.damaged-{time.time_ns()}")
        _log.warning(
            "%s: the cache of vectors is set aside as %s: %s", self.path, aside.name, error
        )
        try:
            self.path.replace(aside)
            for suffix in ("-wal", "-shm"):  # they belong to the file that is gone
                Path(f"{self.path}{suffix}").unlink(missing_ok=True)
        except OSError as problem:
            self._give_up(problem)


class _UnusableFileError(Exception):
    """A cache file holds what no cache of ours would have written."""


def _is_damage(error: Exception) -> bool:
    """Tell a file that is wrong (other bytes, other tables) from one that cannot be used now."""
    if isinstance(error, sqlite3.OperationalError):
        return error.sqlite_errorcode == sqlite3.SQLITE_ERROR  # the statement does not fit the file
    return not isinstance(error, OSError)


def _key(text: str) -> bytes:
    """Hash a text."""
    encoded = text.encode("utf-8", errors="surrogatepass")
    return hashlib.blake2b(encoded, digest_size=_KEY_BYTES).digest()


def _prepare(connection: sqlite3.Connection) -> None:
    """Set a connection up, and make the tables where they are missing."""
    connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
    connection.execute("PRAGMA journal_mode = WAL")  # readers and one writer at once
    connection.execute("PRAGMA synchronous = NORMAL")  # a power cut may lose the last chunk only
    connection.executescript(_SCHEMA)


def _read_dim(connection: sqlite3.Connection) -> int | None:
    """Return the width of the stored vectors, None before the first."""
    row = connection.execute("SELECT dim FROM width").fetchone()
    return None if row is None else int(row[0])


def _select(connection: sqlite3.Connection, keys: list[bytes]) -> tuple[IntArray, FloatArray]:
    """Look keys up; see :meth:`EmbeddingCache.get`."""
    dim = _read_dim(connection)
    if dim is None:
        return _nothing()
    stored: dict[bytes, bytes] = {}
    for start in range(0, len(keys), _KEYS_PER_SELECT):
        some = keys[start : start + _KEYS_PER_SELECT]
        marks = ",".join("?" * len(some))
        query = f"SELECT key, vector FROM vectors WHERE key IN ({marks})"  # noqa: S608, marks only
        stored.update(connection.execute(query, some))
    places = [place for place, key in enumerate(keys) if key in stored]
    rows = [stored[keys[place]] for place in places]
    wanted = dim * _STORED_DTYPE.itemsize
    if any(len(row) != wanted for row in rows):
        raise _UnusableFileError(f"a vector that is not {wanted} bytes long")
    vectors = np.frombuffer(bytearray().join(rows), dtype=_STORED_DTYPE).reshape(len(rows), dim)
    if not np.isfinite(vectors).all():
        raise _UnusableFileError("a vector that is not finite")
    return np.array(places, dtype=np.int64), vectors.astype(np.float32, copy=False)


def _insert(
    connection: sqlite3.Connection, keys: list[bytes], vectors: list[bytes], *, dim: int
) -> None:
    """Store vectors in one transaction."""
    stored_dim = _read_dim(connection)
    if stored_dim not in (None, dim):
        raise _UnusableFileError(f"vectors of width {stored_dim}, not {dim}")
    with connection:
        connection.execute("INSERT OR IGNORE INTO width VALUES (0, ?)", (dim,))
        rows = zip(keys, vectors, strict=True)
        connection.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?)", rows)


def _nothing() -> tuple[IntArray, FloatArray]:
    """Return the answer of an empty cache."""
    return np.empty(0, dtype=np.int64), np.empty((0, 0), dtype=np.float32)
