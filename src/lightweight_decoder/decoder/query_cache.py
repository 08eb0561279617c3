"""Answers that were given lately, for queries that come again."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace
from itertools import chain
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
from torch.nn import Module

from lightweight_decoder.datatypes import Decoded
from lightweight_decoder.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Sequence

    from torch import Tensor

_ARRAYS = ("phrase_ids", "values", "confidence", "abstained")  # of an answer, a row a query


@dataclass(frozen=True, slots=True)
class CacheStats:
    """What a cache saved.

    Attributes:
        hits: Queries that were not searched for.
        misses: Queries that were.
    """

    hits: int = 0
    misses: int = 0

    @property
    def hit_rate(self) -> float:
        """Share of the queries that were not searched for, in [0, 1]; 0 before the first."""
        return self.hits / max(1, self.hits + self.misses)


class QueryCache:
    """Keeps the answers of the queries that were asked last; the least recently used goes first.

    A query comes again where all its bytes do and the options are equal. It then gets the answer
    that it got the first time: values and confidence may differ by float rounding from those of a
    search beside other queries, as they do between batches of different sizes. Safe to share
    between threads: two that ask the same new query at the same time both search, and get the same
    phrases.

    Turn it on where a quarter or more of the queries come again: the time of exact search fell by
    about their share (``scripts/benchmarks/query_cache.py``); where none does, it costs up to a
    twentieth of the time.

    Memory: about 4 d + 12 k bytes a query and 1,000 more, short texts included (2,655 measured with
    d = 384 and k = 5).

    Args:
        max_queries: How many queries to keep, at least 1.

    Raises:
        ConfigError: ``max_queries`` is below 1.
    """

    def __init__(self, max_queries: int) -> None:
        if max_queries < 1:
            raise ConfigError.unexpected("max_queries", "at least 1", max_queries)
        self.max_queries = max_queries
        self._kept: OrderedDict[Hashable, Decoded] = OrderedDict()
        self._lock = Lock()
        self._stats = CacheStats()
        self._state: list[tuple[object, ...]] = []

    def __len__(self) -> int:
        """How many queries are kept."""
        return len(self._kept)

    @property
    def stats(self) -> CacheStats:
        """Hits and misses so far."""
        return self._stats

    def clear(self) -> None:
        """Forget all answers; the stats go on."""
        with self._lock:
            self._kept.clear()

    def decode(
        self,
        queries: Tensor,
        options: Hashable,
        search: Callable[[Tensor], Decoded],
        *,
        parts: Iterable[object] = (),
    ) -> Decoded:
        """Return the answers for all queries, searching for each new one once.

        Args:
            queries: (q, query_dim), on any device.
            options: All that changes an answer besides the query.
            search: Answers queries (m, query_dim) that are not kept; if it raises, nothing changes.
            parts: What the search answers with. Where one was replaced since the last call, or a
                module among them was trained, loaded or moved, all answers are forgotten.
        """
        self._forget_if_changed(parts)
        if not len(queries):
            return search(queries)
        keys = [(row.tobytes(), options) for row in queries.cpu().numpy()]
        with self._lock:
            kept = self._kept
            answers: dict[Hashable, Decoded] = {key: kept[key] for key in keys if key in kept}
        new = {key: row for row, key in enumerate(keys) if key not in answers}
        if new:
            found = search(queries[list(new.values())])
            answers.update(zip(new, _rows(found), strict=True))
        self._keep(keys, answers, num_misses=len(new))
        return concatenate([answers[key] for key in keys])

    def _forget_if_changed(self, parts: Iterable[object]) -> None:
        """Forget all answers if they may not be those of these parts."""
        state = [each for part in parts for each in _state(part)]
        with self._lock:
            if len(state) != len(self._state) or not all(map(_is_same, state, self._state)):
                self._kept.clear()
                self._state = state

    def _keep(
        self, keys: Sequence[Hashable], answers: dict[Hashable, Decoded], *, num_misses: int
    ) -> None:
        """Keep the answers as the last used ones."""
        with self._lock:
            for key in keys:
                self._kept[key] = answers[key]
                self._kept.move_to_end(key)
            while len(self._kept) > self.max_queries:
                self._kept.popitem(last=False)
            self._stats = CacheStats(
                hits=self._stats.hits + len(keys) - num_misses,
                misses=self._stats.misses + num_misses,
            )


def _state(part: object) -> list[tuple[object, ...]]:
    """Return what differs where a part was replaced or changed; tensors count changes in place."""
    if not isinstance(part, Module):
        return [(part,)]
    weights = chain(part.parameters(), part.buffers())
    return [
        (part, part.training),
        *((w, w.data_ptr(), 0 if w.is_inference() else w._version) for w in weights),  # noqa: SLF001
    ]


def _is_same(state: tuple[object, ...], other: tuple[object, ...]) -> bool:
    """Say whether a part or weight is the same object, unchanged."""
    return state[0] is other[0] and state[1:] == other[1:]


def concatenate(batches: Sequence[Decoded]) -> Decoded:
    """Return one answer out of the answers of several batches, one at least; arrays are copied."""

    def joined(name: str) -> Any:  # noqa: ANN401 - an array, or None
        parts = [getattr(batch, name) for batch in batches]
        return None if parts[0] is None else np.concatenate(parts)

    texts = [list(texts) for batch in batches for texts in batch.texts]
    return Decoded(texts=texts, kind=batches[0].kind, **{name: joined(name) for name in _ARRAYS})


def _rows(decoded: Decoded) -> list[Decoded]:
    """Each query's answer by itself, in memory of its own."""

    def one(row: int) -> Decoded:
        arrays = {name: getattr(decoded, name) for name in _ARRAYS}
        own: dict[str, Any] = {
            name: each if each is None else each[[row]] for name, each in arrays.items()
        }
        return replace(decoded, texts=decoded.texts[row : row + 1], **own)

    return list(map(one, range(len(decoded.texts))))
