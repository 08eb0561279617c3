"""How a command ends that cannot go on: a line for people, and a status other than 0."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lightweight_decoder.display import printable
from lightweight_decoder.errors import LightweightDecoderError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

logger = logging.getLogger(__name__)

_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")
_STOPPED = 128  # and the signal's number, as shells say it


@contextmanager
def reported_errors() -> Iterator[None]:
    """End the program with a message, and no traceback, when an error of ours is raised.

    So does a file that the system refuses to read or write.
    """
    try:
        yield
    except LightweightDecoderError as error:
        _say(str(error))
        raise SystemExit(1) from None
    except OSError as error:
        if error.filename is None:
            raise
        _say(f"{printable(str(error.filename))}: {error.strerror}")
        raise SystemExit(1) from None


def _say(message: str) -> None:
    """Log an error for people; where a command logs nothing, say it on standard error."""
    if logger.hasHandlers() and not logger.disabled:
        logger.error("%s", message)
    else:
        sys.stderr.write(f"error: {message}\n")


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Let what asks the program to stop unwind it, so that nothing half-written stays behind.

    The status is 130 after SIGINT, 143 after SIGTERM, 129 after SIGHUP. A signal that was to be
    ignored (``nohup``) still is.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    known = [getattr(signal, name) for name in _SIGNALS if hasattr(signal, name)]
    before = {each: signal.getsignal(each) for each in known}
    for each, handler in before.items():
        if handler != signal.SIG_IGN:
            signal.signal(each, _stop)
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _stop(number: int, _: FrameType | None) -> None:
    """Unwind the program."""
    sys.stderr.write(f"Stopped by {signal.Signals(number).name}\n")
    raise SystemExit(_STOPPED + number)
