"""The phrase bank: texts with their vectors, opened without reading them."""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import torch

from lightweight_decoder.bank.arrays import map_array
from lightweight_decoder.bank.manifest import (
    OWNERS_NAME,
    PHRASES_NAME,
    VECTORS_NAME,
    Manifest,
    read_manifest,
)
from lightweight_decoder.bank.normalization import has_direction, unit_rows
from lightweight_decoder.bank.phrases import PhraseTable
from lightweight_decoder.bank.preprocessing_file import read_preprocessing
from lightweight_decoder.datatypes import NO_ID
from lightweight_decoder.errors import BankError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt
    from torch import Tensor

    from lightweight_decoder.datatypes import FloatArray, IntArray
    from lightweight_decoder.vectors.preprocessing import Preprocessing

CHECKSUM_LIMIT_BYTES = 100_000_000
"""Opening checks checksums of banks up to this size: about 0.1 s at the 1 GB/s of a slow core."""

_BLOCK_ROWS = 65_536


class PhraseBank:
    """A phrase bank on disk, memory-mapped. Immutable; safe to share between threads.

    Open one with :meth:`open`. Pickling keeps only the path: each process maps the same files and
    the system keeps one copy of their pages.

    Attributes:
        path: The bank's folder.
        manifest: What the folder holds.
        vectors: (n, d) float32 or float16, unit rows, a private map of the file: nothing is read
            until it is used, and writing to it does not reach the file.
        owners: (n,) int64, the phrase that each vector belongs to, mapped likewise.
        preprocessing: What the vectors went through before they were stored; None: nothing.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest
        self.vectors: npt.NDArray[np.float32] | npt.NDArray[np.float16] = map_array(
            path / VECTORS_NAME, (manifest.num_vectors, manifest.dim), manifest.dtype
        )
        self.owners: IntArray = map_array(path / OWNERS_NAME, (manifest.num_vectors,), np.int64)
        self._phrases = PhraseTable(path / PHRASES_NAME, num_phrases=manifest.num_phrases)
        self.preprocessing: Preprocessing | None = read_preprocessing(path, manifest.preprocessing)

    @classmethod
    def open(cls, path: str | Path) -> PhraseBank:
        """Open a bank: read its manifest, map its files.

        Sizes and headers are always checked, checksums while all files together are at most
        ``CHECKSUM_LIMIT_BYTES``; :meth:`verify` checks everything.

        Raises:
            BankError: If a file is missing, cut, altered or does not match the manifest.
        """
        folder = Path(path).absolute()
        manifest = read_manifest(folder)
        _check_sizes(folder, manifest)
        if manifest.total_bytes <= CHECKSUM_LIMIT_BYTES:
            _check_checksums(folder, manifest)
        return cls(folder, manifest)

    def __reduce__(self) -> tuple[Callable[[str], PhraseBank], tuple[str]]:
        return PhraseBank.open, (str(self.path),)

    def __repr__(self) -> str:
        return (
            f"PhraseBank({str(self.path)!r}, num_phrases={self.num_phrases}, "
            f"num_vectors={self.num_vectors}, dim={self.dim})"
        )

    @property
    def fingerprint(self) -> str:
        """Sha256 over the manifest's content: equal exactly where the banks' contents are equal."""
        return self.manifest.fingerprint

    @property
    def num_vectors(self) -> int:
        """n, the number of vectors."""
        return self.manifest.num_vectors

    @property
    def num_phrases(self) -> int:
        """p, the number of phrases."""
        return self.manifest.num_phrases

    @property
    def dim(self) -> int:
        """d, the width of a vector."""
        return self.manifest.dim

    @property
    def input_dim(self) -> int:
        """Width of vectors before the preprocessing; d where there is none."""
        return self.dim if self.preprocessing is None else self.preprocessing.input_dim

    def preprocess(self, vectors: FloatArray) -> FloatArray:
        """Bring vectors into the space of those that the bank stores.

        Args:
            vectors: (q, input_dim) float32 of any length above zero.

        Returns:
            (q, d) float32 of any length above zero; ``vectors`` itself where there is no
            preprocessing.

        Raises:
            EmbeddingError: If the width is another one, or a row is not finite or all zero, before
                or after.
        """
        if self.preprocessing is None:
            return vectors
        _refuse_directionless(vectors)
        processed = self.preprocessing(vectors)
        _refuse_directionless(processed, after="after the bank's preprocessing")
        return processed

    @property
    def column_names(self) -> tuple[str, ...]:
        """Names of the metadata columns."""
        return self._phrases.column_names

    def column(self, name: str) -> npt.NDArray[Any]:
        """Read a metadata column.

        Returns:
            (p,) numbers, or objects where the column holds texts. A missing number is a NaN.

        Raises:
            BankError: If there is no such column; the message lists those there are.
        """
        return self._phrases.column(name)

    @overload
    def texts(self, phrase_ids: Sequence[int]) -> list[str]: ...
    @overload
    def texts(self, phrase_ids: IntArray) -> list[Any]: ...
    def texts(self, phrase_ids: Sequence[int] | IntArray) -> list[Any]:
        """Look up texts by phrase id; only the parts of the file that hold them are read.

        Args:
            phrase_ids: int64 of any shape, (m,) or (q, k); ``NO_ID`` gives an empty text.

        Returns:
            Lists nested like ``phrase_ids``: m texts, or q lists of k texts.

        Raises:
            BankError: If an id is below ``NO_ID`` or not below p.
        """
        ids = np.asarray(phrase_ids, dtype=np.int64)
        nested: list[Any] = self._phrases.texts(ids).tolist()
        return nested

    def find(self, texts: Sequence[str]) -> IntArray:
        """Find phrases by their text, normalized as it was when the bank was built.

        Returns:
            (len(texts),) int64 phrase ids, ``NO_ID`` where the bank has no such phrase.
        """
        return self._phrases.find(texts)

    def vector_ids_of(self, phrase_ids: Sequence[int] | IntArray) -> IntArray:
        """List the vectors that phrases own.

        Args:
            phrase_ids: (m,) int64; ``NO_ID`` owns nothing.

        Returns:
            (m, w) int64 vector rows in ascending order, w the most that one of these phrases owns,
            each row filled up with ``NO_ID``.

        Raises:
            BankError: If an id is below ``NO_ID`` or not below p.
        """
        ids = np.asarray(phrase_ids, dtype=np.int64).reshape(-1)
        for row in np.flatnonzero((ids < NO_ID) | (ids >= self.num_phrases))[:1]:
            raise self._no_such("phrase", self.num_phrases, row, ids[row])
        sorted_owners, order = self._vectors_by_phrase
        first = np.searchsorted(sorted_owners, ids, side="left")
        count = np.searchsorted(sorted_owners, ids, side="right") - first
        steps = np.arange(count.max(initial=0))
        owned = steps < count[:, None]
        places = np.where(owned, first[:, None] + steps, 0)
        rows = places if order is None else order[places]
        return np.where(owned, rows, NO_ID)

    def gather(self, vector_ids: Tensor) -> Tensor:
        """Read some vectors, and nothing else of the bank.

        Args:
            vector_ids: (q, k) int64 of any shape and device; ``NO_ID`` gives a row of zeros.

        Returns:
            (q, k, d) float32 on the device of ``vector_ids``.

        Raises:
            BankError: If an id is below ``NO_ID`` or not below n.
        """
        flat = vector_ids.reshape(-1).cpu()
        for place in ((flat < NO_ID) | (flat >= self.num_vectors)).nonzero()[:1]:
            raise self._no_such("vector", self.num_vectors, int(place), int(flat[place]))
        rows = torch.from_numpy(self.vectors).index_select(0, flat.clamp(min=0)).float()
        missing = (flat == NO_ID).nonzero().squeeze(1)
        if len(missing):
            rows[missing] = 0
        return rows.reshape(*vector_ids.shape, self.dim).to(vector_ids.device)

    def verify(self) -> None:
        """Read and check everything.

        Raises:
            BankError: If a checksum differs, a vector is not finite or not of unit length, an owner
                is out of range, a phrase owns no vector, or a text is damaged or there twice; the
                message names the file, the row, what was expected and what was found.
        """
        _check_checksums(self.path, self.manifest)
        self._verify_vectors()
        self._verify_owners()
        self._phrases.verify()

    @cached_property
    def _vectors_by_phrase(self) -> tuple[IntArray, IntArray | None]:
        """Owners in ascending order, and the vector behind each (None: as they are)."""
        if bool((self.owners[1:] >= self.owners[:-1]).all()):
            return self.owners, None
        order = np.argsort(self.owners, kind="stable")
        return self.owners[order], order

    def _verify_vectors(self) -> None:
        """Check that every vector is finite and has unit length."""
        tolerance = 1e-4 if self.manifest.dtype == "float32" else 2e-3
        for start in range(0, self.num_vectors, _BLOCK_ROWS):
            block = self.vectors[start : start + _BLOCK_ROWS].astype(np.float32)
            lengths = np.linalg.norm(block, axis=1)
            for row in np.flatnonzero(~(np.abs(lengths - 1) <= tolerance))[:1]:
                found = f"length {lengths[row]}"
                raise self._altered(VECTORS_NAME, start + row, "a vector of length 1", found)

    def _verify_owners(self) -> None:
        """Check that owners are phrases and that every phrase owns a vector."""
        outside = (self.owners < 0) | (self.owners >= self.num_phrases)
        for row in np.flatnonzero(outside)[:1]:
            expected = f"a phrase id from 0 to {self.num_phrases - 1}"
            raise self._altered(OWNERS_NAME, row, expected, self.owners[row])
        counts = np.bincount(self.owners, minlength=self.num_phrases)
        for row in np.flatnonzero(counts == 0)[:1]:
            expected = "a phrase that owns at least one vector"
            raise self._altered(PHRASES_NAME, row, expected, f"none in {OWNERS_NAME}")

    def _no_such(self, what: str, count: int, place: int, found: int) -> BankError:
        """Build the error for an id that is not in the bank."""
        return BankError(
            f"there is no such {what}",
            where=self.path,
            at=f"entry {place}",
            expected=f"a {what} id from 0 to {count - 1}",
            found=found,
        )

    def _altered(self, name: str, row: int, expected: str, found: object) -> BankError:
        """Build the error for a row that a build would not have written."""
        return BankError(
            "the bank was altered",
            where=self.path / name,
            at=f"row {row}",
            expected=expected,
            found=found,
            advice="Copy or build the bank again",
        )


def _refuse_directionless(vectors: FloatArray, *, after: str = "") -> None:
    """Refuse rows that are not finite or all zero."""
    rows = torch.from_numpy(vectors)
    if rows.numel() and not bool(has_direction(rows).all()):
        unit_rows(rows, after=after)


def _check_sizes(folder: Path, manifest: Manifest) -> None:
    """Refuse files that are missing, cut or longer than the manifest says."""
    for name in manifest.files:
        expected = f"{manifest.files[name].bytes} bytes"
        try:
            size = (folder / name).stat().st_size
        except OSError as error:
            raise _cut(folder / name, expected, error.strerror) from error
        if size != manifest.files[name].bytes:
            raise _cut(folder / name, expected, f"{size} bytes")


def _check_checksums(folder: Path, manifest: Manifest) -> None:
    """Refuse files whose content is not what was written."""
    for name in manifest.files:
        with (folder / name).open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != manifest.files[name].sha256:
            raise _cut(folder / name, f"sha256 {manifest.files[name].sha256}", f"sha256 {found}")


def _cut(path: Path, expected: str, found: str | None) -> BankError:
    """Build the error for a file that differs from the manifest."""
    return BankError(
        "the file does not match the manifest",
        where=path,
        expected=expected,
        found=found,
        advice="The bank was cut or altered; copy or build it again",
    )
