"""Vectors and texts in: every file format behind one reader, and what vectors go through."""

from lightweight_decoder.vectors.opening import open_embeddings
from lightweight_decoder.vectors.reader import EmbeddingBlock, EmbeddingReader

__all__ = ["EmbeddingBlock", "EmbeddingReader", "open_embeddings"]
