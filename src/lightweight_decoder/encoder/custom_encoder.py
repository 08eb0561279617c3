"""Encoders of one's own: any object that encodes queries and phrases."""

from __future__ import annotations

import hashlib
import importlib
import sys
from typing import TYPE_CHECKING

import numpy as np

from lightweight_decoder.encoder.encoder import Encoder
from lightweight_decoder.errors import ConfigError, EncoderError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lightweight_decoder.datatypes import FloatArray
    from lightweight_decoder.encoder.encoder import EncodesBothSides

_METHODS = ("encode_queries", "encode_phrases")


class CustomEncoder:
    """Makes an encoder out of any object with methods ``encode_queries`` and ``encode_phrases``.

    Each takes a list of m texts and gives m vectors of one width d: (m, d), anything that numpy
    takes for an array of numbers. One model for both sides has one method under two names.

    >>> from lightweight_decoder import CustomEncoder
    >>> class Lengths:
    ...     def encode_queries(self, texts):
    ...         return [[len(text), text.count("a")] for text in texts]
    ...     encode_phrases = encode_queries
    >>> CustomEncoder(Lengths()).encode_queries(["banana"])
    array([[6., 3.]], dtype=float32)

    Vectors are not cached: what would tell one version of the object from the next is unknown. Nor
    does a bank that was built with it load it again; say it once more to ask that bank in words.

    Args:
        encoder: The object. If it has an attribute ``fingerprint``, a text that changes whenever
            its vectors do, banks remember that; else its name is taken for it.
        name: What messages and banks call it; None: the object's class.

    Raises:
        EncoderError: If the object lacks one of the methods.
    """

    settings = None
    knows_sides = True

    def __init__(self, encoder: EncodesBothSides, *, name: str | None = None) -> None:
        kind = type(encoder)
        self.name = f"{kind.__module__}:{kind.__qualname__}" if name is None else name
        for method in _METHODS:
            if not callable(getattr(encoder, method, None)):
                raise EncoderError.unexpected(
                    self.name, f"methods {' and '.join(_METHODS)}", f"no {method}"
                )
        self._encoder = encoder

    def __repr__(self) -> str:
        return f"CustomEncoder({self._encoder!r}, name={self.name!r})"

    @property
    def fingerprint(self) -> str:
        """Sha256 over the object's own fingerprint, or over its name where it has none."""
        own = getattr(self._encoder, "fingerprint", self.name)
        return hashlib.sha256(f"custom\0{own}".encode()).hexdigest()

    def encode_queries(self, texts: Sequence[str]) -> FloatArray:
        """Return the vectors of texts that are to be decoded; see ``encode_phrases``."""
        return self._checked(self._encoder.encode_queries, texts)

    def encode_phrases(self, texts: Sequence[str]) -> FloatArray:
        """Return the vectors of texts that a bank holds, as the object gives them.

        Args:
            texts: m texts.

        Returns:
            (m, d) float32.

        Raises:
            EncoderError: If the object raises, or gives anything but m vectors of finite numbers.
        """
        return self._checked(self._encoder.encode_phrases, texts)

    def _checked(self, encode: Callable[[list[str]], object], texts: Sequence[str]) -> FloatArray:
        """Return the vectors that a method gives, or say what is wrong with them."""
        try:
            given = encode(list(texts))
            vectors = np.asarray(given, dtype=np.float32)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            raise EncoderError(
                "the encoder failed", where=self.name, at=f"{len(texts)} texts", found=reason
            ) from error
        if not len(texts) and not vectors.size:
            return vectors.reshape(0, vectors.shape[-1] if vectors.ndim == 2 else 0)  # noqa: PLR2004
        if vectors.ndim != 2 or len(vectors) != len(texts) or not vectors.shape[1]:  # noqa: PLR2004
            raise EncoderError.unexpected(self.name, f"({len(texts)}, d) numbers", vectors.shape)
        for row in np.flatnonzero(~np.isfinite(vectors).all(axis=1))[:1]:
            raise EncoderError.unexpected(
                self.name, "finite numbers", vectors[row], at=f"text {texts[row][:80]!r}"
            )
        return vectors


def as_encoder(given: EncodesBothSides) -> Encoder:
    """Return an object that encodes both sides as one that also says who it is."""
    return given if isinstance(given, Encoder) else CustomEncoder(given)


def custom_encoder(factory: str) -> CustomEncoder:
    """Call a function of the user's environment for an encoder.

    Args:
        factory: ``module:function``; the module is imported from where Python finds modules, or
            from the working folder. The function takes nothing and gives an object as of
            ``CustomEncoder``.

    Raises:
        ConfigError: If ``factory`` has another form.
        EncoderError: If there is no such module or function, importing or calling it raises, or
            what it gives is no encoder.
    """
    module, _, function = factory.partition(":")
    if not module or not function:
        raise ConfigError.unexpected("embeddings.factory", "module:function", repr(factory))
    if "" not in sys.path:
        sys.path.append("")  # the working folder; what is installed goes first
    try:
        encoder = getattr(importlib.import_module(module), function)()
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise EncoderError(
            "the encoder cannot be made", where=f"embeddings.factory={factory}", found=reason
        ) from error
    return CustomEncoder(encoder, name=factory)
