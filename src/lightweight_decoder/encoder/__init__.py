"""Texts to vectors: the text encoder and its cache, or any encoder of one's own."""

from lightweight_decoder.encoder.custom_encoder import CustomEncoder, as_encoder, custom_encoder
from lightweight_decoder.encoder.embedding_cache import EmbeddingCache
from lightweight_decoder.encoder.encoder import (
    Encoder,
    EncoderPrecision,
    EncoderSettings,
    EncodesBothSides,
)
from lightweight_decoder.encoder.text_encoder import DEFAULT_MODEL, TextEncoder, report_cut_texts

__all__ = [
    "DEFAULT_MODEL",
    "CustomEncoder",
    "EmbeddingCache",
    "Encoder",
    "EncoderPrecision",
    "EncoderSettings",
    "EncodesBothSides",
    "TextEncoder",
    "as_encoder",
    "custom_encoder",
    "report_cut_texts",
]
