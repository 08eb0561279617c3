"""Cheap features of a phrase that need no query."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from torch import Tensor

    from lightweight_decoder.bank import PhraseBank

NUM_FEATURES = 5


def phrase_features(bank: PhraseBank) -> Tensor:
    """Returns (p, 5) float32, each column of mean 0 and variance 1 over the bank, or all 0.

    The columns: log of 1 + the bank's metadata column ``frequency`` (0 where the bank has none),
    log of the length in characters, log of the length in words, whether the text has an upper-case
    letter, and log of the number of vectors that the phrase owns.
    """
    texts = bank.text_array
    columns = [
        np.log1p(_frequency(bank)),
        np.log(np.fromiter((max(len(text), 1) for text in texts), np.float32, bank.num_phrases)),
        np.log(np.fromiter((text.count(" ") + 1 for text in texts), np.float32, bank.num_phrases)),
        np.fromiter((text != text.lower() for text in texts), np.float32, bank.num_phrases),
        np.log(np.bincount(bank.owners, minlength=bank.num_phrases)),
    ]
    features = np.stack(columns, axis=1).astype(np.float32)
    spread = features.std(axis=0)
    return torch.from_numpy((features - features.mean(axis=0)) / np.where(spread > 0, spread, 1))
