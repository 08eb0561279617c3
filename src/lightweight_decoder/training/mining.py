"""Mining: the negatives that training compares right phrases with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from lightweight_decoder.datatypes import NO_ID, Candidates
from lightweight_decoder.rerank import ListwiseReranker, hubness
from lightweight_decoder.search import ExactSearch

if TYPE_CHECKING:
    from torch import Tensor

    from lightweight_decoder.decoder.phrase_bank_decoder import PhraseBankDecoder
    from lightweight_decoder.decoder.splits import Split
    from lightweight_decoder.training.sources.datamodule import Batch

_QUERIES_AT_ONCE = 1_024
_NUM_HUBNESS_QUERIES = 8_192


class CandidateMiner:
    """Keeps what the search finds for training queries, and which phrases may be negatives.

    The decoder's current adapter is mined with: ``num_listed`` candidates for each of ``num_mined``
    queries at each call of ``mine``. Memory: 8 bytes times both (17 MB for 32,768 x 64). Batches
    live on ``device``.
    """

    def __init__(
        self,
        decoder: PhraseBankDecoder,
        split: Split,
        *,
        num_listed: int,
        num_mined: int,
        device: torch.device,
    ) -> None:
        self._decoder = decoder
        search = decoder.search
        self._exact = search if isinstance(search, ExactSearch) else ExactSearch(decoder.bank)
        self._device = device
        self._num_listed = num_listed
        self._num_mined = min(num_mined, len(split))
        self._queries = torch.from_numpy(split.queries)
        self._targets = torch.from_numpy(split.targets)
        self._own_vectors = torch.from_numpy(split.own_vectors)
        self._owners = torch.from_numpy(decoder.bank.owners)
        self._asked_for = torch.zeros(decoder.bank.num_phrases, dtype=torch.bool)
        self._asked_for[self._targets[self._targets != NO_ID]] = True
        self._pool = self._asked_for[self._owners].nonzero().squeeze(1)
        self._place = torch.full((len(split),), NO_ID)
        self._vector_ids = torch.empty(0, 0, dtype=torch.int64)

    def is_asked_for(self, phrase_ids: Tensor) -> Tensor:
        """Return whether some training query asks for each phrase; bool, shaped as given."""
        return self._asked_for[phrase_ids.cpu()].to(phrase_ids.device) & (phrase_ids != NO_ID)

    def owners(self, vector_ids: Tensor) -> Tensor:
        """Return the phrase of each vector; int64, shaped as given."""
        return self._owners[vector_ids.cpu()].to(vector_ids.device)

    @torch.no_grad()
    def mine(self, *, seed: int) -> None:
        """Search for a random ``num_mined`` of the training queries with the current adapter.

        A query never finds a vector that was made from itself. Also refreshes the reranker's
        hubness.
        """
        reranker = self._decoder.reranker
        if not isinstance(reranker, ListwiseReranker):
            return
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.randperm(len(self._queries), generator=generator)[: self._num_mined]
        some = chosen[:_NUM_HUBNESS_QUERIES]
        adapted = self._decoder.adapt(self._queries[some].to(self._device))
        if adapted.shape[1] == self._decoder.bank.dim:
            hub = hubness(self._decoder.bank, adapted, self._targets[some].to(self._device))
            reranker.hubness.copy_(hub)
        found = [self._search(rows) for rows in torch.split(chosen, _QUERIES_AT_ONCE)]
        self._vector_ids = torch.cat([part.vector_ids.cpu() for part in found])
        self._place.fill_(NO_ID)
        self._place[chosen] = torch.arange(len(chosen))

    def _search(self, rows: Tensor) -> Candidates:
        """Candidates of some training queries, none of them made from the query itself."""
        adapted = self._decoder.adapt(self._queries[rows].to(self._device))
        own_vectors = self._own_vectors[rows].to(self._device)
        return self._decoder.search.search(adapted, self._num_listed, exclude_vectors=own_vectors)

    def candidates(self, batch: Batch, adapted: Tensor) -> tuple[Tensor, Candidates]:
        """Return which queries of a batch were mined (b', ) int64, and their candidates (b', k).

        Values and order are those of the queries as they are adapted now.
        """
        place = self._place[batch.query_ids.cpu()]
        mined = (place != NO_ID).nonzero().squeeze(1)
        vector_ids, mined = self._vector_ids[place[mined]], mined.to(self._device)
        found = self._exact.search_among(adapted[mined], vector_ids, vector_ids.shape[1])
        return mined, found

    def shared_negatives(self, batch: Batch, num_sampled: int, num_hard: int) -> Tensor:
        """Return vectors (r,) int64 to compare a batch with: its right ones, sampled, and mined.

        All of them belong to phrases that some training query asks for; ``num_sampled`` are drawn
        from all of these, and of each query's mined candidates the best ``num_hard`` join.
        """
        sampled = self._pool[torch.randint(len(self._pool), (num_sampled,))]
        asked = torch.unique(batch.targets.cpu())
        right = torch.from_numpy(self._decoder.bank.vector_ids_of(asked.numpy())).flatten()
        place = self._place[batch.query_ids.cpu()]
        hard = self._vector_ids[place[place != NO_ID], :num_hard].flatten()
        every = torch.unique(torch.cat([sampled, right, hard]))
        every = every[every != NO_ID]
        negatives: Tensor = every[self._asked_for[self._owners[every]]].to(self._device)
        return negatives
