"""Errors that a caller can act on: one base class, one class per kind of mistake."""

from __future__ import annotations

from typing import Self

from lightweight_decoder.display import printable


class LightweightDecoderError(Exception):
    """Base of every error this package raises on purpose.

    The message always has the same order: where, at which row, what was expected, what was found,
    what to do; control characters are written out. The parts stay available as attributes.

    Args:
        summary: One line that says what is wrong.
        where: File, folder or configuration key at fault.
        at: Place inside ``where``, such as ``"row 17"`` (rows count from 0), ``"line 18"`` (lines
            count from 1) or ``"byte 1024"``.
        expected: What would have been right.
        found: What is there instead.
        advice: What to do about it, as a full sentence.
    """

    def __init__(
        self,
        summary: str,
        *,
        where: object = None,
        at: str | None = None,
        expected: object = None,
        found: object = None,
        advice: str | None = None,
    ) -> None:
        self.summary = summary
        self.where = None if where is None else str(where)
        self.at = at
        self.expected = None if expected is None else str(expected)
        self.found = None if found is None else str(found)
        self.advice = advice
        super().__init__(self._message())

    @classmethod
    def unexpected(
        cls,
        where: object,
        expected: object,
        found: object,
        *,
        at: str | None = None,
        summary: str = "cannot be used",
        advice: str | None = None,
    ) -> Self:
        """Return the error of a value that is there and is not what it should be."""
        return cls(summary, where=where, at=at, expected=expected, found=found, advice=advice)

    @classmethod
    def missing(cls, where: object, expected: object = None, *, advice: str | None = None) -> Self:
        """Return the error of a file, folder or value that is not there."""
        return cls("is missing", where=where, expected=expected, advice=advice)

    @classmethod
    def unreadable(
        cls,
        where: object,
        error: object,
        *,
        at: str | None = None,
        expected: object = None,
        advice: str | None = None,
    ) -> Self:
        """Return the error of a file that the system or a library refuses to read."""
        return cls(
            "cannot be read", where=where, at=at, expected=expected, found=error, advice=advice
        )

    def _message(self) -> str:
        place = ", ".join(printable(part) for part in (self.where, self.at) if part)
        facts = ", ".join(
            f"{name} {printable(' '.join(value.splitlines()))}"
            for name, value in (("expected", self.expected), ("found", self.found))
            if value is not None
        )
        summary = "\n".join(map(printable, self.summary.split("\n")))
        message = f"{place}: {summary}" if place else summary
        if facts:
            message += f": {facts}"
        if self.advice:
            message += f". {self.advice}"
        return message


class ConfigError(LightweightDecoderError):
    """A configuration key is missing, unknown or has a value that cannot be used."""


class InputDataError(LightweightDecoderError):
    """A file of texts, labels or embeddings that a user named cannot be used as it is."""


class EmbeddingError(LightweightDecoderError):
    """Embedding vectors have the wrong width, or values that cannot be searched for."""


class EncoderError(LightweightDecoderError):
    """The text encoder cannot be loaded or gave vectors that cannot be used."""


class BankError(LightweightDecoderError):
    """A phrase bank is missing, damaged, or not the one that was expected."""


class BankBuildError(BankError):
    """A phrase bank could not be written; nothing half-made was left behind."""


class CheckpointError(LightweightDecoderError):
    """A checkpoint is missing, damaged, or belongs to another bank or version."""


class RegressionError(LightweightDecoderError):
    """A metric fell below an earlier evaluation's by more than was allowed."""


class AcceleratorError(LightweightDecoderError):
    """The accelerator that was asked for cannot run kernels here."""


class MemoryBudgetError(LightweightDecoderError):
    """The work takes more memory than ``max_memory_gb`` lets it hold."""


class MissingDependencyError(LightweightDecoderError):
    """An optional library is needed and not installed."""

    def __init__(self, library: str, *, extra: str, purpose: str) -> None:
        self.library = library
        self.extra = extra
        super().__init__(
            f"{purpose} needs the library {library}, which is not installed",
            advice=f"Install it with: pip install 'lightweight-decoder[{extra}]'",
        )
