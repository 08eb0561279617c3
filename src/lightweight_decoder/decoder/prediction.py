"""Answers every query of a split, with a decoder and with plain search, for evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lightweight_decoder.datatypes import NO_ID
from lightweight_decoder.decoder.phrase_bank_decoder import PhraseBankDecoder
from lightweight_decoder.errors import InputDataError
from lightweight_decoder.evaluation.label_baselines import label_baselines
from lightweight_decoder.evaluation.predictions import SCHEMA, build_predictions
from lightweight_decoder.evaluation.rank_metrics import best_ranks
from lightweight_decoder.evaluation.speed import latency_metrics, queries_per_s, time_queries
from lightweight_decoder.memory import peak_memory_bytes
from lightweight_decoder.progress import report_progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy.typing as npt
    import pyarrow as pa

    from lightweight_decoder.bank import PhraseBank
    from lightweight_decoder.datatypes import FloatArray, IntArray
    from lightweight_decoder.decoder.splits import Split

NUM_VECTORS, SEEN = "number of vectors", "seen in training"
"""Columns that ``phrase_metadata`` adds to those of the bank."""

_QUERIES_AT_ONCE = 512


@dataclass(frozen=True, slots=True)
class Answers:
    """What one decoder says to q queries.

    Attributes:
        ranks: (q, m) int64 rank of every right phrase over the whole bank, from 1; 0 at the end.
        phrase_ids: (q, k) int64, best first.
        values: (q, k) float32.
        confidence: (q,) float32 in [0, 1]; None where the decoder is not calibrated.
    """

    ranks: IntArray
    phrase_ids: IntArray
    values: FloatArray
    confidence: FloatArray | None


def predict(
    decoder: PhraseBankDecoder,
    split: Split,
    *,
    top_k: int = 10,
    abstain_below: float = 0.0,
    seen: IntArray | None = None,
    show_progress: bool = False,
) -> pa.Table:
    """Return the predictions table of a split, its queries out of the bank last.

    Args:
        decoder: What is evaluated.
        split: The queries.
        top_k: How many phrases of each query to keep.
        abstain_below: Answer "no phrase" where the confidence is lower.
        seen: Ids of the phrases that training queries asked for; None leaves that column out.
        show_progress: Whether to show a bar.

    Returns:
        A table of ``evaluation.predictions``, with the metadata of each query's first right phrase;
        see ``phrase_metadata``. Plain search is left out where it cannot read the queries.

    Raises:
        InputDataError: The split has no queries.
    """
    if len(split) == 0:
        raise InputDataError.missing(
            f"the split {split.name!r}",
            "queries to answer",
            advice="Train with some, such as data.test_fraction=0.1",
        )
    parts = [split] if split.out_of_bank is None else [split, split.out_of_bank]
    plain = plain_search(decoder)
    num_searches = 1 if plain is None or plain is decoder else 2
    num_queries = sum(map(len, parts))
    with report_progress(
        "evaluating", unit="queries", total=num_searches * num_queries, enabled=show_progress
    ) as advance:
        decoded = _answer_all(decoder, parts, top_k, advance)
        searched: Answers | None = decoded
        if plain is not decoder:
            searched = None if plain is None else _answer_all(plain, parts, 1, advance)
    return _table(decoder.bank, parts, decoded, searched, abstain_below=abstain_below, seen=seen)


def plain_search(decoder: PhraseBankDecoder) -> PhraseBankDecoder | None:
    """Return the decoder without what it learned, itself if that is nothing.

    None where it decodes queries of another width than the bank, which plain search cannot read.
    """
    if decoder.adapter is None and decoder.reranker is None:
        return decoder
    if decoder.query_dim != decoder.bank.dim:
        return None
    return PhraseBankDecoder(decoder.bank, search=decoder.search, device=decoder.device)


def answer_queries(decoder: PhraseBankDecoder, split: Split, *, top_k: int) -> Iterator[Answers]:
    """Yield what a decoder says to the split's queries in the bank, batch by batch, in order.

    Each query is searched for once: the candidates found serve answers, confidence and ranks. Only
    right phrases that are not among them are looked for in the whole bank. A smaller bank than
    ``top_k`` gives all it has.
    """
    for rows in torch.split(torch.arange(len(split)), _QUERIES_AT_ONCE):
        queries, targets, hidden = (
            torch.from_numpy(column)[rows].to(decoder.device)
            for column in (split.queries, split.targets, split.own_vectors)
        )
        found = decoder.candidates(queries, max(top_k, decoder.depth), exclude_vectors=hidden)
        ranks = decoder.ranks(queries, targets, found=found, exclude_vectors=hidden)
        yield Answers(
            ranks=ranks.cpu().numpy(),
            phrase_ids=found.phrase_ids[:, :top_k].cpu().numpy(),
            values=found.values[:, :top_k].cpu().numpy(),
            confidence=decoder.confidence(queries, found, exclude_vectors=hidden),
        )


def label_baseline_metrics(learned: Sequence[Split], test: Split) -> dict[str, float]:
    """Return ``test/{system}/{metric}`` of what simple methods reach on the same vectors.

    Args:
        learned: All queries that may be learned from.
        test: The queries to answer.

    Returns:
        See ``evaluation.label_baselines``; nothing where a query has several right phrases.
    """
    queries, targets = (
        [getattr(split, name) for split in learned if len(split) > 0]
        for name in ("queries", "targets")
    )
    has_labels = all((each[:, 1:] == NO_ID).all() for each in (*targets, test.targets))
    if not has_labels or len(test) == 0:
        return {}
    labels = np.concatenate([each[:, 0] for each in targets])
    found = label_baselines(np.concatenate(queries), labels, test.queries, test.targets[:, 0])
    return {f"{test.name}/{name}": value for name, value in found.items()}


def speed_metrics(
    decoder: PhraseBankDecoder, queries: FloatArray, *, top_k: int
) -> tuple[dict[str, float], npt.NDArray[np.float64]]:
    """Measure how fast a decoder answers (q, query_dim) preprocessed queries, text included.

    Returns:
        ``latency_p50_ms``, ``latency_p95_ms``, ``latency_p99_ms`` of single queries and
        ``queries_per_s`` of a batch; and the time of each single query in milliseconds.
    """

    def answer(some: FloatArray) -> object:
        return decoder.decode(some, top_k=top_k, preprocessed=True)

    latencies_ms = time_queries(answer, queries)
    throughput = {"queries_per_s": queries_per_s(answer, queries)}
    return latency_metrics(latencies_ms) | throughput, latencies_ms


def size_metrics(decoder: PhraseBankDecoder) -> dict[str, float]:
    """Return ``model_bytes`` (what was learned), ``bank_bytes`` and ``peak_memory_bytes``.

    The last is of this process so far; on a CUDA device ``peak_gpu_memory_bytes`` is there too.
    """
    parts = [part for part in (decoder.adapter, decoder.reranker) if part is not None]
    tensors = [tensor for part in parts for tensor in part.state_dict().values()]
    metrics = {
        "model_bytes": float(sum(tensor.nbytes for tensor in tensors)),
        "bank_bytes": float(decoder.bank.manifest.total_bytes),
        "peak_memory_bytes": float(peak_memory_bytes()),
    }
    if decoder.device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(decoder.device)
        metrics["peak_gpu_memory_bytes"] = float(peak)
    return metrics


def phrase_metadata(
    bank: PhraseBank, phrase_ids: IntArray, *, seen: IntArray | None = None
) -> dict[str, list[Any]]:
    """Return what the bank knows of phrases: name to q values, None for ``NO_ID``.

    Each metadata column of the bank (one with the name of a column of predictions as "bank …"),
    ``NUM_VECTORS``, and ``SEEN`` where there are ids (``seen``) of phrases that training queries
    asked for.
    """
    columns = {
        f"bank {name}" if name in SCHEMA.names else name: bank.column(name)[phrase_ids]
        for name in bank.column_names
    }
    columns[NUM_VECTORS] = np.bincount(bank.owners, minlength=bank.num_phrases)[phrase_ids]
    if seen is not None:
        columns[SEEN] = np.isin(phrase_ids, seen)
    is_there = phrase_ids != NO_ID
    return {
        name: [value if known else None for value, known in zip(v.tolist(), is_there, strict=True)]
        for name, v in columns.items()
    }


def _answer_all(
    decoder: PhraseBankDecoder, parts: Sequence[Split], top_k: int, advance: Callable[[int], None]
) -> Answers:
    """Return what a decoder says to all queries of some splits."""
    batches = []
    for part in parts:
        for batch in answer_queries(decoder, part, top_k=top_k):
            batches.append(batch)
            advance(len(batch.ranks))
    width = max(batch.ranks.shape[1] for batch in batches)
    confidence = [batch.confidence for batch in batches if batch.confidence is not None]
    return Answers(
        ranks=np.concatenate([_widened(batch.ranks, width, 0) for batch in batches]),
        phrase_ids=np.concatenate([batch.phrase_ids for batch in batches]),
        values=np.concatenate([batch.values for batch in batches]),
        confidence=np.concatenate(confidence) if confidence else None,
    )


def _table(
    bank: PhraseBank,
    parts: Sequence[Split],
    decoded: Answers,
    searched: Answers | None,
    *,
    abstain_below: float,
    seen: IntArray | None,
) -> pa.Table:
    """Return the predictions table of what was answered."""
    width = max(1, *(part.targets.shape[1] for part in parts))
    targets = np.concatenate([_widened(part.targets, width, NO_ID) for part in parts])
    no_texts: list[str | None] = [None]
    texts = [text for part in parts for text in part.texts or no_texts * len(part)]
    metadata = phrase_metadata(bank, targets[:, 0], seen=seen)
    abstained = np.zeros(len(targets), dtype=bool)
    if decoded.confidence is not None:
        abstained = decoded.confidence < abstain_below
    return build_predictions(
        query=np.arange(len(targets)),
        text=texts,
        targets=_texts(bank, targets),
        rank=best_ranks(decoded.ranks),
        target_ranks=_lists(decoded.ranks),
        baseline_rank=None if searched is None else best_ranks(searched.ranks),
        baseline_target_ranks=None if searched is None else _lists(searched.ranks),
        baseline_value=None if searched is None else searched.values[:, 0],
        phrases=_texts(bank, decoded.phrase_ids),
        values=[row[np.isfinite(row)] for row in decoded.values],
        confidence=decoded.confidence,
        abstained=abstained,
        metadata=metadata,
    )


def _widened(ids: IntArray, width: int, filling: int) -> IntArray:
    """Return the rows filled up to a width."""
    missing = width - ids.shape[1]
    return np.pad(ids, ((0, 0), (0, missing)), constant_values=filling)


def _lists(ranks: IntArray) -> list[list[int]]:
    """Return the ranks of each query without their filling."""
    return [row[row > 0].tolist() for row in ranks]


def _texts(bank: PhraseBank, phrase_ids: IntArray) -> list[list[str]]:
    """Return the texts of each row of phrases without their filling."""
    return [
        [text for text, phrase in zip(texts, row, strict=True) if phrase != NO_ID]
        for texts, row in zip(bank.texts(phrase_ids), phrase_ids, strict=True)
    ]
