"""The names that version 0.1 had here; they live in ``encoder``, ``vectors`` and ``files`` now."""

from lightweight_decoder.encoder import TextEncoder
from lightweight_decoder.files import user_cache_dir as default_cache_dir
from lightweight_decoder.vectors import open_embeddings

__all__ = ["TextEncoder", "default_cache_dir", "open_embeddings"]
