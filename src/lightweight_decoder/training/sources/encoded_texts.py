"""Texts of a source as vectors: the bank, built once and found again, and the queries."""

from __future__ import annotations

import hashlib
import json
import logging
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from lightweight_decoder.bank import BankRows, EncoderInfo, PhraseBank, write_bank
from lightweight_decoder.encoder import report_cut_texts
from lightweight_decoder.errors import BankBuildError, BankError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from lightweight_decoder.datatypes import FloatArray
    from lightweight_decoder.encoder.encoder import Encoder

_log = logging.getLogger(__name__)
_BLOCK_ROWS = 8_192


class EncodedTexts:
    """The bank and the queries of a source, each text encoded once and the bank opened once.

    Args:
        encoder: Makes the vectors.
        bank_root: Folder in which the bank is kept, under a name that follows from its content.
        bank: Folder of a bank that was built before and has moved from there, or None.
        source: Name of the source, the first part of the folder's name.
        phrases: n phrases, the owner of each vector.
        texts: n texts, of which the vectors are made.
        metadata: Columns, each a value for every phrase.
        queries: The texts of each split.
    """

    def __init__(
        self,
        *,
        encoder: Encoder,
        bank_root: Path,
        bank: Path | None,
        source: str,
        phrases: Sequence[str],
        texts: Sequence[str],
        metadata: Mapping[str, Mapping[str, object]],
        queries: Mapping[str, Sequence[str]],
    ) -> None:
        self._encoder = encoder
        self._bank_root = bank_root
        self._moved_to = bank
        self._source = source
        self._query_texts = queries
        self._known: dict[str, FloatArray] = {}  # vectors of queries that the bank's build made
        self.phrases, self.texts, self.metadata = phrases, texts, metadata

    def prepare(self) -> None:
        """Build the bank where it is missing or damaged, and encode the queries.

        Raises:
            BankError: A bank that has moved is damaged, or is not the one that the texts make.
            BankBuildError: It cannot be written.
            EncoderError: The texts cannot be encoded.
        """
        self.bank = self._open() if self._moved_to is not None else self._open_or_build()
        _ = self.queries
        report_cut_texts(self._encoder)

    @cached_property
    def bank(self) -> PhraseBank:
        """The bank; where :meth:`prepare` was called, perhaps in another process.

        Raises:
            BankError: It was not built, is damaged, or is not the one that the texts make.
        """
        return self._open()

    @cached_property
    def queries(self) -> dict[str, FloatArray]:
        """(q, d) float32 vectors of the texts of each split, encoded in one go."""
        texts = [text for of_split in self._query_texts.values() for text in of_split]
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        vector_of = self._known | dict(zip(new, self._encoder.encode_queries(new), strict=True))
        self._known.clear()
        ends = np.cumsum([len(of_split) for of_split in self._query_texts.values()])[:-1]
        vectors = np.split(np.stack([vector_of[text] for text in texts]), ends)
        return dict(zip(self._query_texts, vectors, strict=True))

    @cached_property
    def folder(self) -> Path:
        """Where the bank belongs: another content or encoder, another folder."""
        if self._moved_to is not None:
            return self._moved_to
        content = hashlib.sha256()
        for part in (self.phrases, self.texts, self.metadata):
            content.update(json.dumps(part, sort_keys=True).encode())
        fingerprint = self._encoder.fingerprint
        return self._bank_root / f"{self._source}-{fingerprint[:12]}-{content.hexdigest()[:12]}"

    def vectors_of(self, texts: Sequence[str], *, first_row: int) -> list[list[int]]:
        """Find the bank's vectors that were made of each of q texts: q lists of rows, ascending.

        Vectors before ``first_row`` are left out (those made of phrases themselves).
        """
        rows: dict[str, list[int]] = {text: [] for text in texts}
        for row in range(first_row, len(self.texts)):
            if self.texts[row] in rows:
                rows[self.texts[row]].append(row)
        return [rows[text] for text in texts]

    def _open(self) -> PhraseBank:
        """Open the bank, and refuse another one."""
        bank = PhraseBank.open(self.folder)
        if bank.num_vectors != len(self.phrases):
            raise BankError.unexpected(
                bank.path,
                f"{len(self.phrases)} vectors",
                bank.num_vectors,
                summary="this is another bank than the data makes",
                advice="Name the bank that was made from the same data",
            )
        if bank.preprocessing is not None:
            problem = "the bank has preprocessing, the data makes one without"
            advice = "Train on it with data=pairs or data=denoise"
            raise BankError(problem, where=bank.path, advice=advice)
        return bank

    def _open_or_build(self) -> PhraseBank:
        """Open the bank, after building it where it is missing or damaged."""
        if self.folder.exists():
            try:
                return self._open()
            except BankError as error:
                _log.warning("building a cached bank again: %s", error)
        try:
            write_bank(
                self.folder,
                self._rows(),
                encoder=EncoderInfo.of(self._encoder),
                overwrite=True,
                total=len(self.texts),
            )
            return PhraseBank.open(self.folder)
        except BankBuildError:
            try:  # another process may have built the same bank meanwhile
                return self._open()
            except BankError:
                pass
            raise

    def _rows(self) -> Iterator[BankRows]:
        """Encode each distinct text and give the rows out in blocks; keep what queries need."""
        place_of = {text: place for place, text in enumerate(dict.fromkeys(self.texts))}
        vectors = self._encoder.encode_phrases(list(place_of))
        asked: set[str] = set()
        if not self._encoder.knows_sides:
            asked = {text for of_split in self._query_texts.values() for text in of_split}
        self._known = {text: vectors[place_of[text]].copy() for text in asked & place_of.keys()}
        for start in range(0, len(self.texts), _BLOCK_ROWS):
            rows = slice(start, start + _BLOCK_ROWS)
            yield BankRows(
                texts=self.phrases[rows],
                vectors=vectors[[place_of[text] for text in self.texts[rows]]],
                metadata={
                    name: [value_of[phrase] for phrase in self.phrases[rows]]
                    for name, value_of in self.metadata.items()
                },
            )
