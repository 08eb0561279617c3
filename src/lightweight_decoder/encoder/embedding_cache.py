"""Vectors of texts on disk, so that no text is ever encoded twice by the same encoder."""

from __future__ import annotations

import hashlib
import logging
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lightweight_decoder.datatypes import FloatArray, IntArray

_T = TypeVar("_T")

_log = logging.getLogger(__name__)

_KEY_BYTES = 16  # collisions among a billion texts: about 1 in 10**21
_SUM_BYTES = 8
_PAGE_BYTES = 16_384  # ten 384-wide vectors a page; the usual 4,096 would leave a quarter empty
_KEYS_PER_SELECT = 500  # below the 999 variables of old SQLite builds
_BUSY_SECONDS = 60.0
_STORED_DTYPE = np.dtype("<f4")

_MOST_DIMS = 2**20  # above every encoder there is: a damaged number must not ask for memory

_SCHEMA = """
CREATE TABLE IF NOT EXISTS vectors (key BLOB PRIMARY KEY, vector BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS notes
    (key BLOB PRIMARY KEY, sum BLOB NOT NULL, cut_at INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS width (id INTEGER PRIMARY KEY CHECK (id = 0), dim INTEGER NOT NULL);
"""
# notes stand apart because caches of version 0.1 have none, and that version reads ours
_LOOK_UP = """
SELECT key, vector, sum, cut_at FROM vectors LEFT JOIN notes USING (key) WHERE key IN
"""


class FoundVectors(NamedTuple):
    """What a cache has of m texts.

    Attributes:
        places: (f,) int64 places of those that were found, ascending.
        vectors: (f, d) float32; d is 0 where nothing was found.
        cut_at: (f,) int64 at how many tokens the encoder cut the text; 0: it read all.
    """

    places: IntArray
    vectors: FloatArray
    cut_at: IntArray


class _Row(NamedTuple):
    """What is stored of one text."""

    vector: bytes
    cut_at: int


class EmbeddingCache:
    """Float32 vectors of width d in one SQLite file, found by the hash of their text.

    A cache is never a reason to fail: a damaged file, or one whose vectors have another width, is
    set aside under another name with a warning, a vector that is not the one that was stored counts
    as missing, and where the folder cannot be used everything goes on without a cache, after one
    warning. Several processes may use one file at once. Each call opens and closes the file, so a
    cache may be pickled and survives a fork.

    Args:
        path: The file; it and its folder are made when the first vectors are stored.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._usable = True

    def dim(self) -> int | None:
        """Return d, or None while nothing is stored."""
        return self._use(_read_dim, otherwise=None)

    def get(self, texts: Sequence[str]) -> FoundVectors:
        """Look m texts up."""
        keys = [_key(text) for text in texts]
        nothing: dict[bytes, _Row | None] = {}
        stored = self._use(lambda connection: _select(connection, keys), otherwise=nothing)
        sound = {key: row for key, row in stored.items() if row is not None}
        if len(sound) < len(stored):
            _log.warning(
                "%s: %d vectors are not those that were stored, and are encoded anew",
                self.path,
                len(stored) - len(sound),
            )
        places = [place for place, key in enumerate(keys) if key in sound]
        rows = [sound[keys[place]] for place in places]
        vectors = np.frombuffer(bytearray().join(row.vector for row in rows), dtype=_STORED_DTYPE)
        return FoundVectors(
            np.array(places, dtype=np.int64),
            vectors.astype(np.float32, copy=False).reshape(len(places), -1 if places else 0),
            np.array([row.cut_at for row in rows], dtype=np.int64),
        )

    def put(
        self, texts: Sequence[str], vectors: FloatArray, cut_at: IntArray | None = None
    ) -> None:
        """Store vectors, all or, if the process is killed, none.

        Args:
            texts: b texts.
            vectors: (b, d) float32.
            cut_at: (b,) int64 at how many tokens the encoder cut the text; None: it read all.
        """
        keys = [_key(text) for text in texts]
        stored = [row.tobytes() for row in vectors.astype(_STORED_DTYPE, copy=False)]
        cut = [0] * len(keys) if cut_at is None else cut_at.tolist()
        rows = list(zip(keys, stored, cut, strict=True))
        self._use(
            lambda connection: _insert(connection, rows, dim=vectors.shape[1]),
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
        except (sqlite3.Error, _UnusableFileError, OSError) as error:
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
        """Rename the file, so that the next vectors go to a new one, and warn."""
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
        # the statement does not fit the file, or (without a code) a text in it is not Unicode
        return getattr(error, "sqlite_errorcode", 1) == sqlite3.SQLITE_ERROR
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
    if row is None:
        return None
    if not isinstance(row[0], int) or not 0 < row[0] <= _MOST_DIMS:
        raise _UnusableFileError(f"vectors of width {row[0]!r}")
    return row[0]


def _select(connection: sqlite3.Connection, keys: list[bytes]) -> dict[bytes, _Row | None]:
    """Return what is stored under each key that is there; None where it is damaged."""
    dim = _read_dim(connection)
    stored: dict[bytes, _Row | None] = {}
    for start in range(0, len(keys) if dim else 0, _KEYS_PER_SELECT):
        some = keys[start : start + _KEYS_PER_SELECT]
        marks = ",".join("?" * len(some))
        for key, vector, checksum, cut_at in connection.execute(f"{_LOOK_UP} ({marks})", some):
            sound = isinstance(vector, bytes) and _is_sound(key, vector, cut_at, checksum, dim)
            stored[key] = _Row(vector, cut_at or 0) if sound else None
    return stored


def _is_sound(key: bytes, vector: bytes, cut_at: object, checksum: object, dim: int | None) -> bool:
    """Say whether a row is as it was stored, as far as its age allows."""
    if len(vector) != (dim or 0) * _STORED_DTYPE.itemsize:
        return False
    if checksum is not None:
        return checksum == _sum(key, vector, cut_at)
    return bool(np.isfinite(np.frombuffer(vector, dtype=_STORED_DTYPE)).all())


def _sum(key: bytes, vector: bytes, cut_at: object) -> bytes:
    """Return the checksum of a row and of the text that it belongs to."""
    return hashlib.blake2b(key + str(cut_at).encode() + vector, digest_size=_SUM_BYTES).digest()


def _insert(
    connection: sqlite3.Connection, rows: list[tuple[bytes, bytes, int]], *, dim: int
) -> None:
    """Store keys, vectors and where the text was cut, in one transaction."""
    stored_dim = _read_dim(connection)
    if stored_dim not in (None, dim):
        raise _UnusableFileError(f"vectors of width {stored_dim}, not {dim}")
    notes = [(key, _sum(key, vector, cut_at), cut_at) for key, vector, cut_at in rows]
    with connection:
        connection.execute("INSERT OR IGNORE INTO width VALUES (0, ?)", (dim,))
        connection.executemany(
            "INSERT OR REPLACE INTO vectors VALUES (?, ?)", [row[:2] for row in rows]
        )
        connection.executemany("INSERT OR REPLACE INTO notes VALUES (?, ?, ?)", notes)
