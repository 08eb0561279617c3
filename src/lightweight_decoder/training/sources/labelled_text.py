"""Texts with labels: from the embedding of a text to its label."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lightweight_decoder.bank import normalize_text
from lightweight_decoder.decoder.splits import (
    Seed,
    Split,
    SplitName,
    no_own_vectors,
    out_of_bank_split,
    pad_ids,
)
from lightweight_decoder.errors import ConfigError, InputDataError
from lightweight_decoder.training.sources.encoded_texts import EncodedTexts
from lightweight_decoder.training.sources.holding_out import draw_rows, random_split
from lightweight_decoder.vectors.text_tables import read_columns

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from lightweight_decoder.bank import PhraseBank
    from lightweight_decoder.datatypes import IntArray
    from lightweight_decoder.encoder.encoder import Encoder

_log = logging.getLogger(__name__)
_LABELS_SHOWN = 5
TEST_FRACTION = 0.2
_OUT_OF_BANK = "out_of_bank"


@dataclass(frozen=True, slots=True)
class _Rows:
    """Texts with their labels, row by row."""

    texts: list[str]
    labels: list[str]

    def take(self, places: IntArray) -> _Rows:
        """Return some of the rows."""
        return _Rows([self.texts[i] for i in places], [self.labels[i] for i in places])

    def divide(self, labels: Collection[str]) -> tuple[_Rows, _Rows]:
        """Return the rows without these labels, and those with them."""
        has_label = np.array([label in labels for label in self.labels], dtype=bool)
        return self.take(np.flatnonzero(~has_label)), self.take(np.flatnonzero(has_label))


@dataclass(frozen=True, slots=True)
class _Plan:
    """Everything that is known before anything is encoded."""

    labels: list[str]
    in_bank: _Rows
    rows: dict[SplitName, _Rows]
    out_of_bank: _Rows


class LabelledText:
    """Texts as queries, their labels as the bank.

    Every label of the training file is a phrase, with a vector of its name (``card_arrival`` is
    encoded as "card arrival", the phrase keeps the label as it is) and one of each text that has
    it; the column ``num_examples`` (int64) says how many. Train, val and calib are all rows of
    these texts: each query's ``own_vectors`` are the vectors made from the same text, so that it is
    ranked by what the bank holds without it, and no text is lost to the bank. Test texts are never
    in the bank.

    Labels are the same where the bank takes them for the same: white space and Unicode's spellings
    (NFC, NFD) do not count. A label with one example is allowed, with a warning: while its only
    text is trained on, the label is found by its name alone. A test text that is a training text
    too is counted in a warning, and marked in an evaluation's predictions.

    Args:
        encoder: Makes the vectors of labels and texts.
        bank_root: Folder in which the bank is kept, under a name that follows from its content.
        train: CSV, TSV, JSON lines or Parquet with a text and a label column.
        test: The same, of which every label must be in ``train``; None: a share of ``train``.
        text_column: Name of the column of texts.
        label_column: Name of the column of labels.
        val_fraction: Share of the training rows to validate on.
        calib_fraction: Share of the training rows to calibrate on.
        test_fraction: Share of ``train`` to test on where ``test`` is None.
        num_train: Draw so many rows for the bank, train, val and calib together; None: all.
        num_test: Draw so many test rows; None: all.
        num_out_of_bank: Draw so many labels that leave the bank and every split: their test rows
            become the test split's ``out_of_bank``, to see whether the decoder knows that it has
            no answer for them.
        bank: Folder of the bank, where it was built before and has moved from ``bank_root``.
        seed: Decides what is drawn and held out.
    """

    def __init__(
        self,
        *,
        encoder: Encoder,
        bank_root: Path = Path("outputs/banks"),
        train: Path,
        test: Path | None = None,
        text_column: str = "text",
        label_column: str = "label",
        val_fraction: float = 0.1,
        calib_fraction: float = 0.1,
        test_fraction: float = TEST_FRACTION,
        num_train: int | None = None,
        num_test: int | None = None,
        num_out_of_bank: int = 0,
        bank: Path | None = None,
        seed: Seed = 0,
    ) -> None:
        self._encoder = encoder
        self._bank_root = bank_root
        self._train = train
        self._test = test
        self._columns = (text_column, label_column)
        self._fractions: dict[SplitName, float] = {"val": val_fraction, "calib": calib_fraction}
        self._test_fraction = test_fraction
        self._num_train = num_train
        self._num_test = num_test
        self._num_out_of_bank = num_out_of_bank
        self._bank_place = bank
        self._seed = seed

    def prepare(self) -> None:
        """Build the bank and encode the texts; see :class:`Source`.

        Raises:
            InputDataError: If a file is missing, damaged or empty, lacks a column, has an empty
                text or label, has only one label, or a test label that train does not have.
            ConfigError: If the splits leave nothing to train on, or fewer than two labels would be
                left in the bank.
            EncoderError: If the texts cannot be encoded.
            BankBuildError: If the bank cannot be written.
        """
        self._warn_of_single_examples()
        self._warn_of_seen_tests()
        self._encoded.prepare()

    @property
    def bank(self) -> PhraseBank:
        """The bank; see :class:`Source`."""
        return self._encoded.bank

    def split(self, name: SplitName) -> Split:
        """Return a split; see :class:`Source`."""
        texts, labels = self._plan.rows[name].texts, self._plan.rows[name].labels
        own_vectors = no_own_vectors(len(texts))
        if name != "test":
            num_labels = len(self._plan.labels)
            own_vectors = pad_ids(self._encoded.vectors_of(texts, first_row=num_labels))
        outside = None
        if name == "test" and self._plan.out_of_bank.texts:
            vectors = self._encoded.queries[_OUT_OF_BANK]
            outside = out_of_bank_split("test", vectors, self._plan.out_of_bank.texts)
        return Split(
            name=name,
            queries=self._encoded.queries[name],
            targets=self.bank.find(labels)[:, None],
            own_vectors=own_vectors,
            texts=texts,
            out_of_bank=outside,
        )

    @cached_property
    def _encoded(self) -> EncodedTexts:
        """The bank, made of the labels' names and the examples (equal ones once), and queries."""
        plan = self._plan
        examples = dict.fromkeys(zip(plan.in_bank.labels, plan.in_bank.texts, strict=True))
        num_examples = Counter(label for label, _ in examples)
        queries = {name: rows.texts for name, rows in plan.rows.items()}
        return EncodedTexts(
            encoder=self._encoder,
            bank_root=self._bank_root,
            bank=self._bank_place,
            source="labelled_text",
            phrases=[*plan.labels, *(label for label, _ in examples)],
            texts=[*map(readable_label, plan.labels), *(text for _, text in examples)],
            metadata={"num_examples": {label: num_examples[label] for label in plan.labels}},
            queries=queries | {_OUT_OF_BANK: plan.out_of_bank.texts},
        )

    @cached_property
    def _plan(self) -> _Plan:
        """Read the files, divide the rows, list what the bank will hold."""
        every = self._read(self._train)
        labels = list(dict.fromkeys(every.labels))
        if len(labels) == 1:
            raise InputDataError.unexpected(
                self._train,
                f"at least 2 labels in column {self._columns[1]!r}",
                repr(labels[0]),
                summary="there is only one label",
                advice="With one possible answer there is nothing to learn",
            )
        known, test = self._read_test(every)
        known = known.take(self._draw("num_train", self._num_train, known))
        test = test.take(self._draw("num_test", self._num_test, test))
        held_out = self._hold_out(labels)
        labels = [label for label in labels if label not in held_out]
        (known, _), (test, out_of_bank) = known.divide(held_out), test.divide(held_out)
        places = random_split(len(known.texts), fractions=self._fractions, seed=self._seed)
        rows = {name: known.take(of_split) for name, of_split in places.items()}
        rows["test"] = test
        return _Plan(labels, known, rows, out_of_bank)

    def _hold_out(self, labels: Sequence[str]) -> frozenset[str]:
        """Draw the labels that leave the bank."""
        if not 0 <= self._num_out_of_bank <= len(labels) - 2:
            expected = f"0 to {len(labels) - 2}, as there are {len(labels)} labels"
            raise ConfigError.unexpected("data.num_out_of_bank", expected, self._num_out_of_bank)
        order = np.random.default_rng(self._seed).permutation(len(labels))
        return frozenset(labels[place] for place in order[: self._num_out_of_bank])

    def _draw(self, name: str, wanted: int | None, rows: _Rows) -> IntArray:
        """Draw as many rows as an argument says."""
        if wanted is not None and wanted < 1:
            raise ConfigError.unexpected(f"data.{name}", "at least 1, or null for all rows", wanted)
        return draw_rows(len(rows.texts), wanted, seed=self._seed)

    def _read(self, path: Path) -> _Rows:
        """Read one file."""
        text_column, label_column = self._columns
        if text_column == label_column:
            raise ConfigError.unexpected(
                "data.label_column", "another column than that of the texts", repr(label_column)
            )
        columns = read_columns(path, self._columns)
        return _Rows(columns[text_column], [normalize_text(each) for each in columns[label_column]])

    def _read_test(self, every: _Rows) -> tuple[_Rows, _Rows]:
        """Return the rows that may be in the bank, and the test rows."""
        if self._test is None:
            places = random_split(
                len(every.texts), fractions={"test": self._test_fraction}, seed=self._seed
            )
            return every.take(places["train"]), every.take(places["test"])
        if self._test_fraction != TEST_FRACTION:
            _log.warning("data.test_fraction is not used, as data.test is given")
        test, known_labels = self._read(self._test), set(every.labels)
        for row, label in enumerate(test.labels):
            if label not in known_labels:
                raise InputDataError.unexpected(
                    self._test,
                    f"one of the {len(known_labels)} labels of {self._train}",
                    repr(label),
                    at=f"row {row}",
                    summary="a test label is not in the bank",
                    advice="Correct the label, or add examples of it to the training file",
                )
        return every, test

    def _warn_of_single_examples(self) -> None:
        """Say which labels have one example."""
        examples = Counter(self._plan.in_bank.labels)
        single = [label for label, count in examples.items() if count == 1]
        if single:
            _log.warning(
                "%s: %d labels have one example only, which is little to learn from: %s%s",
                self._train,
                len(single),
                ", ".join(map(repr, single[:_LABELS_SHOWN])),
                ", ..." if len(single) > _LABELS_SHOWN else "",
            )

    def _warn_of_seen_tests(self) -> None:
        """Say how many test texts are training texts, in any spelling that a bank takes for one."""
        known = set(map(normalize_text, self._plan.in_bank.texts))
        asked = self._plan.rows["test"].texts
        num_seen = sum(normalize_text(text) in known for text in asked)
        if num_seen:
            _log.warning(
                "%s: %d of %d test texts are training texts too, which are found by themselves: the"
                " test says less about new texts",
                self._test or self._train,
                num_seen,
                len(asked),
            )


def readable_label(label: str) -> str:
    """Spell a label as people would, for the encoder.

    >>> readable_label("card_arrival")
    'card arrival'
    """
    return " ".join(label.replace("_", " ").split()) or label
