"""The bank's ``preprocessing.safetensors``: what its steps learn from a sample of the rows."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from lightweight_decoder.bank.manifest import REBUILD
from lightweight_decoder.bank.rows import rows_as_float32
from lightweight_decoder.errors import BankBuildError, BankError
from lightweight_decoder.progress import report_progress
from lightweight_decoder.vectors.directions import has_direction, refuse_directionless
from lightweight_decoder.vectors.preprocessing import Preprocessing

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy.typing as npt

    from lightweight_decoder.bank.manifest import PreprocessingInfo
    from lightweight_decoder.bank.rows import OnBadRow
    from lightweight_decoder.bank.stored_file import StoredFile
    from lightweight_decoder.datatypes import FloatArray, IntArray
    from lightweight_decoder.vectors.preprocessing import Step

SAMPLE_ROWS = 100_000
SAMPLE_BYTES = 2**28
"""A sample has no more rows than the first, and takes no more memory as float32 than the second."""

_SEED = 0


def fit(steps: Sequence[Step], sample: FloatArray) -> tuple[Preprocessing, bytes]:
    """Fit steps on a sample (m, d); return them, and the file that keeps what they learned.

    The same content gives the same bytes.

    Raises:
        ConfigError: If a step does not go with the sample.
    """
    origin = {
        "steps": [asdict(step) for step in steps],
        "input_dim": sample.shape[1],
        "sample": hashlib.sha256(sample.data).hexdigest(),
    }
    fitted = Preprocessing.fit(steps, sample)
    arrays = {name: np.ascontiguousarray(array) for name, array in fitted.arrays().items()}
    # One key only: safetensors writes several in an order that changes from run to run.
    return fitted, save(arrays, metadata={"origin": json.dumps(origin, sort_keys=True)})


def read_preprocessing(file: StoredFile, info: PreprocessingInfo) -> Preprocessing:
    """Read what a bank's steps learned.

    Raises:
        BankError: If the file is not what the manifest says.
    """
    file.require()
    try:
        return Preprocessing.from_arrays(info.steps, info.input_dim, load(bytes(file.content)))
    except (SafetensorError, ValueError, TypeError, KeyError) as error:
        expected = f"the arrays of {', '.join(step.step for step in info.steps)}"
        problem = "what the preprocessing learned does not match the manifest"
        raise BankError.unexpected(
            file.path, expected, error, summary=problem, advice=REBUILD
        ) from error


def draw_sample(
    blocks: Iterable[npt.ArrayLike],
    *,
    on_bad_row: OnBadRow = "raise",
    total: int | None = None,
    show_progress: bool = False,
) -> FloatArray:
    """Draw rows at random, all with the same probability, without knowing how many will come.

    Every row of the blocks (b, d) gets a random number, and those with the lowest ones are kept, as
    (m, d) float32 in the order of the stream. The same rows give the same sample, whatever the
    blocks they come in. Memory: the sample, and a block.

    Raises:
        BankBuildError: If a block has another shape, a row cannot be used (unless ``on_bad_row``
            says that it is left out), or nothing comes.
    """
    random = np.random.default_rng(_SEED)
    sample: _LowestKeys | None = None
    num_rows = 0
    with report_progress(
        "drawing a sample", unit="rows", total=total, enabled=show_progress
    ) as advance:
        for block in blocks:
            dim = None if sample is None else sample.dim
            vectors = rows_as_float32(block, dim=dim, at=f"rows from {num_rows}")
            rows = np.arange(num_rows, num_rows + len(vectors))
            if on_bad_row == "raise":
                refuse_directionless(vectors, rows=rows, error=BankBuildError)
            sample = sample or _LowestKeys(vectors.shape[1])
            sample.add(random.random(len(vectors)), rows, vectors, has_direction(vectors))
            num_rows += len(vectors)
            advance(len(vectors))
    if sample is None or not len(sample):
        expected = "at least one row that can be used"
        problem = "there is nothing to fit the preprocessing on"
        raise BankBuildError.unexpected(None, expected, "none", summary=problem)
    return sample.in_order()


class _LowestKeys:
    """Keeps the rows with the lowest keys."""

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self._size = max(1, min(SAMPLE_ROWS, SAMPLE_BYTES // (4 * dim)))
        self._keys = np.empty(0)
        self._rows = np.empty(0, dtype=np.int64)
        self._vectors = np.empty((self._size, dim), dtype=np.float32)  # pages are taken when used

    def __len__(self) -> int:
        return len(self._keys)

    def add(
        self,
        keys: npt.NDArray[np.float64],
        rows: IntArray,
        vectors: FloatArray,
        is_usable: npt.NDArray[np.bool_],
    ) -> None:
        """Take usable rows in, those with the highest keys out."""
        if len(self) == self._size:
            is_usable = is_usable & (keys < self._keys.max())
        new = np.flatnonzero(is_usable)
        num_kept = len(self)
        self._keys = np.concatenate([self._keys, keys[new]])
        self._rows = np.concatenate([self._rows, rows[new]])
        if len(self) <= self._size:
            self._vectors[num_kept : len(self)] = vectors[new]
            return
        stays = np.zeros(len(self), dtype=bool)
        stays[np.argpartition(self._keys, self._size - 1)[: self._size]] = True
        comes = np.flatnonzero(stays[num_kept:])
        # what comes fills the room that is left, then the places of what goes
        places = np.concatenate(
            [np.arange(num_kept, self._size), np.flatnonzero(~stays[:num_kept])]
        )
        for column in (self._keys, self._rows):
            column[places] = column[num_kept + comes]
        self._vectors[places] = vectors[new[comes]]
        self._keys, self._rows = self._keys[: self._size], self._rows[: self._size]

    def in_order(self) -> FloatArray:
        """Return the rows as they came."""
        return self._vectors[np.argsort(self._rows)]
