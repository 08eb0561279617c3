"""The learned parts: query adapter and listwise reranker."""

from lightweight_decoder.rerank.adapter import QueryAdapter
from lightweight_decoder.rerank.features import (
    agreement,
    hubness,
    is_right,
    phrase_features,
    phrase_sums,
)
from lightweight_decoder.rerank.lists import first_columns, reordered, some_rows, with_tail
from lightweight_decoder.rerank.losses import listwise_loss
from lightweight_decoder.rerank.reranker import ListwiseReranker

__all__ = [
    "ListwiseReranker",
    "QueryAdapter",
    "agreement",
    "first_columns",
    "hubness",
    "is_right",
    "listwise_loss",
    "phrase_features",
    "phrase_sums",
    "reordered",
    "some_rows",
    "with_tail",
]
