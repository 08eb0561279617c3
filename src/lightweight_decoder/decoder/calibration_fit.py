"""Fits how sure a decoder may be of its first phrase, on queries whose right phrases are known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from lightweight_decoder.datatypes import NO_ID
from lightweight_decoder.decoder.calibration import Calibration, CalibrationMethod
from lightweight_decoder.decoder.splits import no_own_vectors, pad_ids
from lightweight_decoder.errors import ConfigError, EmbeddingError, InputDataError
from lightweight_decoder.rerank import is_right
from lightweight_decoder.vectors.directions import unit_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from lightweight_decoder.bank import PhraseBank
    from lightweight_decoder.datatypes import FloatArray, IntArray
    from lightweight_decoder.decoder.phrase_bank_decoder import PhraseBankDecoder

NUM_CALIBRATED = 32  # more added nothing on the reverse dictionary
_QUERIES_AT_ONCE = 512


class CalibrationExamples(NamedTuple):
    """What a calibration is fitted on: (q, k), (q, 2) and (q,).

    Attributes:
        values: (q, k) float32 ranking values, best first, -inf where a bank ran out.
        similarity: (q, 2) float32, from ``PhraseBankDecoder.similarities``.
        is_first: (q,) bool, whether the first phrase is right.
    """

    values: FloatArray
    similarity: FloatArray
    is_first: npt.NDArray[np.bool_]


def fit_calibration(
    decoder: PhraseBankDecoder,
    queries: npt.ArrayLike | Tensor,
    targets: IntArray | Tensor | Sequence[str | int] | Sequence[Sequence[str | int]],
    *,
    out_of_bank: npt.ArrayLike | Tensor | None = None,
    own_vectors: IntArray | None = None,
    preprocessed: bool = False,
    method: CalibrationMethod = "temperature",
    out_of_bank_share: Annotated[float, Field(ge=0, lt=1)] = 0.0,
) -> Calibration:
    """Fit a decoder's calibration and set it, so that its answers carry confidence.

    Args:
        decoder: What is calibrated, as it is.
        queries: (q, input_dim) embeddings of any length but zero, none of which it was trained on.
        targets: What each query should decode to: a phrase or a list of phrases, as texts or as
            ids; (q, m) ids are filled up with ``NO_ID``.
        out_of_bank: (o, input_dim) embeddings that no phrase of the bank answers.
        own_vectors: (q, w) int64 vectors of the bank that were made from the query itself, which
            are hidden from it, filled up with ``NO_ID``; None: there are none.
        preprocessed: Whether all embeddings went through the bank's preprocessing already.
        method: See :class:`Calibration`.
        out_of_bank_share: Share of queries in use that no phrase answers, in [0, 1). Above 0, the
            fit sees ``out_of_bank``; where that is None, each query a second time, with its right
            phrases hidden from it.

    Returns:
        The calibration, which is ``decoder.calibration`` from now on.

    Raises:
        ConfigError: ``out_of_bank_share`` is out of range.
        EmbeddingError: The embeddings have the wrong width, or a row without a direction.
        InputDataError: Targets are not one for each query, or not in the bank; or the decoder's
            first phrase is right for all queries, or for none.
    """
    if not 0 <= out_of_bank_share < 1:
        raise ConfigError.unexpected(
            "out_of_bank_share", "a share from 0 to below 1", out_of_bank_share
        )
    asked = _as_queries(decoder, queries, preprocessed=preprocessed)
    right = _phrase_ids(decoder.bank, targets)
    if len(right) != len(asked):
        raise InputDataError.unexpected("targets", f"{len(asked)}, one a query", len(right))
    own = no_own_vectors(len(asked)) if own_vectors is None else own_vectors
    parts = [_examples(decoder, asked, right, own)]
    if out_of_bank_share > 0 and out_of_bank is not None:
        outside = _as_queries(decoder, out_of_bank, preprocessed=preprocessed)
        nothing = no_own_vectors(len(outside))
        parts.append(_examples(decoder, outside, nothing, nothing))
    elif out_of_bank_share > 0:
        theirs = decoder.bank.vector_ids_of(right.reshape(-1)).reshape(len(right), -1)
        hidden = np.concatenate([theirs[:, (theirs != NO_ID).any(axis=0)], own], axis=1)
        parts.append(_examples(decoder, asked, no_own_vectors(len(asked)), hidden))
    decoder.calibration = fit_to_examples(parts, out_of_bank_share, method)
    return decoder.calibration


def fit_to_examples(
    parts: Sequence[CalibrationExamples], out_of_bank_share: float, method: CalibrationMethod
) -> Calibration:
    """Return the calibration of examples; the first part are those in the bank.

    Raises:
        InputDataError: As of ``Calibration.fit``.
    """
    values, similarity, is_first = (np.concatenate(column) for column in zip(*parts, strict=True))
    is_there = np.isfinite(values).all(axis=0)  # where phrases are hidden, a small bank runs out
    return Calibration.fit(
        values[:, is_there],
        is_first,
        similarity=similarity,
        in_bank=np.arange(len(is_first)) < len(parts[0].is_first),
        out_of_bank_share=out_of_bank_share,
        method=method,
    )


def _as_queries(
    decoder: PhraseBankDecoder, embeddings: npt.ArrayLike | Tensor, *, preprocessed: bool
) -> Tensor:
    """Return the embeddings as the decoder searches for them, (q, query_dim) float32."""
    if not isinstance(embeddings, Tensor):
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, is refused
            embeddings = torch.from_numpy(np.array(embeddings, dtype=np.float32))
    found = embeddings.detach().to(decoder.device, torch.float32)
    width = decoder.query_dim if preprocessed else decoder.input_dim
    if found.ndim != 2 or found.shape[1] != width:  # noqa: PLR2004
        raise EmbeddingError.unexpected(
            None, f"(q, {width})", tuple(found.shape), summary="embeddings of another shape"
        )
    unit_rows(found)  # refuses what has no direction
    return found if preprocessed else decoder.preprocess(found)


def _phrase_ids(
    bank: PhraseBank,
    targets: IntArray | Tensor | Sequence[str | int] | Sequence[Sequence[str | int]],
) -> IntArray:
    """Return (q, m) int64 phrase ids of targets in any form, filled up with ``NO_ID``."""
    listed = targets.tolist() if isinstance(targets, np.ndarray | Tensor) else targets
    rows = [[row] if isinstance(row, str | int) else list(row) for row in listed]
    flat: list[Any] = [target for row in rows for target in row]
    are_texts = all(isinstance(target, str) for target in flat)
    ids = bank.find(flat) if are_texts else np.array(flat, dtype=np.int64)
    is_wrong = (ids == NO_ID) if are_texts else (ids < NO_ID) | (ids >= bank.num_phrases)
    row_of = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    for place in np.flatnonzero(is_wrong)[:1]:
        found = repr(flat[place])
        at = f"row {row_of[place]}"
        raise InputDataError.unexpected("targets", "a phrase of the bank", found, at=at)
    in_order = iter(ids.tolist())
    return pad_ids([[next(in_order) for _ in row] for row in rows])


def _examples(
    decoder: PhraseBankDecoder, queries: Tensor, targets: IntArray, hidden_vectors: IntArray
) -> CalibrationExamples:
    """Return what the decoder says to queries, some vectors hidden from each."""
    parts = []
    for rows in torch.split(torch.arange(len(queries)), _QUERIES_AT_ONCE):
        asked = queries[rows.to(queries.device)]
        right, hidden = (
            torch.from_numpy(column)[rows].to(decoder.device)
            for column in (targets, hidden_vectors)
        )
        found = decoder.candidates(asked, NUM_CALIBRATED, exclude_vectors=hidden)
        similarity = decoder.similarities(asked, found, exclude_vectors=hidden)
        is_first = is_right(found.phrase_ids[:, :1], right)[:, 0]
        parts.append([column.cpu().numpy() for column in (found.values, similarity, is_first)])
    return CalibrationExamples(*(np.concatenate(column) for column in zip(*parts, strict=True)))
