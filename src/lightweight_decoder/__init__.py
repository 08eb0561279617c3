"""Turn embedding vectors back into text.

>>> import lightweight_decoder
>>> lightweight_decoder.__all__  # doctest: +NORMALIZE_WHITESPACE
['CustomEncoder', 'LightweightDecoderError', 'PhraseBank', 'PhraseBankDecoder', 'TextEncoder',
 'build_bank', 'fit_calibration', 'open_embeddings', 'resolve_accelerator']
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightweight_decoder.accelerator import resolve_accelerator
    from lightweight_decoder.bank import PhraseBank
    from lightweight_decoder.commands.build_bank import build_bank
    from lightweight_decoder.decoder.calibration_fit import fit_calibration
    from lightweight_decoder.decoder.phrase_bank_decoder import PhraseBankDecoder
    from lightweight_decoder.encoder import CustomEncoder, TextEncoder
    from lightweight_decoder.errors import LightweightDecoderError
    from lightweight_decoder.vectors import open_embeddings

__version__ = "0.1.0"

_ROOM_OF = {
    "CustomEncoder": "encoder",
    "LightweightDecoderError": "errors",
    "PhraseBank": "bank",
    "PhraseBankDecoder": "decoder.phrase_bank_decoder",
    "TextEncoder": "encoder",
    "build_bank": "commands.build_bank",
    "fit_calibration": "decoder.calibration_fit",
    "open_embeddings": "vectors",
    "resolve_accelerator": "accelerator",
}

__all__ = [
    "CustomEncoder",
    "LightweightDecoderError",
    "PhraseBank",
    "PhraseBankDecoder",
    "TextEncoder",
    "build_bank",
    "fit_calibration",
    "open_embeddings",
    "resolve_accelerator",
]


def __getattr__(name: str) -> object:
    """Import a public name when it is first used, so that importing the package costs nothing."""
    if name not in _ROOM_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_ROOM_OF[name]}"), name)


def __dir__() -> list[str]:
    """Return the public names too, for completion in a notebook."""
    return sorted({*globals(), *__all__})
