"""Queries and a bank in, candidates out."""

from lightweight_decoder.search.base import SearchBackend
from lightweight_decoder.search.exact import ExactSearch
from lightweight_decoder.search.ranks import phrase_ranks

__all__ = ["ExactSearch", "SearchBackend", "phrase_ranks"]
