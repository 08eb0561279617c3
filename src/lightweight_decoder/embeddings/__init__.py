"""Vectors in: file formats, the text encoder, and its cache."""

from lightweight_decoder.embeddings.formats import (
    EmbeddingBlock,
    EmbeddingReader,
    open_embeddings,
)

__all__ = ["EmbeddingBlock", "EmbeddingReader", "open_embeddings"]
