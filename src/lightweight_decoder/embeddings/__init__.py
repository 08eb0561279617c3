"""Vectors in: file formats, the text encoder, and its cache."""

from lightweight_decoder.embeddings.cache import EmbeddingCache, default_cache_dir
from lightweight_decoder.embeddings.formats import (
    EmbeddingBlock,
    EmbeddingReader,
    open_embeddings,
)
from lightweight_decoder.embeddings.precision import Precision
from lightweight_decoder.embeddings.text_encoder import DEFAULT_MODEL, TextEncoder

__all__ = [
    "DEFAULT_MODEL",
    "EmbeddingBlock",
    "EmbeddingCache",
    "EmbeddingReader",
    "Precision",
    "TextEncoder",
    "default_cache_dir",
    "open_embeddings",
]
