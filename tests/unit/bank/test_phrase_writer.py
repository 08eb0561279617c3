"""Numbering texts: the same as a dict does, whatever the blocks, collisions told apart."""

from __future__ import annotations

import builtins
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightweight_decoder.bank import phrase_writer
from lightweight_decoder.bank.phrase_writer import TextIndex


def numbered(blocks):
    """What a dict gives: the ids of each block, and the rows that were new."""
    id_of = {}
    for block in blocks:
        known = len(id_of)
        ids = [id_of.setdefault(text, len(id_of)) for text in block]
        new = [ids.index(i) for i in range(known, len(id_of))]
        yield ids, new


@given(st.lists(st.lists(st.text(max_size=2), max_size=30), max_size=8))
def test_ids_are_those_of_a_dict(blocks):
    index = TextIndex()
    found = [index.add(block) for block in blocks]
    expected = list(numbered(blocks))
    assert [(ids.tolist(), new.tolist()) for ids, new in found] == expected
    assert len(index) == len({text for block in blocks for text in block})


def test_ids_stay_the_same_while_the_table_grows():
    texts = [f"text {i}" for i in np.random.default_rng(0).integers(0, 30_000, size=60_000)]
    index = TextIndex()
    blocks = [texts[start : start + 1_500] for start in range(0, len(texts), 1_500)]
    found = [index.add(block).ids.tolist() for block in blocks]
    assert found == [ids for ids, _ in numbered(blocks)]
    assert [index.add([text]).ids[0] for text in texts[:50]] == found[0][:50]


@pytest.mark.parametrize("num_values", [1, 3])
def test_texts_with_the_same_first_hash_stay_apart(monkeypatch, num_values):
    def weak(text):
        return builtins.hash(text) if text.endswith("\n") else len(text) % num_values

    monkeypatch.setattr(phrase_writer, "hash", weak, raising=False)
    texts = [f"{'x' * (i % 5)}{i % 70}" for i in range(200)]
    index = TextIndex()
    assert [index.add(texts).ids.tolist()] == [ids for ids, _ in numbered([texts])]


def test_a_text_takes_about_thirty_bytes():
    index = TextIndex()
    for start in range(0, 200_000, 4_000):
        index.add([str(i) for i in range(start, start + 4_000)])
    held = sum(sys.getsizeof(array) for array in (*index._hashes, index._slots))
    assert held <= 40 * 200_000
