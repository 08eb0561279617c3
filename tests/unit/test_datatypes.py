from __future__ import annotations

import numpy as np

from lightweight_decoder.datatypes import Decoded


def decoded(num_queries=2, **changes):
    fields = {
        "texts": [["road", "way"], ["[b]x[/b]\x1b[31m\n" + "y" * 60, "z"]][:num_queries],
        "phrase_ids": np.arange(2 * num_queries).reshape(-1, 2),
        "values": np.array([[0.75, 0.5], [12.25, -1.0]], dtype=np.float32)[:num_queries],
        "kind": "cosine",
        "confidence": None,
        "abstained": np.zeros(num_queries, dtype=bool),
    }
    return Decoded(**fields | changes)


def test_answers_are_shown_as_a_table():
    unsafe = "[b]x[/b]\\x1b[31m\\n" + "y" * 26 + "…"
    assert repr(decoded()).splitlines() == [
        "Decoded(2 queries, by cosine)",
        f"query  {'answer':{len(unsafe)}}  cosine  then",
        f"    0  {'road':{len(unsafe)}}   0.750  way 0.500",
        f"    1  {unsafe}  12.250  z -1.000",
    ]


def test_confidence_and_no_phrase_are_shown():
    shown = repr(
        decoded(
            1, confidence=np.array([0.25], np.float32), abstained=np.array([True]), kind="logit"
        )
    )
    assert shown.splitlines()[1:] == [
        "query  answer       confidence  logit  then",
        "    0  (no phrase)       0.250  0.750  road 0.750, way 0.500",
    ]


def test_the_first_of_many_are_shown():
    many = decoded(
        texts=[[f"text {i}"] for i in range(1_000)],
        phrase_ids=np.zeros((1_000, 1), dtype=np.int64),
        values=np.ones((1_000, 1), dtype=np.float32),
        abstained=np.zeros(1_000, dtype=bool),
    )
    lines = repr(many).splitlines()
    assert lines[0] == "Decoded(1000 queries, by cosine)"
    assert lines[-2:] == ["    9  text 9   1.000", "… and 990 more"]
    assert len(lines) == 13


def test_no_queries_are_shown_as_none():
    empty = decoded(0)
    assert repr(empty).splitlines()[0] == "Decoded(0 queries, by cosine)"
