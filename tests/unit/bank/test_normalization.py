"""The one spelling of a text."""

from __future__ import annotations

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from lightweight_decoder.bank import normalize_text


@given(st.text())
def test_normal_texts_stay_as_they_are(text):
    once = normalize_text(text)
    assert normalize_text(once) == once
    assert unicodedata.is_normalized("NFC", once)
    assert once == " ".join(once.split(" ")).strip()


def test_spellings_of_one_text():
    assert normalize_text("cafe\u0301\u2003 au\tlait\n") == "café au lait"
    assert normalize_text("Polish") != normalize_text("polish")
