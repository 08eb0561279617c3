"""Texts to vectors: the text encoder and its cache."""

from lightweight_decoder.encoder.embedding_cache import EmbeddingCache
from lightweight_decoder.encoder.encoder import Encoder
from lightweight_decoder.encoder.text_encoder import DEFAULT_MODEL, EncoderPrecision, TextEncoder

__all__ = [
    "DEFAULT_MODEL",
    "EmbeddingCache",
    "Encoder",
    "EncoderPrecision",
    "TextEncoder",
]
