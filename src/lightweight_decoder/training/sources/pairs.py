"""Raw embeddings with the phrase that each should decode to."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lightweight_decoder.bank import PhraseBank
from lightweight_decoder.datatypes import NO_ID
from lightweight_decoder.decoder.splits import Seed, Split, SplitName, no_own_vectors
from lightweight_decoder.errors import InputDataError
from lightweight_decoder.training.sources.holding_out import random_split
from lightweight_decoder.vectors import open_embeddings
from lightweight_decoder.vectors.text_tables import read_texts

if TYPE_CHECKING:
    from lightweight_decoder.datatypes import FloatArray, IntArray


class Pairs:
    """Queries from a file of embeddings, targets from a file of texts, a bank that is there.

    Queries of the width that the bank was built from go through its preprocessing; others are left
    as they are. They are vectors of their own, not made from the texts of the bank, so
    ``own_vectors`` is empty; do not give the bank's own vectors as queries (that is what
    :class:`~lightweight_decoder.training.sources.denoise.Denoise` is for).

    Args:
        queries: Embeddings in any supported format, row by row.
        targets: The right phrase of each query: a table (CSV, TSV, JSON lines, Parquet) with a
            column of them, or any other file with one phrase a line.
        bank: Folder of the bank; every target must be in it.
        key: Which array of the queries' file, where there are several; see ``open_embeddings``.
        vector_column: Which column of it, where several hold vectors.
        target_column: The column of a table.
        val_fraction: Share of the rows to validate on.
        calib_fraction: Share of the rows to calibrate on.
        test_fraction: Share of the rows to test on.
        seed: Decides the splits.
    """

    def __init__(
        self,
        *,
        queries: Path,
        targets: Path,
        bank: Path,
        key: str | None = None,
        vector_column: str | None = None,
        target_column: str = "text",
        val_fraction: float = 0.1,
        calib_fraction: float = 0.1,
        test_fraction: float = 0.1,
        seed: Seed = 0,
    ) -> None:
        self._queries_path = queries
        self._targets_path = targets
        self._bank_path = bank
        self._names = {"key": key, "vector_column": vector_column}
        self._target_column = target_column
        self._fractions: dict[SplitName, float] = {
            "val": val_fraction,
            "calib": calib_fraction,
            "test": test_fraction,
        }
        self._seed = seed

    def prepare(self) -> None:
        """Read everything once, so that what is wrong shows now; see :class:`Source`.

        Raises:
            InputDataError: If a file is missing, damaged or empty, queries and targets differ in
                number, a query has no direction, or a target is not in the bank.
            BankError: If the bank is missing or damaged.
            EmbeddingError: If the bank's preprocessing cannot take the queries.
            ConfigError: If the splits leave nothing to train on.
        """
        _ = self._targets, self._queries, self._places

    @cached_property
    def bank(self) -> PhraseBank:
        """The bank; see :class:`Source`."""
        return PhraseBank.open(self._bank_path)

    def split(self, name: SplitName) -> Split:
        """Return a split; see :class:`Source`."""
        places = self._places[name]
        return Split(
            name=name,
            queries=self._queries[places],
            targets=self._targets[places, None],
            own_vectors=no_own_vectors(len(places)),
            texts=None,
        )

    @cached_property
    def _places(self) -> dict[SplitName, IntArray]:
        """Rows of each split."""
        return random_split(len(self._targets), fractions=self._fractions, seed=self._seed)

    @cached_property
    def _queries(self) -> FloatArray:
        """(q, d) float32, every row with a direction."""
        of = (self._targets_path, len(self._targets))
        queries = read_queries(self._queries_path, of=of, **self._names)
        bank = self.bank
        # Of the width behind the preprocessing they may be of any kind, so that is refused there.
        is_of_bank = queries.shape[1] in (bank.input_dim, bank.dim)
        return bank.preprocess(queries) if is_of_bank else queries

    @cached_property
    def _targets(self) -> IntArray:
        """(q,) int64 phrase ids."""
        return read_targets(self._targets_path, self.bank, column=self._target_column)


def read_queries(
    path: Path,
    *,
    of: tuple[Path, int] | None = None,
    key: str | None = None,
    vector_column: str | None = None,
) -> FloatArray:
    """Read all embeddings of a file, (q, d) float32, every row with a direction.

    Args:
        path: Embeddings in any supported format.
        of: The file of their targets and how many it has, which must be as many.
        key: As of ``open_embeddings``.
        vector_column: The same.

    Raises:
        InputDataError: If the file is missing, damaged or empty, or a row has no direction, or
            there are more or fewer rows than targets.
    """
    reader = open_embeddings(path, key=key, vector_column=vector_column)
    vectors = np.concatenate([block.vectors for block in reader.blocks()])
    if of is not None and len(vectors) != of[1]:
        raise InputDataError.unexpected(
            path,
            f"{of[1]} rows, as many as {of[0]} has",
            f"{len(vectors)} rows",
            summary="queries and targets differ in number",
            advice="Row i of one file belongs to row i of the other; see whether both begin alike",
        )
    return vectors


def read_targets(path: Path, bank: PhraseBank, *, column: str = "text") -> IntArray:
    """Read the right phrase of each query, and return their ids (q,) int64 in a bank.

    A table has them in ``column``; another file has one a line.

    Raises:
        InputDataError: The file is missing, damaged or empty, or has a phrase that is not in the
            bank; the message has its row.
    """
    texts = read_texts(path, column)
    phrase_ids = bank.find(texts)
    for row in np.flatnonzero(phrase_ids == NO_ID)[:1]:
        expected = f"a phrase of the bank {bank.path}"
        problem = "a target is not in the bank"
        advice = "Correct the target, or add the phrase to the bank"
        raise InputDataError.unexpected(
            path, expected, repr(texts[row]), at=f"row {row}", summary=problem, advice=advice
        )
    return phrase_ids
