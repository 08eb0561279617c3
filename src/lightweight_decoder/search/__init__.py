"""Queries and a bank in, candidates out."""

from lightweight_decoder.search.approximate import ApproximateSearch
from lightweight_decoder.search.auto import AutoSearch
from lightweight_decoder.search.contract import SearchBackend
from lightweight_decoder.search.exact import ExactSearch
from lightweight_decoder.search.faiss_search import FaissSearch
from lightweight_decoder.search.ranks import phrase_ranks

__all__ = [
    "ApproximateSearch",
    "AutoSearch",
    "ExactSearch",
    "FaissSearch",
    "SearchBackend",
    "phrase_ranks",
]
