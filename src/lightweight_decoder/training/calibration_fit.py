"""Fits a decoder's calibration on a split of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from lightweight_decoder.datatypes import NO_ID
from lightweight_decoder.decoder.calibration import CalibrationMethod, fit_calibration
from lightweight_decoder.errors import ConfigError
from lightweight_decoder.rerank import is_right

if TYPE_CHECKING:
    import numpy.typing as npt

    from lightweight_decoder.datatypes import FloatArray, IntArray
    from lightweight_decoder.decoder.phrase_bank_decoder import PhraseBankDecoder
    from lightweight_decoder.decoder.splits import Split

_NUM_CANDIDATES = 32  # more added nothing on the reverse dictionary
_QUERIES_AT_ONCE = 512


class _Examples(NamedTuple):
    """What a calibration is fitted on: (q, k), (q, 2) and (q,)."""

    values: FloatArray
    similarity: FloatArray
    right: npt.NDArray[np.bool_]


def calibrate(
    decoder: PhraseBankDecoder,
    split: Split,
    *,
    method: CalibrationMethod = "temperature",
    out_of_bank_share: float = 0.0,
) -> None:
    """Fits the decoder's calibration, in place.

    Args:
        decoder: What is calibrated, as it is.
        split: Queries that it was not trained on.
        method: See ``calibration``.
        out_of_bank_share: Share of queries in use that no phrase answers, in [0, 1). Above 0, the
            fit sees ``split.out_of_bank``; where that is None, each query of the split a second
            time, with its right phrases hidden from it.

    Raises:
        ConfigError: ``out_of_bank_share`` is out of range.
        InputDataError: The decoder's first phrase is right for all queries, or for none.
    """
    if not 0 <= out_of_bank_share < 1:
        raise ConfigError(
            "is not a share",
            where="out_of_bank_share",
            expected="from 0 to below 1",
            found=out_of_bank_share,
        )
    inside = _examples(decoder, split, split.own_vectors)
    parts = [inside]
    if out_of_bank_share > 0 and split.out_of_bank is not None:
        parts.append(_examples(decoder, split.out_of_bank, split.out_of_bank.own_vectors))
    elif out_of_bank_share > 0:
        hidden = _examples(decoder, split, _vectors_of_targets(decoder, split))
        parts.append(hidden._replace(right=np.zeros_like(hidden.right)))
    values, similarity, right = (np.concatenate(column) for column in zip(*parts, strict=True))
    is_there = np.isfinite(values).all(axis=0)  # where phrases are hidden, a small bank runs out
    decoder.calibration = fit_calibration(
        values[:, is_there],
        right,
        similarity=similarity,
        in_bank=np.arange(len(right)) < len(inside.right),
        out_of_bank_share=out_of_bank_share,
        method=method,
    )


def _examples(decoder: PhraseBankDecoder, split: Split, hidden_vectors: IntArray) -> _Examples:
    """Return what the decoder says to the queries of a split, some vectors hidden from each."""
    parts = []
    for rows in torch.split(torch.arange(len(split)), _QUERIES_AT_ONCE):
        queries, targets, hidden = (
            torch.from_numpy(column)[rows].to(decoder.device)
            for column in (split.queries, split.targets, hidden_vectors)
        )
        found = decoder.candidates(queries, _NUM_CANDIDATES, exclude_vectors=hidden)
        similarity = decoder.similarities(queries, found, exclude_vectors=hidden)
        right = is_right(found.phrase_ids[:, :1], targets)[:, 0]
        parts.append([column.cpu().numpy() for column in (found.values, similarity, right)])
    return _Examples(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _vectors_of_targets(decoder: PhraseBankDecoder, split: Split) -> IntArray:
    """(q, w) int64 all vectors of each query's right phrases, and its own, filled with NO_ID."""
    rows = decoder.bank.vector_ids_of(split.targets.reshape(-1)).reshape(len(split), -1)
    kept = rows[:, (rows != NO_ID).any(axis=0)]
    return np.concatenate([kept, split.own_vectors], axis=1)
