"""The learned parts: query adapter and listwise reranker."""

from lightweight_decoder.rerank.adapter import QueryAdapter
from lightweight_decoder.rerank.features import hubness, is_right, phrase_features
from lightweight_decoder.rerank.losses import listwise_loss
from lightweight_decoder.rerank.reranker import ListwiseReranker

__all__ = [
    "ListwiseReranker",
    "QueryAdapter",
    "hubness",
    "is_right",
    "listwise_loss",
    "phrase_features",
]
