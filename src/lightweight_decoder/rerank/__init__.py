"""The learned parts: query adapter, and what re-orders: listwise reranker, phrase classifier."""

from lightweight_decoder.rerank.adapter import QueryAdapter
from lightweight_decoder.rerank.features import (
    agreement,
    hubness,
    is_right,
    phrase_features,
    phrase_sums,
)
from lightweight_decoder.rerank.lists import first_columns, reordered, with_tail
from lightweight_decoder.rerank.phrase_classifier import PhraseClassifier
from lightweight_decoder.rerank.reranker import ListwiseReranker, listwise_loss
from lightweight_decoder.rerank.scoring import CandidateScorer, Reranker

__all__ = [
    "CandidateScorer",
    "ListwiseReranker",
    "PhraseClassifier",
    "QueryAdapter",
    "Reranker",
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
