"""What every source of training data gives: a bank, and splits of queries with their targets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from lightweight_decoder.bank import PhraseBank
    from lightweight_decoder.datatypes import FloatArray
    from lightweight_decoder.decoder.splits import Split, SplitName
    from lightweight_decoder.encoder import Encoder


class Source(Protocol):
    """Where training data comes from. Everything it gives follows from its arguments alone."""

    def prepare(self) -> None:
        """Do the slow work that leaves something on disk: encode, build the bank.

        Called once per machine before anything else; calling it again costs little.
        """

    def bank(self) -> PhraseBank:
        """Open the bank; :meth:`prepare` came before, perhaps in another process."""

    def split(self, name: SplitName) -> Split:
        """Return a split; :meth:`prepare` came before, perhaps in another process."""


def encode_splits(
    encoder: Encoder, texts: dict[SplitName, list[str]]
) -> dict[SplitName, FloatArray]:
    """Encode the texts of all splits in one go, which is faster and shows one progress bar."""
    vectors = encoder.encode_queries([text for of_split in texts.values() for text in of_split])
    ends = np.cumsum([len(of_split) for of_split in texts.values()])[:-1]
    return dict(zip(texts, np.split(vectors, ends), strict=True))
