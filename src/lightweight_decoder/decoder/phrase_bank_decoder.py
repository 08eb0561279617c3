"""The decoder: an embedding goes in, text comes out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from lightweight_decoder.datatypes import NO_ID, Candidates, Decoded
from lightweight_decoder.decoder.bank_encoder import encoder_of, warn_of_another_encoder
from lightweight_decoder.decoder.checkpoints import (
    CHECKPOINT_VERSION,
    read_checkpoint,
    write_checkpoint,
)
from lightweight_decoder.decoder.query_cache import QueryCache, concatenate
from lightweight_decoder.encoder import report_cut_texts
from lightweight_decoder.errors import CheckpointError, ConfigError, EmbeddingError
from lightweight_decoder.rerank import (
    CandidateScorer,
    PhraseClassifier,
    first_columns,
    reordered,
    with_tail,
)
from lightweight_decoder.search import ExactSearch, phrase_ranks
from lightweight_decoder.search.products import listed_products
from lightweight_decoder.vectors.directions import to_float32, unit_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    from lightweight_decoder.bank import PhraseBank
    from lightweight_decoder.datatypes import FloatArray
    from lightweight_decoder.decoder.calibration import Calibration
    from lightweight_decoder.encoder import EncodesBothSides, TextEncoder
    from lightweight_decoder.rerank import QueryAdapter, Reranker
    from lightweight_decoder.search import SearchBackend

_BATCH_SIZE = 1024
_RANKS_FROM_SEARCH = 128


class PhraseBankDecoder:
    """Decodes embeddings into the phrases of a bank: adapt, search, rerank, calibrate, look up.

    Without a trained part it is plain cosine search. Safe to share between threads once built.

    >>> from lightweight_decoder import PhraseBank, PhraseBankDecoder
    >>> bank = PhraseBank.from_texts(["north", "east", "up"], [[1, 0, 0], [0, 1, 0], [0, 0, 1]])
    >>> PhraseBankDecoder(bank).decode([[0.9, 0.1, 0.2], [0, 3, 4]], top_k=2)
    Decoded(2 queries, by cosine)
    query  answer  cosine  then
        0  north    0.970  up 0.216
        1  up       0.800  east 0.600

    Args:
        bank: The phrases and their vectors.
        adapter: Moves queries before the search; None leaves them as they are.
        reranker: Re-orders the first ``reranker.num_candidates`` phrases found; None keeps the
            order of the search.
        calibration: Turns ranking values into a confidence; None gives no confidence.
        search: Finds candidates in ``bank``; exact search on ``device`` by default.
        device: Where queries are adapted, searched for and reranked.
        cached_queries: How many of the last queries to keep the answers of, for ``decode``; see
            ``QueryCache``. Pays where queries come again; ``cache.stats`` says how often.
    """

    def __init__(
        self,
        bank: PhraseBank,
        *,
        adapter: QueryAdapter | None = None,
        reranker: Reranker | None = None,
        calibration: Calibration | None = None,
        search: SearchBackend | None = None,
        device: str | torch.device = "cpu",
        cached_queries: int = 0,
    ) -> None:
        self.bank = bank
        self.adapter = adapter
        self.reranker = reranker
        self.calibration = calibration
        self._owns_search = search is None
        self.search = search if search is not None else ExactSearch(bank, device=device)
        self.scorer = CandidateScorer(bank)
        self.device = torch.device(device)
        self.cache = QueryCache(cached_queries) if cached_queries else None
        self._encoder: TextEncoder | None = None
        self.to(device)

    def __repr__(self) -> str:
        parts = {
            name: type(part).__name__
            for name in ("adapter", "reranker", "search")
            if (part := getattr(self, name)) is not None
        }
        shown = ", ".join(f"{name}={part}" for name, part in parts.items())
        calibrated = "not calibrated" if self.calibration is None else repr(self.calibration)
        return f"PhraseBankDecoder({self.bank!r}, {shown}, device={self.device}, {calibrated})"

    @property
    def query_dim(self) -> int:
        """Width of the queries that can be adapted, after the bank's preprocessing."""
        for part in (self.adapter, self.reranker):
            if part is not None:
                return int(part.hyperparameters["query_dim"])
        return self.bank.dim

    @property
    def input_dim(self) -> int:
        """Width of the embeddings that can be decoded, before the bank's preprocessing."""
        return self.bank.input_dim if self.query_dim == self.bank.dim else self.query_dim

    def preprocess(self, embeddings: Tensor) -> Tensor:
        """Return embeddings (q, input_dim) float32 as queries (q, query_dim).

        The bank's preprocessing is for vectors of the kind that it was built from; those of another
        width are left to the adapter.

        Raises:
            EmbeddingError: A row is NaN, infinite or all zero, before or after.
        """
        if self.bank.preprocessing is None or self.query_dim != self.bank.dim:
            return embeddings
        processed = self.bank.preprocess(embeddings.cpu().numpy())
        return torch.from_numpy(processed).to(embeddings.device)

    def to(self, device: str | torch.device) -> PhraseBankDecoder:
        """Move to ``device``, for queries that live there; a search that was given stays.

        Returns:
            The decoder itself.
        """
        if self._owns_search and torch.device(device) != self.device:
            self.search = ExactSearch(self.bank, device=device)
        self.device = torch.device(device)
        for part in (self.adapter, self.reranker):
            if part is not None:
                part.to(self.device)
        return self

    def decode(
        self,
        embeddings: npt.ArrayLike | Tensor,
        *,
        top_k: int = 5,
        abstain_below: float = 0.0,
        preprocessed: bool = False,
    ) -> Decoded:
        """Return the ``top_k`` best phrases for each embedding.

        Args:
            embeddings: (input_dim,) or (q, input_dim), numpy or torch, any float type, any length
                but zero.
            top_k: How many phrases to return, at least 1; a bank of p phrases gives at most p.
            abstain_below: Answer "no phrase" where the confidence is lower, in [0, 1]. Only a
                calibrated decoder can.
            preprocessed: Whether the embeddings went through the bank's preprocessing already, as
                its own vectors did; they have ``query_dim`` columns then.

        Raises:
            EmbeddingError: Wrong width, or a row that is NaN, infinite or all zero.
            ConfigError: ``top_k`` is below 1, or ``abstain_below`` is set and the decoder is not
                calibrated.
            CheckpointError: Weights or calibration give no finite numbers.
        """
        if top_k < 1:
            raise ConfigError.unexpected("top_k", "at least 1", top_k)
        if abstain_below > 0 and self.calibration is None:
            raise ConfigError(
                "needs a calibrated decoder",
                where="abstain_below",
                advice="Train one, or leave abstain_below at 0.",
            )
        queries = self._queries(embeddings, preprocessed=preprocessed)

        def search(new: Tensor) -> Decoded:
            batches = torch.split(new, _BATCH_SIZE)
            return concatenate([self._decode_batch(b, top_k, abstain_below) for b in batches])

        if self.cache is None:
            return search(queries)
        parts = (self.bank, self.search, self.adapter, self.reranker, self.calibration)
        return self.cache.decode(queries, (top_k, abstain_below), search, parts=parts)

    def decode_texts(
        self,
        texts: str | Sequence[str],
        *,
        encoder: EncodesBothSides | None = None,
        top_k: int = 5,
        abstain_below: float = 0.0,
    ) -> Decoded:
        """Encode texts as queries and decode them.

        Args:
            texts: q texts, or one.
            encoder: What makes their vectors: anything that has a method ``encode_queries``; None:
                the encoder that the bank names, which is loaded at the first call and kept. A
                warning says where the bank's vectors are of another encoder than this.
            top_k: As of ``decode``.
            abstain_below: The same.

        Raises:
            EncoderError: The bank names no encoder, or it cannot be found or loaded, is not the one
                that made the bank's vectors, or is in a folder that only the bank names.
            EmbeddingError: The encoder's vectors have another width than the decoder's queries.
            ConfigError: As of ``decode``.
        """
        if encoder is None:
            self._encoder = self._encoder or encoder_of(self.bank, device=str(self.device))
            encoder = self._encoder
        elif self.adapter is None:
            warn_of_another_encoder(self.bank, encoder)
        queries = encoder.encode_queries([texts] if isinstance(texts, str) else texts)
        report_cut_texts(encoder)
        return self.decode(queries, top_k=top_k, abstain_below=abstain_below)

    @torch.no_grad()
    def candidates(
        self, queries: Tensor, k: int, *, exclude_vectors: Tensor | None = None
    ) -> Candidates:
        """Return the k best phrases for each query, adapted, searched for and reranked.

        Args:
            queries: (q, query_dim) float32, finite and not zero.
            k: How many phrases, at least 1.
            exclude_vectors: (q, w) int64 rows of the bank that do not count for a query, filled up
                with ``NO_ID``.

        Returns:
            k columns, or p where the bank has fewer phrases. Phrases past
            ``reranker.num_candidates`` keep the order of the search. The values are cosines, or
            logits where there is a reranker.
        """
        self.bank.require_whole()
        adapted = self.adapt(queries)
        wanted = k if self.reranker is None else max(k, self.reranker.num_candidates)
        found = self.search.search(adapted, wanted, exclude_vectors=exclude_vectors)
        if self.reranker is not None:
            head = first_columns(found, self.reranker.num_candidates)
            logits = self.scorer.batched_logits(
                self.reranker, queries, adapted, head, exclude_vectors=exclude_vectors
            )
            found = with_tail(reordered(head, logits), found)
        return first_columns(found, k)

    def adapt(self, queries: Tensor) -> Tensor:
        """Return queries (q, query_dim) moved into the bank's space (q, d)."""
        if self.adapter is None:
            return queries
        adapted: Tensor = self.adapter(queries)
        return adapted

    @property
    def depth(self) -> int:
        """How many candidates ``ranks`` and ``confidence`` need; all where the bank has fewer."""
        num_reranked = _RANKS_FROM_SEARCH if self.reranker is None else self.reranker.num_candidates
        return max(num_reranked, self.calibration.num_candidates if self.calibration else 0)

    @torch.no_grad()
    def ranks(
        self,
        queries: Tensor,
        targets: Tensor,
        *,
        found: Candidates | None = None,
        exclude_vectors: Tensor | None = None,
    ) -> Tensor:
        """Return the rank (q, m) int64 of every right phrase among all phrases of the bank.

        Ranks count from 1 and are exact however far down the phrase is; 0 where ``targets`` is
        ``NO_ID`` or every vector of the phrase is excluded.

        Args:
            queries: (q, query_dim) float32.
            targets: (q, m) int64 right phrases of each query, filled up with ``NO_ID``.
            found: What ``candidates`` gave for these queries, ``depth`` of them or more; None
                searches.
            exclude_vectors: As in ``candidates``.
        """
        if found is None:
            found = self.candidates(queries, self.depth, exclude_vectors=exclude_vectors)
        known = (targets != NO_ID)[:, :, None]
        is_there = (found.phrase_ids[:, None, :] == targets[:, :, None]) & known
        ranks = torch.where(is_there.any(-1), is_there.int().argmax(-1) + 1, 0)
        missing = targets.masked_fill(ranks > 0, NO_ID)
        rows = (missing != NO_ID).any(1).nonzero().squeeze(1)
        hidden = None if exclude_vectors is None else exclude_vectors[rows]
        adapted = self.adapt(queries[rows])
        ranks[rows] += phrase_ranks(self.bank, adapted, missing[rows], exclude_vectors=hidden)
        return ranks

    @torch.no_grad()
    def similarities(
        self, queries: Tensor, found: Candidates, *, exclude_vectors: Tensor | None = None
    ) -> Tensor:
        """Return two cosines (q, 2) float32 that tell whether any phrase answers a query.

        The first is with the nearest of the candidates' vectors, the second with all vectors of the
        first candidate taken together. The query is taken as it came, where it has the bank's
        width: the adapter moves queries towards phrases, those that no phrase answers too.

        Args:
            queries: (q, query_dim) float32.
            found: From ``candidates``.
            exclude_vectors: As in ``candidates``.
        """
        same_width = queries.shape[1] == self.bank.dim
        unit = torch.nn.functional.normalize(queries if same_width else self.adapt(queries), dim=1)
        vectors, ids = torch.from_numpy(self.bank.vectors), found.vector_ids.cpu()
        products = listed_products(unit.cpu(), vectors, ids).masked_fill_(ids == NO_ID, 0)
        first = first_columns(found, 1)
        best = self.bank.gather(first.vector_ids)
        together = self.scorer.agreement(unit, best, first, exclude_vectors)
        return torch.stack([products.amax(dim=1).to(unit.device), together[:, 0]], dim=1)

    def confidence(
        self, queries: Tensor, found: Candidates, *, exclude_vectors: Tensor | None = None
    ) -> FloatArray | None:
        """Return the probability (q,) that each first phrase is right; None if not calibrated.

        Args:
            queries: (q, query_dim) float32.
            found: What ``candidates`` gave for them, ``depth`` of them or more.
            exclude_vectors: As in ``candidates``.
        """
        if self.calibration is None:
            return None
        read = first_columns(found, self.calibration.num_candidates)
        similarity = self.similarities(queries, read, exclude_vectors=exclude_vectors)
        return self.calibration.confidence(read.values.cpu().numpy(), similarity.cpu().numpy())

    def recipe(self) -> dict[str, Any]:
        """Return what ``from_checkpoint`` needs besides the weights, as plain values."""
        learned = {name: part.hyperparameters for name, part in self._learned().items()}
        return {
            "version": CHECKPOINT_VERSION,
            "bank": {
                "path": None if self.bank.path is None else str(self.bank.path),
                "fingerprint": self.bank.fingerprint,
            },
            "adapter": None,
            "reranker": None,
            "calibration": None if self.calibration is None else self.calibration.to_dict(),
            **learned,
        }

    def _learned(self) -> dict[str, QueryAdapter | Reranker]:
        """Return the learned parts by their names in a checkpoint."""
        reranker = "classifier" if isinstance(self.reranker, PhraseClassifier) else "reranker"
        named = (("adapter", self.adapter), (reranker, self.reranker))
        return {name: part for name, part in named if part is not None}

    def save(self, path: str | Path) -> None:
        """Write a checkpoint that ``from_checkpoint`` reads: weights, calibration, bank's identity.

        The bank itself stays where it is: the checkpoint names its folder, if it has one, and its
        fingerprint. The search is not part of it.

        Args:
            path: The file to write or to replace; its folder is made.

        Raises:
            CheckpointError: It cannot be written; what was there before is still there.
        """
        recipe = self.recipe()
        weights = {
            f"{name}.{key}": weight.cpu()
            for name, part in self._learned().items()
            for key, weight in part.state_dict().items()
        }
        write_checkpoint({"state_dict": weights, "decoder": recipe}, Path(path))

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        *,
        bank: str | Path | PhraseBank | None = None,
        search: Callable[[PhraseBank], SearchBackend | None] | None = None,
        device: str | torch.device = "cpu",
        cached_queries: int = 0,
    ) -> PhraseBankDecoder:
        """Return the decoder that a training run or ``save`` wrote, ready to decode.

        Args:
            path: The checkpoint. It is never unpickled.
            bank: The bank or its folder, where it is no longer where it was, or lived in memory.
            search: Makes the search out of the opened bank; exact search by default, or where it
                gives None.
            device: As in the constructor.
            cached_queries: As in the constructor.

        Raises:
            CheckpointError: The file is missing, is not such a checkpoint, has another version or
                numbers that no training leaves, or was trained with another bank.
            BankError: The bank is missing or damaged.
        """
        checkpoint = read_checkpoint(path)
        opened = checkpoint.open_bank(bank)
        return cls(
            opened,
            adapter=checkpoint.adapter(),
            reranker=checkpoint.reranker(),
            calibration=checkpoint.calibration(),
            search=None if search is None else search(opened),
            device=device,
            cached_queries=cached_queries,
        )

    def _queries(self, embeddings: npt.ArrayLike | Tensor, *, preprocessed: bool) -> Tensor:
        """Return the embeddings as checked (q, query_dim) float32 on the decoder's device."""
        queries = _as_tensor(embeddings).to(device=self.device, dtype=torch.float32)
        shape, width = queries.shape, self.query_dim if preprocessed else self.input_dim
        if queries.ndim == 1:
            queries = queries[None]
        if queries.ndim != 2 or queries.shape[1] != width:  # noqa: PLR2004
            raise EmbeddingError(
                "the embeddings have the wrong shape",
                expected=f"(q, {width}) or ({width},)",
                found=tuple(shape),
                advice="Encode the queries with the encoder that the decoder was made for.",
            )
        return unit_rows(queries if preprocessed else self.preprocess(queries))

    def _decode_batch(self, queries: Tensor, top_k: int, abstain_below: float) -> Decoded:
        """Decode one batch of checked queries."""
        wanted = max(top_k, self.calibration.num_candidates if self.calibration else 0)
        found = self.candidates(queries, wanted)
        _refuse_overflow(found.values.masked_fill(found.phrase_ids == NO_ID, 0))
        confidence = self.confidence(queries, found)
        if confidence is not None:
            _refuse_overflow(torch.from_numpy(confidence))
        found = first_columns(found, top_k)
        phrase_ids = found.phrase_ids.cpu().numpy()
        abstained = np.zeros(len(phrase_ids), dtype=bool)
        return Decoded(
            texts=self.bank.texts(phrase_ids),
            phrase_ids=phrase_ids,
            values=found.values.cpu().numpy(),
            kind=found.kind,
            confidence=confidence,
            abstained=abstained if confidence is None else confidence < abstain_below,
        )


def _as_tensor(embeddings: npt.ArrayLike | Tensor) -> Tensor:
    """Return a tensor; float32 where it was an array (of any layout and byte order) or a list."""
    if isinstance(embeddings, Tensor):
        if embeddings.dtype != torch.float64:
            return embeddings.detach()
        embeddings = embeddings.detach().cpu().numpy()
    try:
        return torch.from_numpy(to_float32(np.asarray(embeddings)))
    except (TypeError, ValueError) as error:
        raise EmbeddingError("the embeddings are not an array of numbers", found=error) from error


def _refuse_overflow(numbers: Tensor) -> None:
    """Refuse answers that are no numbers; sound weights give none for queries that were checked."""
    if not numbers.isfinite().all():
        raise CheckpointError(
            "the decoder's values or confidence are not finite numbers",
            advice="Its weights or its calibration are damaged: train or calibrate again.",
        )
