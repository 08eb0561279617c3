"""A bank that a source needs: built once, then found again by what it is made of."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from lightweight_decoder.bank import BankRows, EncoderInfo, PhraseBank, write_bank
from lightweight_decoder.errors import BankBuildError, BankError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from lightweight_decoder.encoder.encoder import Encoder

_log = logging.getLogger(__name__)
_BLOCK_ROWS = 8_192


@dataclass(frozen=True)
class PlannedBank:
    """What a bank will hold, before anything is encoded.

    Attributes:
        source: Name of the source, the first part of the folder's name.
        phrases: n phrases, the owner of each vector.
        texts: n texts, of which the vectors are made.
        metadata: Columns, each a value for every phrase.
        place: Folder of a bank that was built before and has moved; None: one under a root.
    """

    source: str
    phrases: Sequence[str]
    texts: Sequence[str]
    metadata: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    place: Path | None = None

    def folder(self, bank_root: Path, encoder: Encoder) -> Path:
        """Return where the bank belongs: another content or encoder, another folder."""
        if self.place is not None:
            return self.place
        return bank_root / f"{self.source}-{encoder.fingerprint[:12]}-{self._content[:12]}"

    @cached_property
    def _content(self) -> str:
        """Hash of everything the bank will hold, besides the vectors."""
        content = hashlib.sha256()
        for part in (self.phrases, self.texts, self.metadata):
            content.update(json.dumps(part, sort_keys=True).encode())
        return content.hexdigest()

    def open(self, bank_root: Path, encoder: Encoder) -> PhraseBank:
        """Open the bank.

        Raises:
            BankError: If it was not built, is damaged, or is not the one that was planned.
        """
        bank = PhraseBank.open(self.folder(bank_root, encoder))
        if bank.num_vectors != len(self.phrases):
            raise BankError(
                "this is another bank than the data makes",
                where=bank.path,
                expected=f"{len(self.phrases)} vectors",
                found=bank.num_vectors,
                advice="Name the bank that was made from the same data",
            )
        if bank.preprocessing is not None:
            raise BankError(
                "the bank has preprocessing, the data makes one without",
                where=bank.path,
                advice="Train on it with data=pairs or data=denoise",
            )
        return bank

    def build(self, bank_root: Path, encoder: Encoder) -> PhraseBank:
        """Open the bank, after building it where it is missing or damaged.

        Raises:
            BankBuildError: If it cannot be written.
            EncoderError: If its texts cannot be encoded.
        """
        folder = self.folder(bank_root, encoder)
        if self.place is not None:
            return self.open(bank_root, encoder)
        if folder.exists():
            try:
                return PhraseBank.open(folder)
            except BankError as error:
                _log.warning("building a cached bank again: %s", error)
        try:
            write_bank(
                folder,
                self._rows(encoder),
                encoder=EncoderInfo(name=encoder.name, fingerprint=encoder.fingerprint),
                overwrite=True,
                total=len(self.texts),
            )
            return PhraseBank.open(folder)
        except BankBuildError:
            try:  # another process may have built the same bank meanwhile
                return PhraseBank.open(folder)
            except BankError:
                pass
            raise

    def _rows(self, encoder: Encoder) -> Iterator[BankRows]:
        """Encode each distinct text once and give the rows out in blocks."""
        place_of = {text: place for place, text in enumerate(dict.fromkeys(self.texts))}
        vectors = encoder.encode(list(place_of))
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


def rows_of_texts(
    bank_texts: Sequence[str], query_texts: Sequence[str], *, first_row: int
) -> list[list[int]]:
    """Find the bank vectors that were made from each query's own text.

    Args:
        bank_texts: Texts of the bank's vectors.
        query_texts: q texts.
        first_row: Vectors before it are left out (those made from phrases themselves).

    Returns:
        q lists of vector rows, ascending.
    """
    rows: dict[str, list[int]] = {text: [] for text in query_texts}
    for row in range(first_row, len(bank_texts)):
        if bank_texts[row] in rows:
            rows[bank_texts[row]].append(row)
    return [rows[text] for text in query_texts]
