"""Texts to vectors: the text encoder and its cache."""

from lightweight_decoder.encoder.embedding_cache import EmbeddingCache
from lightweight_decoder.encoder.encoder import Encoder
from lightweight_decoder.encoder.encoder_precision import Precision
from lightweight_decoder.encoder.text_encoder import DEFAULT_MODEL, TextEncoder

__all__ = [
    "DEFAULT_MODEL",
    "EmbeddingCache",
    "Encoder",
    "Precision",
    "TextEncoder",
]
