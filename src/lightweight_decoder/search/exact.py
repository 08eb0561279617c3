"""Exact search: the reference that every other backend is held to.

A first pass keeps a few more vectors than needed and knows how good the others can be at most. What
it keeps is brought into the order of float64 (:mod:`.rescoring`); where the cut falls among values
too close to call, the row is searched again with more care, in the end by the definition. So the
answer does not depend on block sizes, batch sizes, device or BLAS library: it is the one that
float64 gives, once values that differ only by float64's own rounding count as equal
(``rounded_cosines``).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lightweight_decoder.datatypes import NO_ID, Candidates
from lightweight_decoder.search.contract import (
    Arrays,
    VectorTable,
    check_k,
    check_owners,
    check_queries,
    check_unit_rows,
    counts_up,
)
from lightweight_decoder.search.kernels import FirstPass, make_kernels
from lightweight_decoder.search.order import hide_excluded, unit_queries, values_of_block
from lightweight_decoder.search.rescoring import Found, Rescorer
from lightweight_decoder.search.vector_blocks import converted_blocks, fits, slices

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from lightweight_decoder.datatypes import IntArray

DEFAULT_BLOCK_BYTES = 64 * 2**20
"""Fewer blocks leave less to merge; larger ones no longer pay (2,048 queries x 50,000 x 384 on one
core: 16 MiB 1.32 s, 64 MiB 1.21 s, 128 MiB 1.35 s; torch's matmul and topk 1.17 s)."""

BLOCKS_HELD = 4
"""How many blocks of that size are held at once, about: values, converted vectors, and what they
are merged with."""

DEFAULT_COPY_BYTES = 2**30
"""Of one query's time, reading the vectors is nearly all: in 1,000,000 x 384, int8 takes 20 ms and
float32 162 (2 cores of an AMD EPYC, Zen 4)."""


class ExactSearch:
    """Searches all vectors of a bank; a :class:`~lightweight_decoder.search.SearchBackend`.

    On the CPU the bank's mapped vectors are used in place. A GPU gets a copy of them if they fit
    into its memory; else every search streams them to it. Where Triton is installed, an NVIDIA GPU
    chooses in a lower precision what the first pass looks at (:mod:`.group_maxima`), and a
    processor with instructions for int8 does so in these (:mod:`.int8_pass`). That changes
    the speed and not the answer.

    Values are float64 cosines rounded to float32 where order depends on it, else float32 products
    (off by less than (d + 4) / 2**24, in practice by 1e-6).

    Extra memory: about ``max_block_bytes`` + 12 q k bytes; on such a processor two to eight times
    as much for lists, which are longer there, and n d bytes for rounded vectors, where that is at
    most ``max_copy_bytes``, from the first search for many queries or the ninth for few; on a GPU
    also the CUDA graphs of searches for few queries (:mod:`.few_queries`).

    Args:
        bank: The bank, or anything else with ``vectors``, ``owners`` and ``num_phrases``.
        device: Where products are computed.
        max_block_bytes: Size of the largest block of values, and of vectors converted at once.
        max_copy_bytes: Size of the largest copy of the vectors in int8 that is kept.
        quantized: Whether a CPU chooses in int8 what the first pass looks at; None: where its
            processor is made for that and there are enough queries to make up for the rounding.

    Raises:
        BankError: If an owner is not a phrase.
    """

    def __init__(
        self,
        bank: VectorTable,
        *,
        device: str | torch.device = "cpu",
        max_block_bytes: int = DEFAULT_BLOCK_BYTES,
        max_copy_bytes: int = DEFAULT_COPY_BYTES,
        quantized: bool | None = None,
    ) -> None:
        self._device = torch.device(device)
        self._max_block_bytes = max_block_bytes
        self._num_phrases = bank.num_phrases
        self._source = vectors = torch.as_tensor(bank.vectors)
        if fits(vectors, self._device):
            vectors = vectors.to(self._device)
        if self._device.type == "cuda":  # where float64 is to be had too
            self._source = vectors
        owners = torch.as_tensor(bank.owners)
        check_owners(owners, self._num_phrases)
        owned = None if counts_up(owners) else owners.to(self._source.device)
        self._rescorer = Rescorer(self._source, owned)
        self._kernels = make_kernels(
            vectors,
            owned,
            self._device,
            margin=2 * self._rescorer.error_bound,
            max_block_bytes=max_block_bytes,
            max_copy_bytes=max_copy_bytes,
            quantized=quantized,
        )

    @classmethod
    def over(
        cls,
        vectors: npt.NDArray[Any] | Tensor,
        owners: IntArray | Tensor | None = None,
        *,
        num_phrases: int | None = None,
        **options: Any,  # noqa: ANN401 - the constructor's
    ) -> ExactSearch:
        """Search plain arrays.

        Args:
            vectors: (n, d) float32 or float16, unit rows, n >= 1; kept, not copied.
            owners: (n,) int64, the phrase of each vector; None: each is a phrase of its own.
            num_phrases: p, by default one more than the highest owner. A phrase without a vector is
                never found.
            options: Other arguments of the constructor.

        Raises:
            EmbeddingError: If a row is not of unit length.
            BankError: If an owner is not a phrase.
        """
        rows = torch.as_tensor(vectors)
        check_unit_rows(rows)
        owned_by = torch.arange(len(rows)) if owners is None else torch.as_tensor(owners)
        if num_phrases is None:
            num_phrases = int(owned_by.max()) + 1
        return cls(Arrays(rows, owned_by, num_phrases), **options)

    def __repr__(self) -> str:
        return f"ExactSearch({self.num_vectors} x {self.dim})"

    @property
    def num_vectors(self) -> int:
        """n, the number of vectors."""
        return self._source.shape[0]

    @property
    def num_phrases(self) -> int:
        """p, the number of phrases."""
        return self._num_phrases

    @property
    def dim(self) -> int:
        """d, the width of a vector."""
        return self._source.shape[1]

    @torch.no_grad()
    def search(
        self, queries: Tensor, k: int, *, exclude_vectors: Tensor | None = None
    ) -> Candidates:
        """Find the k best phrases for each query; see :class:`SearchBackend` for the contract."""
        self.check(queries, k, exclude_vectors)
        given = queries.to(self._source.device)
        excluded = None if exclude_vectors is None else exclude_vectors.to(self._source.device)
        num_columns = min(k, self._num_phrases)
        list_length = self._list_length(num_columns)
        if not len(queries) or list_length >= self.num_vectors / 8:  # then sorting is no slower
            found = self._search_float64(unit_queries(given), num_columns, excluded)
        else:
            found = self._search_fast(given, num_columns, list_length, excluded)
        values, vectors, phrases = (column.to(queries.device) for column in found)
        return Candidates(phrase_ids=phrases, vector_ids=vectors, values=values, kind="cosine")

    @torch.no_grad()
    def search_among(
        self, queries: Tensor, vectors: Tensor, k: int, *, exclude_vectors: Tensor | None = None
    ) -> Candidates:
        """Find the k best phrases for each query among vectors that are given for it.

        As :meth:`search` in everything else: values, order, ties, what fills the end of a row, and
        errors. The vectors are looked up where the bank is, whatever the device: ``vectors`` is
        (q, m) int64 rows of the bank, no row twice for a query, filled up with ``NO_ID``.
        """
        self.check(queries, k, exclude_vectors)
        exact_queries = unit_queries(queries.to(self._source.device))
        num_columns = min(k, self._num_phrases)
        given = vectors.to(self._source.device)
        if exclude_vectors is not None:
            excluded = exclude_vectors.to(given.device)
            hidden = (given[:, :, None] == excluded[:, None, :]).any(dim=2)
            given = given.masked_fill(hidden, NO_ID)
        missing = max(0, num_columns - given.shape[1])
        given = torch.nn.functional.pad(given, (0, missing), value=NO_ID)
        found = self._rescorer.in_order(exact_queries, given, num_columns)
        found = self._rescorer.first_phrases(found, num_columns)
        values, given, phrases = (column.to(queries.device) for column in found)
        return Candidates(phrase_ids=phrases, vector_ids=given, values=values, kind="cosine")

    def check(self, queries: Tensor, k: int, exclude_vectors: Tensor | None) -> None:
        """Refuse what has the wrong shape; see :class:`SearchBackend` for what is raised."""
        check_k(k)
        check_queries(queries, self.dim, exclude_vectors)

    def _list_length(self, k: int) -> int:
        """Choose how many vectors the first pass keeps, so that k phrases are likely among them.

        The surplus makes it likely that the values at the cut differ by more than their error.
        """
        vectors_per_phrase = self.num_vectors / self._num_phrases
        return math.ceil(k * max(vectors_per_phrase, 1)) + k // 8 + 8

    def _search_fast(
        self, queries: Tensor, k: int, list_length: int, excluded: Tensor | None
    ) -> Found:
        """Search with the device's kernels, first with the one that is roughest and suits."""
        passes, few = iter(self._kernels.passes), self._kernels.few
        if few is None or not few.suits(len(queries), list_length, excluded):
            return self._search_listed(unit_queries(queries), k, list_length, excluded, passes)
        *columns, certain = few.search(queries, k, list_length, excluded)
        found = Found(*columns)
        if uncertain := [row for row, is_certain in enumerate(certain.tolist()) if not is_certain]:
            next(passes)  # is as rough
            unit = unit_queries(queries)[uncertain]
            exclude = None if excluded is None else excluded[uncertain]
            again = self._search_listed(unit, k, list_length, exclude, passes)
            found.replace_rows(uncertain, again)
        return found

    def _search_listed(
        self,
        queries: Tensor,
        k: int,
        list_length: int,
        excluded: Tensor | None,
        passes: Iterator[FirstPass],
    ) -> Found:
        """List in float32 or less, compute again what is too close to call, and go on with it."""
        suited = (each for each in passes if each.suits(len(queries), list_length, excluded))
        first_pass = next(suited, None)
        if first_pass is None:
            return self._search_float64(queries, k, excluded)
        hidden = None if excluded is None else excluded.to(self._device)
        listed = first_pass.list_vectors(queries.float().to(self._device), list_length, hidden)
        values, vectors, unseen = listed.to(queries.device)
        found = self._rescorer.in_order(queries, vectors, k, values=values)
        # No vector that is not in the list can reach the first k phrases if ``unseen`` is below the
        # k-th value: both are off by the error of float32 at most.
        least = self._rescorer.value_of_kth_phrase(found, k) - 2 * self._rescorer.error_bound
        settled = ((unseen < least) | (found.values[:, -1:] == -torch.inf)).squeeze(1)
        found = self._rescorer.first_phrases(found, k)
        rows = (~settled).nonzero().squeeze(1)
        first_pass.learn(len(queries), len(rows))
        if len(rows):
            exclude = None if excluded is None else excluded[rows]
            again = self._search_listed(queries[rows], k, list_length, exclude, passes)
            found.replace_rows(rows, again)
        return found

    def _search_float64(self, queries: Tensor, k: int, excluded: Tensor | None) -> Found:
        """Search by the definition: every value in float64, rounded to float32, and sorted."""
        chunk = max(1, self._max_block_bytes // (32 * self.num_vectors))  # 32: values, ids, sorting
        parts = [
            self._sort_everything(queries[rows], k, None if excluded is None else excluded[rows])
            for rows in slices(max(1, len(queries)), chunk)  # no queries are one empty part
        ]
        return Found(*(torch.cat(column) for column in zip(*parts, strict=True)))

    def _sort_everything(self, queries: Tensor, k: int, excluded: Tensor | None) -> Found:
        """Search a few queries by the definition."""
        values = queries.new_empty((len(queries), self.num_vectors), dtype=torch.float32)
        blocks = converted_blocks(
            self._source, torch.float64, queries.device, max_bytes=self._max_block_bytes
        )
        for start, block in blocks if len(queries) else ():
            values[:, start : start + len(block)] = values_of_block(queries, block)
        hide_excluded(values, excluded, 0)
        return self._rescorer.first_of_all(values, k)
