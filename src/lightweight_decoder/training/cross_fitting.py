"""Fits a phrase classifier to all labelled queries, and judges it on queries it has not seen.

Cross-fitting: the queries are divided into folds; for each fold a classifier is fitted to all other
examples, so that what it says to the fold is what it would say to new queries. On these answers the
weights of class logit, search value and agreement are chosen, and confidence is calibrated; the
classifier that is kept is then fitted to every example. So no query is lost to learning, nor to
choosing, which matters where there are few.

Where there are enough labels and queries, other classifiers go without some of the labels, and the
queries of these show what an embedding looks like that no phrase answers.
"""

from __future__ import annotations

import logging
from copy import deepcopy
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.special import logsumexp, softmax
from torch import Tensor

from lightweight_decoder.datatypes import NO_ID
from lightweight_decoder.decoder.calibration_fit import (
    NUM_CALIBRATED,
    CalibrationExamples,
    fit_to_examples,
)
from lightweight_decoder.errors import ConfigError, InputDataError
from lightweight_decoder.rerank import PhraseClassifier, is_right

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt

    from lightweight_decoder.datatypes import FloatArray, IntArray
    from lightweight_decoder.decoder.calibration import CalibrationMethod
    from lightweight_decoder.decoder.phrase_bank_decoder import PhraseBankDecoder
    from lightweight_decoder.decoder.splits import Split

logger = logging.getLogger(__name__)

_MANY_QUERIES = 5_000
_NUM_FOLDS = (10, 5)  # below many, where every example counts, and from then on
_ENOUGH_ANSWERS = 2_000  # of queries in the bank; further folds would say the same
_LEAST_LABELS = 20  # with fewer, a fold that goes without some is another task
_LEAST_QUERIES = 1_000  # with fewer, what is learned from absent labels is noise
_QUERIES_AT_ONCE = 256
_MOST_LOGITS = 2**31  # examples times phrases: about an hour on one core


class _Answers(NamedTuple):
    """What search and classifiers say to q queries, k candidates each, in the search's order."""

    parts: FloatArray  # (q, k, 3): class logit, search value, agreement
    is_there: npt.NDArray[np.bool_]  # (q, k)
    is_right: npt.NDArray[np.bool_]  # (q, k)


class LabelledQueries(NamedTuple):
    """Queries with their right phrases, and the vectors of the bank that were made from them."""

    queries: Tensor  # (q, d) float32
    targets: Tensor  # (q, m) int64, filled up with NO_ID
    own_vectors: Tensor  # (q, w) int64, the same

    @classmethod
    def of(cls, splits: Sequence[Split]) -> LabelledQueries:
        """Join some splits."""
        return cls(
            torch.from_numpy(np.concatenate([split.queries for split in splits])),
            _stacked([split.targets for split in splits]),
            _stacked([split.own_vectors for split in splits]),
        )

    def take(self, rows: Tensor) -> LabelledQueries:
        """Return some of the queries."""
        return LabelledQueries(*(column[rows] for column in self))


def fit_classifier(
    decoder: PhraseBankDecoder,
    classifier: PhraseClassifier,
    splits: Sequence[Split],
    *,
    seed: int = 0,
    method: CalibrationMethod = "temperature",
    out_of_bank_share: float = 0.0,
) -> dict[str, float]:
    """Fit a decoder's phrase classifier in place, and calibrate the decoder.

    Args:
        decoder: Has no adapter.
        classifier: Its reranker.
        splits: All queries that may be learned from. Examples are the bank's vectors, and the
            queries that own none of them.
        seed: Decides the folds.
        method: As of ``fit_calibration``.
        out_of_bank_share: The same.

    Returns:
        ``recall@1`` and ``mrr`` of the queries that were held out, in [0, 1].

    Raises:
        ConfigError: The decoder has an adapter, queries and bank differ in width, or there are too
            many phrases.
    """
    labelled = LabelledQueries.of(splits)
    _check(decoder, labelled)
    examples, classes, made_from = _examples(decoder, labelled)
    judge = deepcopy(classifier)
    nothing = torch.zeros(decoder.bank.num_phrases, dtype=torch.bool)
    inside, outside = [], []
    for fold, absent in _folds(decoder, labelled, seed=seed):
        is_kept = ~torch.isin(made_from, fold)
        own = labelled.own_vectors[fold]
        is_kept[own[own != NO_ID]] = False
        judge.fit(examples[is_kept], classes[is_kept])
        inside.append(_answers(decoder, judge, labelled.take(fold), nothing))
        if absent.any():
            is_kept = ~absent[classes]
            judge.fit(examples[is_kept], classes[is_kept], absent=absent)
            strangers = absent[labelled.targets[:, 0]].nonzero().squeeze(1)
            some = torch.randperm(len(strangers), generator=_generator(seed))[: len(fold)]
            outside.append(_answers(decoder, judge, labelled.take(strangers[some]), absent))
    known, unknown = _joined(inside), _joined(outside) if outside else None
    classifier.fit(examples, classes)
    classifier.shares.copy_(torch.from_numpy(_fit_shares(known)))
    shares = classifier.shares.cpu().numpy()
    try:
        decoder.calibration = fit_to_examples(
            [_calibration_examples(part, shares) for part in (known, unknown) if part],
            out_of_bank_share,
            method,
        )
    except InputDataError as error:
        logger.warning("Not calibrated, so answers carry no confidence: %s", error)
    return _held_out_metrics(known, shares)


def _check(decoder: PhraseBankDecoder, labelled: LabelledQueries) -> None:
    """Refuse what a classifier cannot be fitted to."""
    if decoder.adapter is not None:
        raise ConfigError.unexpected("rerank.adapter", "null beside a classifier", "an adapter")
    width, dim = labelled.queries.shape[1], decoder.bank.dim
    if width != dim:
        raise ConfigError.unexpected(
            "rerank",
            f"queries of the bank's width, {dim}",
            width,
            summary="a classifier cannot read the queries",
            advice="Train with rerank=listwise",
        )
    size = (decoder.bank.num_vectors + len(labelled.queries)) * decoder.bank.num_phrases
    if size > _MOST_LOGITS:
        raise ConfigError.unexpected(
            "rerank",
            f"examples times phrases up to {_MOST_LOGITS:,}",
            f"{size:,}",
            summary="there are too many phrases for a classifier",
            advice="Train with rerank=listwise",
        )


def _examples(
    decoder: PhraseBankDecoder, labelled: LabelledQueries
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (m, d) examples, (m,) their phrases, (m,) the query that each is, or ``NO_ID``.

    The bank's vectors come first, in their order.
    """
    bank = decoder.bank
    has_none = (labelled.own_vectors == NO_ID).all(dim=1)
    rows, columns = ((labelled.targets != NO_ID) & has_none[:, None]).nonzero(as_tuple=True)
    vectors = torch.from_numpy(np.asarray(bank.vectors, dtype=np.float32))
    owners = torch.from_numpy(np.asarray(bank.owners))
    return (
        torch.cat([vectors, labelled.queries[rows]]),
        torch.cat([owners, labelled.targets[rows, columns]]),
        torch.cat([torch.full_like(owners, NO_ID), rows]),
    )


def _folds(
    decoder: PhraseBankDecoder, labelled: LabelledQueries, *, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the queries of each fold (f,), and phrases (p,) for a classifier to go without.

    Every fold has its share of each label, as far as that can be.
    """
    generator, count = _generator(seed), len(labelled.queries)
    num_folds = _NUM_FOLDS[count >= _MANY_QUERIES]
    order = torch.randperm(count, generator=generator)
    order = order[labelled.targets[order, 0].argsort(stable=True)]
    fold_of = torch.empty(count, dtype=torch.int64)
    fold_of[order] = torch.arange(count) % num_folds
    labels = torch.unique(labelled.targets[:, 0])
    labels = labels[torch.randperm(len(labels), generator=generator)]
    num_answers = 0
    for number in range(num_folds):
        absent = torch.zeros(decoder.bank.num_phrases, dtype=torch.bool)
        if len(labels) >= _LEAST_LABELS and count >= _LEAST_QUERIES:
            absent[labels[number::num_folds]] = True
        fold = (fold_of == number).nonzero().squeeze(1)
        if len(fold) > 0 and num_answers < _ENOUGH_ANSWERS:
            yield fold, absent
        num_answers += len(fold)


@torch.no_grad()
def _answers(
    decoder: PhraseBankDecoder, judge: PhraseClassifier, asked: LabelledQueries, absent: Tensor
) -> _Answers:
    """Ask search and classifier, without the phrases that are absent."""
    num_candidates = judge.num_candidates + int(absent.sum())
    batches = []
    for rows in torch.split(torch.arange(len(asked.queries)), _QUERIES_AT_ONCE):
        queries, targets, own = (column.to(decoder.device) for column in asked.take(rows))
        found = decoder.search.search(queries, num_candidates, exclude_vectors=own)
        vectors = decoder.bank.gather(found.vector_ids)
        unit = torch.nn.functional.normalize(queries, dim=1)
        is_there = (found.phrase_ids != NO_ID) & ~absent.to(queries.device)[found.phrase_ids]
        parts = (
            judge.class_logits(queries, found.phrase_ids),
            found.values.masked_fill(~is_there, -1),
            decoder.scorer.agreement(unit, vectors, found, own),
        )
        columns = (torch.stack(parts, dim=-1), is_there, is_right(found.phrase_ids, targets))
        batches.append([column.cpu().numpy() for column in columns])
    return _Answers(*(np.concatenate(column) for column in zip(*batches, strict=True)))


def _joined(parts: Sequence[_Answers]) -> _Answers:
    """Join the answers of all folds, which may differ in width by a phrase or so."""
    width = min(part.is_there.shape[1] for part in parts)
    return _Answers(
        *(np.concatenate([c[:, :width] for c in cs]) for cs in zip(*parts, strict=True))
    )


def _logits(answers: _Answers, shares: FloatArray) -> FloatArray:
    """Return the logits (q, k) that some weights give, -inf for phrases that are not there."""
    logits: FloatArray = np.where(answers.is_there, answers.parts @ shares, -np.inf)
    return logits


def _fit_shares(answers: _Answers) -> FloatArray:
    """Return the weights (3,) of least log loss, none negative."""
    is_useful = (answers.is_right & answers.is_there).any(axis=1)
    parts = answers.parts[is_useful].astype(np.float64)
    hidden = np.where(answers.is_there[is_useful], 0, -np.inf)
    right = answers.is_right[is_useful]

    def loss_and_gradient(shares: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
        every = parts @ shares + hidden
        good = np.where(right, every, -np.inf)
        loss = logsumexp(every, axis=1) - logsumexp(good, axis=1)
        error = softmax(every, axis=1) - softmax(good, axis=1)
        return float(loss.mean()), np.einsum("qk,qks->s", error, parts) / len(parts)

    start = np.array([1.0, 1.0, 0.0])
    if len(parts) > 0:
        bounds = [(0, None)] * len(start)
        start = minimize(loss_and_gradient, start, jac=True, method="L-BFGS-B", bounds=bounds).x
    return start.astype(np.float32)


def _calibration_examples(answers: _Answers, shares: FloatArray) -> CalibrationExamples:
    """Return what the decoder would have said to the queries."""
    logits = _logits(answers, shares)
    order = np.argsort(-logits, axis=1, kind="stable")[:, :NUM_CALIBRATED]
    cosines, agreement = (
        np.take_along_axis(answers.parts[:, :, column], order, axis=1) for column in (1, 2)
    )
    is_first = np.take_along_axis(answers.is_right & answers.is_there, order, axis=1)[:, 0]
    similarity = np.stack([cosines.max(axis=1, initial=-1), agreement[:, 0]], axis=1)
    values = np.take_along_axis(logits, order, axis=1).astype(np.float32)
    return CalibrationExamples(values, similarity, is_first)


def _held_out_metrics(answers: _Answers, shares: FloatArray) -> dict[str, float]:
    """Return recall@1 and MRR of the answers; a right phrase that was not found counts as 0."""
    order = np.argsort(-_logits(answers, shares), axis=1, kind="stable")
    right = np.take_along_axis(answers.is_right & answers.is_there, order, axis=1)
    reciprocal = np.where(right.any(axis=1), 1 / (right.argmax(axis=1) + 1), 0)
    return {"recall@1": float(right[:, 0].mean()), "mrr": float(reciprocal.mean())}


def _stacked(columns: Sequence[IntArray]) -> Tensor:
    """Stack ids of different widths, filled up with ``NO_ID``; at least one column."""
    width = max(1, *(column.shape[1] for column in columns))
    padded = [
        np.pad(ids, ((0, 0), (0, width - ids.shape[1])), constant_values=NO_ID) for ids in columns
    ]
    return torch.from_numpy(np.concatenate(padded))


def _generator(seed: int) -> torch.Generator:
    """Return random numbers that follow from a seed."""
    return torch.Generator().manual_seed(seed)
