"""Turn embedding vectors back into text.

>>> import lightweight_decoder
>>> sorted(lightweight_decoder.__all__)
['PhraseBank', 'PhraseBankDecoder', 'resolve_accelerator']
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightweight_decoder.accelerator import resolve_accelerator
    from lightweight_decoder.bank import PhraseBank
    from lightweight_decoder.decoder.phrase_bank_decoder import PhraseBankDecoder

__version__ = "0.1.0"

__all__ = ["PhraseBank", "PhraseBankDecoder", "resolve_accelerator"]

_HOMES = {
    "PhraseBank": "lightweight_decoder.bank",
    "PhraseBankDecoder": "lightweight_decoder.decoder.phrase_bank_decoder",
    "resolve_accelerator": "lightweight_decoder.accelerator",
}


def __getattr__(name: str) -> object:
    """Import a public name when it is first used, so that importing the package costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
