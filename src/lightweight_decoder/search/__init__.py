"""Queries and a bank in, candidates out."""

from lightweight_decoder.search.base import SearchBackend
from lightweight_decoder.search.exact import ExactSearch

__all__ = ["ExactSearch", "SearchBackend"]
