"""Texts that do something where they are shown, if they are let."""

from __future__ import annotations

import csv
import io
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table

from lightweight_decoder.display import cell, plot_label, printable, spreadsheet_cell
from lightweight_decoder.errors import InputDataError, RegressionError
from lightweight_decoder.progress import report_progress

HOSTILE = (
    "[/]",
    "[red]x[/red]",
    "[link=http://x]y[/link]",
    ":smile:",
    "\x1b[31mred",
    "\x1b]0;title\x07",
    "\x9b2J",
    "a\rb",
    "a\nb",
    "\u202egnp.exe",
    "\ud800",
    "\\[",
)


def shown(renderable):
    console = Console(file=io.StringIO(), width=200, force_terminal=True, color_system=None)
    console.print(renderable)
    return console.file.getvalue()


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        *((text, text) for text in ("", "[/]", "ünïcode 日本", "👩\u200d🚀", "a\u00a0b")),
        ("\x1b[31m", r"\x1b[31m"),
        ("a\tb\nc\rd", r"a\tb\nc\rd"),
        ("\x7f\x9b\u2028", r"\x7f\x9b\u2028"),
        ("\u202eabc\u2066", r"\u202eabc\u2066"),
        ("\ud800", r"\ud800"),
    ],
)
def test_control_characters_are_written_out(text, printed):
    assert printable(text) == printed


@given(st.text(st.characters()))
def test_nothing_that_a_terminal_obeys_is_left(text):
    printed = printable(text)

    printed.encode()
    assert not any(unicodedata.category(char) in {"Cc", "Zl", "Zp"} for char in printed)
    assert printable(printed) == printed


@pytest.mark.parametrize("text", HOSTILE)
def test_a_cell_shows_the_text_as_it_is(text):
    table = Table(title=cell(text))
    table.add_column(cell(text))
    table.add_row(cell(text))

    lines = shown(table)

    assert lines.count(printable(text)) == 3
    assert "\x1b" not in lines


@pytest.mark.parametrize("text", HOSTILE)
def test_errors_and_progress_show_the_text_as_it_is(text, capsys):
    error = InputDataError.unexpected(text, text, text, at=text, summary=text)

    where = printable(text)
    value = printable(" ".join(text.splitlines()))
    assert str(error) == f"{where}, {where}: {_by_line(text)}: expected {value}, found {value}"
    assert (error.where, error.found, error.summary) == (text, text, text)
    with report_progress(text, unit="rows", total=1, enabled=True) as advance:
        advance(1)
    assert printable(text) in capsys.readouterr().out


def _by_line(text):
    return "\n".join(printable(line) for line in text.split("\n"))


def test_our_own_messages_keep_their_lines():
    assert str(RegressionError("2 fell:\n  a\n  b")) == "2 fell:\n  a\n  b"


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("=1+2", "'=1+2"),
        ("+cmd|' /C calc'!A0", "'+cmd|' /C calc'!A0"),
        ("-x", "'-x"),
        ("@SUM(1)", "'@SUM(1)"),
        ("\t=1", "'\t=1"),
        ("-1e-4", "-1e-4"),
        ("+.5", "+.5"),
        ("-inf", "-inf"),
        ("a=b", "a=b"),
        ("", ""),
        (-2.5, -2.5),
        (None, None),
    ],
)
def test_a_spreadsheet_shows_texts_and_reads_numbers(value, written):
    assert spreadsheet_cell(value) == written


@given(st.text(st.characters(codec="utf-8", exclude_characters="\x00")))
def test_no_cell_begins_like_a_formula_unless_it_is_a_number(text):
    file = io.StringIO(newline="")
    csv.writer(file).writerow([spreadsheet_cell(text), "end"])
    (row,) = csv.reader(io.StringIO(file.getvalue(), newline=""))

    assert row[0].removeprefix("'") == text.removeprefix("'")
    if row[0][:1] in {"=", "+", "-", "@", "\t", "\r"}:
        float(row[0])


def test_dollars_are_no_math():
    assert plot_label("$x$ and $5\x1b") == r"\$x\$ and \$5\x1b"
