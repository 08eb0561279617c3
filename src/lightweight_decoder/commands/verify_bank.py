"""What is wrong with a bank, file by file and block by block."""

from __future__ import annotations

import logging
from pathlib import Path

from lightweight_decoder.bank import verify_bank as problems_of
from lightweight_decoder.commands.arguments import command

logger = logging.getLogger(__name__)


@command
def verify_bank(bank: Path) -> int:
    """Read a whole bank and print everything that is wrong with it.

    Args:
        bank: Folder of the bank.

    Returns:
        The exit status: 0 if the bank is what was built, else 1.
    """
    problems = problems_of(bank, show_progress=True)
    for problem in problems:
        logger.error("%s", problem)
    if not problems:
        logger.info("%s: nothing is wrong", bank)
    return int(bool(problems))
