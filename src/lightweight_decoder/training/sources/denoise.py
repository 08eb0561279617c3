"""No labels: a bank's own vectors, disturbed, and the phrases they came from."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lightweight_decoder.bank import PhraseBank
from lightweight_decoder.decoder.splits import SPLIT_NAMES, Seed, Split, SplitName, no_own_vectors
from lightweight_decoder.errors import ConfigError

if TYPE_CHECKING:
    from lightweight_decoder.datatypes import IntArray


class Denoise:
    """Vectors of a bank with Gaussian noise as queries, the phrases that own them as targets.

    The noise has the same size in every direction and ``noise`` in all: the expected length of
    what is added to a unit vector. ``own_vectors`` is empty: to find the vector that was disturbed
    is the task here, so it must not be hidden. The splits use different vectors of the bank while
    it has enough; a smaller bank's vectors are used again, with other noise.

    Args:
        bank: Folder of the bank.
        noise: Length of the noise against the vector's 1, above 0.
        num_train: Training queries.
        num_val: Validation queries.
        num_calib: Calibration queries.
        num_test: Test queries.
        seed: Decides vectors and noise.

    Raises:
        ConfigError: If the noise is not above 0, or a number of queries is below 1.
    """

    def __init__(
        self,
        *,
        bank: Path,
        noise: float = 1.0,
        num_train: int = 50_000,
        num_val: int = 2_000,
        num_calib: int = 2_000,
        num_test: int = 2_000,
        seed: Seed = 0,
    ) -> None:
        if not 0 < noise < np.inf:
            raise ConfigError.unexpected("data.noise", "above 0, finite", noise)
        self._sizes: dict[SplitName, int] = {
            "train": num_train,
            "val": num_val,
            "calib": num_calib,
            "test": num_test,
        }
        for name, size in self._sizes.items():
            if size < 1:
                raise ConfigError.unexpected(f"data.num_{name}", "at least 1", size)
        self._bank_path = bank
        self._noise = noise
        self._seed = seed

    def prepare(self) -> None:
        """Check that the bank is there; see :class:`Source`.

        Raises:
            BankError: If the bank is missing or damaged.
        """
        _ = self.bank

    @cached_property
    def bank(self) -> PhraseBank:
        """The bank; see :class:`Source`."""
        return PhraseBank.open(self._bank_path)

    def split(self, name: SplitName) -> Split:
        """Return a split; see :class:`Source`. Only its own vectors are read from the bank."""
        bank = self.bank
        rows = self._rows[name]
        queries = bank.vectors[rows].astype(np.float32)
        noise = np.random.default_rng([self._seed, SPLIT_NAMES.index(name)])
        scale = np.float32(self._noise / np.sqrt(bank.dim))
        queries += scale * noise.standard_normal(queries.shape, dtype=np.float32)
        return Split(
            name=name,
            queries=queries,
            targets=bank.owners[rows][:, None],
            own_vectors=no_own_vectors(len(rows)),
            texts=None,
        )

    @cached_property
    def _rows(self) -> dict[SplitName, IntArray]:
        """Bank vectors of each split, ascending, so that the file is read in its order."""
        num_vectors, wanted = self.bank.num_vectors, sum(self._sizes.values())
        random = np.random.default_rng(self._seed)
        drawn = random.choice(num_vectors, size=min(wanted, num_vectors), replace=False)
        drawn = np.resize(drawn, wanted)
        ends = np.cumsum(list(self._sizes.values()))
        return {
            name: np.sort(drawn[end - size : end])
            for (name, size), end in zip(self._sizes.items(), ends, strict=True)
        }
