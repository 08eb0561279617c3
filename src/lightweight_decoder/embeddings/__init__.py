"""Vectors in: file formats, the text encoder, and its cache."""
