"""How a command ends that cannot go on."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lightweight_decoder.display import printable
from lightweight_decoder.errors import LightweightDecoderError

if TYPE_CHECKING:
    from collections.abc import Iterator

logger = logging.getLogger(__name__)


@contextmanager
def reported_errors() -> Iterator[None]:
    """End the program with a message, and no traceback, when an error of ours is raised.

    So does a file that the system refuses to read or write.
    """
    try:
        yield
    except LightweightDecoderError as error:
        logger.error("%s", error)  # noqa: TRY400 - the message is for people, who need no traceback
        raise SystemExit(1) from None
    except OSError as error:
        if error.filename is None:
            raise
        logger.error("%s: %s", printable(str(error.filename)), error.strerror)  # noqa: TRY400 - as above
        raise SystemExit(1) from None
