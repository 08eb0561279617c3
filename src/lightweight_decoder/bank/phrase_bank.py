"""The phrase bank: texts with their vectors, opened without reading them, or in memory."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import torch

from lightweight_decoder.bank.builder import Dtype, write_bank, write_files
from lightweight_decoder.bank.hashed_file import reporting_full_disk
from lightweight_decoder.bank.manifest import (
    MANIFEST_NAME,
    OWNERS_NAME,
    PHRASES_NAME,
    PREPROCESSING_NAME,
    VECTORS_NAME,
    EncoderInfo,
    Manifest,
    read_manifest,
    write_manifest,
)
from lightweight_decoder.bank.phrases import PhraseTable
from lightweight_decoder.bank.placement import placed_when_finished
from lightweight_decoder.bank.preprocessing_file import read_preprocessing
from lightweight_decoder.bank.rows import BankRows, RowsInMemory, refuse_unusable_texts
from lightweight_decoder.bank.stored_file import StoredFile, array_in
from lightweight_decoder.datatypes import NO_ID
from lightweight_decoder.encoder import TextEncoder, as_encoder, report_cut_texts
from lightweight_decoder.errors import BankError
from lightweight_decoder.vectors.directions import refuse_directionless

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy.typing as npt
    from torch import Tensor

    from lightweight_decoder.datatypes import FloatArray, IntArray
    from lightweight_decoder.encoder import EncodesBothSides
    from lightweight_decoder.vectors.preprocessing import Preprocessing, Step

CHECKSUM_LIMIT_BYTES = 100_000_000
"""Opening checks checksums of banks up to this size: about 0.1 s at the 1 GB/s of a slow core."""

IN_MEMORY = Path("bank in memory")


class PhraseBank:
    r"""A phrase bank, in a folder and memory-mapped, or in memory. Immutable, shared by threads.

    Make one with :meth:`build` or :meth:`from_texts`, open one with :meth:`open`.

    >>> bank = PhraseBank.from_texts(["red", "green", "red"], [[1, 0], [0, 2], [3, 4]])
    >>> bank
    PhraseBank(2 phrases, 3 vectors of width 2, float32, in memory)
    >>> bank.texts([1]), bank.find([" red\n", "blue"]).tolist()
    (['green'], [0, -1])
    >>> bank.vectors[bank.vector_ids_of([0])].round(1).tolist()
    [[[1.0, 0.0], [0.6000000238418579, 0.800000011920929]]]

    Pickling a bank of a folder keeps only where it is and its fingerprint: each process maps the
    same files and the system keeps one copy of their pages.

    Attributes:
        path: The bank's folder; None where it is in memory.
        manifest: What it holds.
        preprocessing: What the vectors went through before they were stored; None: nothing.
    """

    def __init__(
        self, manifest: Manifest, files: Mapping[str, StoredFile], path: Path | None = None
    ) -> None:
        self.path = path
        self.manifest = manifest
        self._files = files
        shape = (manifest.num_vectors, manifest.dim)
        self._vectors = array_in(files[VECTORS_NAME], shape, manifest.dtype)
        self._owners = array_in(files[OWNERS_NAME], shape[:1], np.int64)
        self._phrases = PhraseTable(files[PHRASES_NAME], num_phrases=manifest.num_phrases)
        self.preprocessing: Preprocessing | None = None
        if manifest.preprocessing is not None:
            learned = files[PREPROCESSING_NAME]
            self.preprocessing = read_preprocessing(learned, manifest.preprocessing)

    @classmethod
    def open(cls, path: str | Path) -> PhraseBank:
        """Open the bank in a folder: read its manifest, map its files.

        Sizes and headers are always checked, checksums while all files together are at most
        ``CHECKSUM_LIMIT_BYTES``. Of a larger bank, vectors and owners are checked when they are
        first asked for, texts part by part, unless they were right before and did not change;
        :meth:`verify` checks everything. A bank that is replaced meanwhile is opened again.

        Raises:
            BankError: If a file is missing, cut, altered, no file or does not match the manifest.
        """
        folder = Path(path).absolute()
        while True:
            before = _identity(folder)
            try:
                opened = cls._open(folder)
            except BankError:
                if _identity(folder) == before:
                    raise
            else:
                if _identity(folder) == before:
                    return opened

    @classmethod
    def _open(cls, folder: Path) -> PhraseBank:
        """Open what is there; where it is exchanged meanwhile, perhaps a part of each bank."""
        manifest = read_manifest(folder)
        files = {name: StoredFile.map(folder / name, info) for name, info in manifest.files.items()}
        if manifest.total_bytes <= CHECKSUM_LIMIT_BYTES:
            for file in files.values():
                file.check_whole()
        return cls(manifest, files, folder)

    @classmethod
    def from_texts(
        cls,
        texts: Sequence[str],
        vectors: npt.ArrayLike | Tensor | None = None,
        *,
        encoder: EncodesBothSides | None = None,
        metadata: Mapping[str, Sequence[object]] | None = None,
        preprocessing: Sequence[Step] = (),
    ) -> PhraseBank:
        """Make a bank in memory; it has the fingerprint of the same bank in a folder.

        Memory: the bank, and the texts and vectors themselves; :func:`write_bank` streams.

        Args:
            texts: n texts; one that comes again gets one more vector.
            vectors: (n, d) floating point of any length above zero; None: made by ``encoder``.
            encoder: What makes the vectors, or made them: any object with the methods of
                ``CustomEncoder``; None: the default text encoder where there are no vectors.
            metadata: Columns of n values each; of a text that comes again, the first one is kept.
            preprocessing: Steps of ``vectors.preprocessing``, applied to queries too.

        Raises:
            BankBuildError: If a row cannot be used, or texts, vectors and metadata differ in
                number; the message has the row's number, from 0.
            ConfigError: If a step of the preprocessing does not go with the vectors.
            EncoderError: If the texts cannot be encoded.
        """
        rows, made_by = _rows(texts, vectors, encoder, metadata)
        contents: dict[str, io.BytesIO] = {}
        manifest, _ = write_files(
            lambda name: contextlib.nullcontext(contents.setdefault(name, io.BytesIO())),
            rows,
            where=IN_MEMORY,
            encoder=made_by,
            preprocessing=preprocessing,
            dtype=rows.smallest_dtype(keeping=not preprocessing),
            total=len(rows),
        )
        return _in_memory(manifest, {name: file.getbuffer() for name, file in contents.items()})

    @classmethod
    def build(
        cls,
        folder: str | Path,
        texts: Sequence[str],
        vectors: npt.ArrayLike | Tensor | None = None,
        *,
        encoder: EncodesBothSides | None = None,
        metadata: Mapping[str, Sequence[object]] | None = None,
        preprocessing: Sequence[Step] = (),
        dtype: Dtype = "auto",
        overwrite: bool = False,
        show_progress: bool = False,
    ) -> PhraseBank:
        """Build a bank in a folder from what is in memory, and open it.

        See :meth:`from_texts` for the other arguments and for errors, and :func:`write_bank` for
        those of the folder.
        """
        rows, made_by = _rows(texts, vectors, encoder, metadata)
        if dtype == "auto":
            dtype = rows.smallest_dtype(keeping=not preprocessing)
        write_bank(
            folder,
            rows,
            encoder=made_by,
            preprocessing=preprocessing,
            dtype=dtype,
            overwrite=overwrite,
            total=len(rows),
            show_progress=show_progress,
        )
        return cls.open(folder)

    def save(self, folder: str | Path, *, overwrite: bool = False) -> PhraseBank:
        """Write the bank into a folder, and open it there.

        Raises:
            BankBuildError: If ``folder`` exists or cannot be written, or if the disk is full.
        """
        with placed_when_finished(Path(folder).absolute(), overwrite=overwrite) as partial:
            for name, file in self._files.items():
                with (
                    reporting_full_disk(partial / name, file.info.bytes),
                    (partial / name).open("wb") as copy,
                ):
                    file.require()
                    copy.write(file.content)
                    copy.flush()
                    os.fsync(copy.fileno())
            with reporting_full_disk(partial / MANIFEST_NAME, 0):
                write_manifest(partial, self.manifest)
        return PhraseBank.open(folder)

    def __reduce__(self) -> tuple[Callable[..., PhraseBank], tuple[object, ...]]:
        if self.path is not None:
            return _reopened, (str(self.path), self.fingerprint)
        contents = {name: bytearray(file.content) for name, file in self._files.items()}
        return _in_memory, (self.manifest, contents)

    def __repr__(self) -> str:
        place = "in memory" if self.path is None else f'"{self.path}"'
        return (
            f"PhraseBank({self.num_phrases:,} phrases, {self.num_vectors:,} vectors of width "
            f"{self.dim}, {self.manifest.dtype}, {place})"
        )

    @property
    def fingerprint(self) -> str:
        """Sha256 over the manifest's content: equal exactly where the banks' contents are equal."""
        return self.manifest.fingerprint

    @property
    def vectors(self) -> npt.NDArray[np.float32] | npt.NDArray[np.float16]:
        """(n, d) float32 or float16, unit rows.

        Of a folder a private map of the file: nothing is read before it is used (but for what is
        checked, see :meth:`open`), and writing to it does not reach the file.

        Raises:
            BankError: If the file was altered, or cut while it was open.
        """
        self._files[VECTORS_NAME].require()
        return self._vectors

    @property
    def owners(self) -> IntArray:
        """(n,) int64, the phrase that each vector belongs to; see :attr:`vectors`."""
        self._files[OWNERS_NAME].require()
        return self._owners

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
        """Bring vectors (q, input_dim) float32 into the space of those in the bank, (q, d).

        They may have any length above zero, before and after; without preprocessing they come back
        themselves.

        Raises:
            EmbeddingError: If the width is another one, or a row is not finite or all zero, before
                or after.
        """
        if self.preprocessing is None:
            return vectors
        refuse_directionless(vectors)
        processed = self.preprocessing(vectors)
        refuse_directionless(processed, after="after the bank's preprocessing")
        return processed

    @property
    def column_names(self) -> tuple[str, ...]:
        """Names of the metadata columns."""
        return self._phrases.column_names

    def column(self, name: str, phrase_ids: IntArray | None = None) -> npt.NDArray[Any]:
        """Read a metadata column, (p,) of all phrases or (m,) of some, ids int64.

        Numbers, a missing one NaN; or objects where the column holds texts.

        Raises:
            BankError: If there is no such column (the message lists those there are), or if an id
                is not of the bank.
        """
        return self._phrases.column(name, phrase_ids)

    @overload
    def texts(self, phrase_ids: Sequence[int]) -> list[str]: ...
    @overload
    def texts(self, phrase_ids: IntArray) -> list[Any]: ...
    def texts(self, phrase_ids: Sequence[int] | IntArray) -> list[Any]:
        """Look up texts by phrase id; only the parts of the file that hold them are read.

        Ids are int64 of any shape, (m,) or (q, k), and the lists that come back are nested like
        them; ``NO_ID`` gives an empty text.

        Raises:
            BankError: If an id is below ``NO_ID`` or not below p.
        """
        ids = np.asarray(phrase_ids, dtype=np.int64)
        nested: list[Any] = self._phrases.texts(ids).tolist()
        return nested

    def find(self, texts: Sequence[str]) -> IntArray:
        """Find phrases by text, normalized as in the build: int64 ids, ``NO_ID`` where absent."""
        return self._phrases.find(texts)

    def vector_ids_of(self, phrase_ids: Sequence[int] | IntArray) -> IntArray:
        """List the vectors that phrases (m,) int64 own; ``NO_ID`` owns nothing.

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
        """Read some vectors (q, k) of any shape and device, and nothing else of the bank.

        Returns (q, k, d) float32 on the same device; ``NO_ID`` gives a row of zeros.

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

    def require_whole(self) -> None:
        """Make sure that all files are still there in full, in a few microseconds, or raise.

        Who keeps :attr:`vectors` asks before reading them: of a file that was cut meanwhile, the
        system ends the process.
        """
        for file in self._files.values():
            file.require_size()

    def verify(self) -> None:
        """Read and check everything.

        Raises:
            BankError: If a checksum differs, a vector is not finite or not of unit length, an owner
                is out of range, a phrase owns no vector, or a text is damaged or there twice; the
                message names the file, the row, what was expected and what was found.
        """
        from lightweight_decoder.bank.verification import wrong_files, wrong_rows  # noqa: PLC0415, needs this module

        for problem in itertools.chain(wrong_files(self._files.values()), wrong_rows(self)):
            raise problem

    @cached_property
    def _vectors_by_phrase(self) -> tuple[IntArray, IntArray | None]:
        """Owners in ascending order, and the vector behind each (None: as they are)."""
        if bool((self.owners[1:] >= self.owners[:-1]).all()):
            return self.owners, None
        order = np.argsort(self.owners, kind="stable")
        return self.owners[order], order

    def _no_such(self, what: str, count: int, place: int, found: int) -> BankError:
        """Build the error for an id that is not in the bank."""
        expected, problem = f"a {what} id from 0 to {count - 1}", f"there is no such {what}"
        return BankError.unexpected(
            self.path or IN_MEMORY, expected, found, at=f"entry {place}", summary=problem
        )


def _identity(folder: Path) -> tuple[int, ...] | None:
    """Return what tells a folder from another one that takes its name; None: there is none."""
    try:
        status = folder.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns


def _reopened(path: str, fingerprint: str) -> PhraseBank:
    """Open a bank that was pickled, if no other one is there now."""
    bank = PhraseBank.open(path)
    if bank.fingerprint != fingerprint:
        expected = f"fingerprint {fingerprint[:12]}"
        problem = "the bank was replaced since it was pickled"
        raise BankError.unexpected(
            path, expected, bank.fingerprint[:12], summary=problem, advice="Open it again"
        )
    return bank


def _in_memory(manifest: Manifest, contents: Mapping[str, bytearray | memoryview]) -> PhraseBank:
    """Put a bank together from what its files hold."""
    files = {
        name: StoredFile(memoryview(content), IN_MEMORY / name, manifest.files[name])
        for name, content in contents.items()
    }
    return PhraseBank(manifest, files)


def _rows(
    texts: Sequence[str],
    vectors: npt.ArrayLike | Tensor | None,
    encoder: EncodesBothSides | None,
    metadata: Mapping[str, Sequence[object]] | None,
) -> tuple[RowsInMemory, EncoderInfo | None]:
    """Return what to build from, with the encoder that made its vectors."""
    named = None if encoder is None else as_encoder(encoder)
    if vectors is None:
        named = named or TextEncoder()
        refuse_unusable_texts(texts)
        vectors = named.encode_phrases(texts)
        report_cut_texts(named)
    made_by = None if named is None else EncoderInfo.of(named)
    return RowsInMemory(BankRows(texts, vectors, metadata or {})), made_by
