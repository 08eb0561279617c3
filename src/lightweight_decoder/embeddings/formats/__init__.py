"""Embedding files of every kind, behind one reader."""

from lightweight_decoder.embeddings.formats.opening import open_embeddings
from lightweight_decoder.embeddings.formats.reader import EmbeddingBlock, EmbeddingReader

__all__ = ["EmbeddingBlock", "EmbeddingReader", "open_embeddings"]
