"""Sorting and reducing rows, compared with plain Python."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightweight_decoder.datatypes import NO_ID
from lightweight_decoder.search.order import (
    first_k_phrases,
    first_of_each_phrase,
    rounded_cosines,
    sorted_by_value,
    value_of_kth_phrase,
)


@st.composite
def scored_rows(draw):
    """Rows of values, vectors and phrases with many ties."""
    shape = (draw(st.integers(1, 4)), draw(st.integers(1, 12)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    values = torch.from_numpy(rng.integers(-2, 3, size=shape).astype(np.float32))
    vectors = torch.from_numpy(np.stack([rng.permutation(shape[1]) for _ in range(shape[0])]))
    return values, vectors, vectors % draw(st.integers(1, shape[1]))


@settings(deadline=None)
@given(rows=scored_rows())
def test_sorted_by_value(rows):
    found = torch.stack([column.double() for column in sorted_by_value(*rows)], dim=2)
    triples = [sorted(zip(*row, strict=True), key=_rank) for row in _lists(rows)]
    assert found.tolist() == [[list(triple) for triple in row] for row in triples]


@settings(deadline=None)
@given(rows=scored_rows(), k=st.integers(1, 14))
def test_first_k_phrases(rows, k):
    values, vectors, phrases = sorted_by_value(*rows)
    found = first_k_phrases(values, vectors, phrases, k)
    for row, triples in enumerate(_lists(rows)):
        best = {}
        for triple in sorted(zip(*triples, strict=True), key=_rank):
            best.setdefault(triple[2], triple)
        filler = (-np.inf, NO_ID, NO_ID)
        expected = [*best.values(), *[filler] * k][:k]
        assert [tuple(column[row, i].item() for column in found) for i in range(k)] == expected


@settings(deadline=None)
@given(rows=scored_rows(), k=st.integers(1, 14))
def test_value_of_kth_phrase(rows, k):
    values, _, phrases = rows
    found = value_of_kth_phrase(values, phrases, k)
    for row, (row_values, row_phrases) in enumerate(
        zip(values.tolist(), phrases.tolist(), strict=True)
    ):
        seen = [len(set(row_phrases[: i + 1])) for i in range(len(row_phrases))]
        expected = row_values[seen.index(k)] if k in seen else -np.inf
        assert found[row].tolist() == [expected]


def test_first_of_each_phrase():
    phrases = torch.tensor([[3, 1, 3, 1, 2], [7, 7, 7, 7, 7]])
    expected = [[True, True, False, False, True], [True, False, False, False, False]]
    assert first_of_each_phrase(phrases).tolist() == expected


def test_rounded_cosines_make_ties_of_float64_noise():
    noisy = torch.tensor([0.1 + 0.2 - 0.3, 0.0, 0.3, 0.1 + 0.2, 1.0], dtype=torch.float64)
    found = rounded_cosines(noisy)
    assert found.dtype == torch.float32
    assert found.tolist() == [0, 0, np.float32(0.3), np.float32(0.3), 1]


def _lists(rows):
    return list(zip(*(column.tolist() for column in rows), strict=True))


def _rank(triple):
    value, vector, phrase = triple
    return -value, phrase, vector
