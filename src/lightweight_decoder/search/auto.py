"""Picks exact or approximate search by timing them on the bank itself."""

from __future__ import annotations

import logging
import statistics
import time
from typing import TYPE_CHECKING

import torch

from lightweight_decoder.errors import MissingDependencyError
from lightweight_decoder.search.approximate import LEAST_VECTORS, sample_queries
from lightweight_decoder.search.exact import ExactSearch
from lightweight_decoder.search.faiss_index import GRAPH_FACTORY
from lightweight_decoder.search.faiss_search import FaissSearch, has_index

if TYPE_CHECKING:
    from torch import Tensor

    from lightweight_decoder.datatypes import Candidates
    from lightweight_decoder.search.contract import SearchBackend, VectorTable

logger = logging.getLogger(__name__)

_REPEATS = 3
_WARM_CALLS = 12
_WARM_SECONDS = 1.0


class AutoSearch:
    """The fastest here of those that reach the recall: exact search, FAISS, or a graph.

    A :class:`~lightweight_decoder.search.SearchBackend`. All are timed on samples made from the
    bank; what was picked, and why, is logged. A graph takes a minute or more to build, and was
    slower than FAISS's codes at every size measured (10,000 to 150,000 vectors of WordNet, one
    query and many), so it takes part only where ``search=hnsw`` has built one already. Off the CPU
    exact search is picked untimed, as it is where everything is to be found or there are few
    vectors.

    Args:
        bank: The bank, or anything else with ``vectors``, ``owners`` and ``num_phrases``.
        target_recall: Share of the exact answer to be found, in (0, 1].
        batch_size: How many queries come at a time, at least 1.
        k: For how many phrases, at least 1.
        folder: Where to keep the index; None: ``BANK.search``, beside the bank's folder.
        device: Where exact search computes.

    Attributes:
        picked: The search that answers.

    Raises:
        ConfigError: If the target is no share.
        BankError: If an index is there that is damaged or belongs to another bank.
        BankBuildError: If the index cannot be written.
    """

    def __init__(
        self,
        bank: VectorTable,
        *,
        target_recall: float = 0.999,
        batch_size: int = 1,
        k: int = 10,
        folder: str | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        exact = ExactSearch(bank, device=device)
        self.picked: SearchBackend = exact
        if target_recall == 1:
            reason = "all of the exact answer is wanted"
        elif torch.device(device).type != "cpu":
            reason = f"on {device} it is the faster"
        elif exact.num_vectors < LEAST_VECTORS:
            reason = f"there are only {exact.num_vectors} vectors"
        else:
            try:
                others = _approximate(bank, target_recall, folder)
            except MissingDependencyError as error:
                reason = str(error)
            else:
                queries = sample_queries(torch.as_tensor(bank.vectors), num=batch_size)
                self.picked, reason = _fastest(exact, others, queries, k, target_recall)
        logger.info("search=auto picked %s: %s", self.picked, reason)

    def search(
        self, queries: Tensor, k: int, *, exclude_vectors: Tensor | None = None
    ) -> Candidates:
        """Find the k best phrases for each query; see :class:`SearchBackend` for the contract."""
        return self.picked.search(queries, k, exclude_vectors=exclude_vectors)


def _approximate(bank: VectorTable, target_recall: float, folder: str | None) -> list[FaissSearch]:
    """Open the indexes that take part; FAISS's codes are built where they are missing."""
    found = [FaissSearch(bank, target_recall=target_recall, folder=folder)]
    if has_index(bank, GRAPH_FACTORY, folder=folder):
        found.append(
            FaissSearch(bank, factory=GRAPH_FACTORY, target_recall=target_recall, folder=folder)
        )
    return found


def _fastest(
    exact: ExactSearch, others: list[FaissSearch], queries: Tensor, k: int, target_recall: float
) -> tuple[SearchBackend, str]:
    """Time all; return the fastest of those that reach the recall, and every figure."""
    picked: SearchBackend = exact
    least_s = seconds_of(exact, queries, k)
    reasons = [f"{len(queries)} queries take {1e3 * least_s:.1f} ms exactly"]
    for other in others:
        seconds = seconds_of(other, queries, k)
        reasons.append(f"{1e3 * seconds:.1f} ms at recall {other.recall} by {other!r}")
        if (other.recall is None or other.recall >= target_recall) and seconds < least_s:
            picked, least_s = other, seconds
    return picked, ", ".join(reasons)


def seconds_of(search: SearchBackend, queries: Tensor, k: int) -> float:
    """Time a search that has warmed up: the median of the last calls.

    Exact search rounds its vectors after some searches for few queries, and is faster from then on.
    """
    times: list[float] = []
    while len(times) <= _REPEATS or (len(times) < _WARM_CALLS and sum(times) < _WARM_SECONDS):
        start = time.perf_counter()
        search.search(queries, k)
        times.append(time.perf_counter() - start)
    return statistics.median(times[-_REPEATS:])
