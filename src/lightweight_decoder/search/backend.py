"""What every search backend promises."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from lightweight_decoder.datatypes import Candidates


class SearchBackend(Protocol):
    """Finds the phrases whose vectors are most similar to a query."""

    def search(
        self, queries: Tensor, k: int, *, exclude_vectors: Tensor | None = None
    ) -> Candidates:
        """Find the k best phrases for each query.

        A phrase's value is the best of its vectors' cosines with the query. Best first, ties to the
        lower phrase id.

        Args:
            queries: (q, d) floating point of any length above zero, on any device.
            k: How many phrases to return, at least 1; k > p gives p columns.
            exclude_vectors: (q, w) int64 vector rows that do not count for a query, filled up with
                ``NO_ID``: those that were made from the query itself.

        Returns:
            Candidates of kind ``"cosine"``, (q, min(k, p)), on the queries' device. Where fewer
            phrases are left after exclusion, the end of a row is phrase ``NO_ID``, vector
            ``NO_ID``, value -inf.

        Raises:
            EmbeddingError: If the queries have another width than the bank, or if one of them is
                NaN, infinite or all zero; the message names the row.
            ConfigError: If k is below 1.
        """
        ...
