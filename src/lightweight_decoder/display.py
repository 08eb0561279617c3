"""Texts of strangers where people look at them: a terminal, a log, a spreadsheet, a plot.

A text may hold what these obey instead of showing it: escape codes, markup, formulas, math.
"""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.text import Text

_OBEYED = {"Cc", "Cs", "Zl", "Zp"}  # control characters, halves of characters, ends of lines
_TURNING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")  # the line around
_FORMULA = re.compile(r"[=+\-@\t\r]")


def printable(text: str) -> str:
    r"""Return a text of one line in which control characters are written out.

    Example:
        >>> print(printable("a\x1b[31mred\nline"))
        a\x1b[31mred\nline
    """
    return "".join(
        char.encode("unicode_escape").decode()
        if unicodedata.category(char) in _OBEYED or char in _TURNING
        else char
        for char in text
    )


def cell(text: str) -> Text:
    """Return a text for a table of rich, which takes strings for markup."""
    from rich.text import Text  # noqa: PLC0415 - errors use this module, and draw no tables

    return Text(printable(text))


def plot_label(text: str) -> str:
    r"""Return a text for matplotlib, which takes what stands between two ``$`` for math.

    Example:
        >>> print(plot_label(r"$\frac$"))
        \$\frac\$
    """
    return printable(text).replace("$", r"\$")


def spreadsheet_cell(value: object) -> object:
    """Return a value for a CSV file that people open in a spreadsheet.

    A text that would be a formula there gets an apostrophe in front; numbers stay, and so do texts
    that are numbers.

    Source: OWASP, "CSV Injection".

    Example:
        >>> spreadsheet_cell("=1+2"), spreadsheet_cell("-0.5"), spreadsheet_cell(-0.5)
        ("'=1+2", '-0.5', -0.5)
    """
    if not isinstance(value, str) or not _FORMULA.match(value):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value
