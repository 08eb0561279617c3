"""The learned parts: query adapter and listwise reranker."""

from lightweight_decoder.rerank.adapter import QueryAdapter
from lightweight_decoder.rerank.features import (
    agreement,
    hubness,
    is_right,
    phrase_features,
    phrase_sums,
)
from lightweight_decoder.rerank.lists import first_columns, reordered, with_tail
from lightweight_decoder.rerank.reranker import ListwiseReranker, listwise_loss
from lightweight_decoder.rerank.scoring import CandidateScorer

__all__ = [
    "CandidateScorer",
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
    "with_tail",
]
