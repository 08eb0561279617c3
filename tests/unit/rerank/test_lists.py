from __future__ import annotations

import torch

from lightweight_decoder.datatypes import Candidates
from lightweight_decoder.rerank import first_columns, reordered, with_tail


def found(values):
    values = torch.tensor(values)
    ids = torch.arange(values.numel()).view(values.shape)
    return Candidates(phrase_ids=ids, vector_ids=ids + 100, values=values, kind="cosine")


def test_the_first_columns_go_together():
    cut = first_columns(found([[0.9, 0.5, 0.1], [0.8, 0.7, 0.6]]), 2)

    assert cut.phrase_ids.tolist() == [[0, 1], [3, 4]]
    assert cut.vector_ids.tolist() == [[100, 101], [103, 104]]
    assert torch.equal(cut.values, torch.tensor([[0.9, 0.5], [0.8, 0.7]]))


def test_reordered_by_logit_with_ties_in_their_order():
    order = reordered(found([[0.9, 0.5, 0.1]]), torch.tensor([[1.0, 2.0, 1.0]]))

    assert order.phrase_ids.tolist() == [[1, 0, 2]]
    assert order.vector_ids.tolist() == [[101, 100, 102]]
    assert order.values.tolist() == [[2.0, 1.0, 1.0]]
    assert order.kind == "logit"


def test_a_tail_keeps_its_order_and_gaps_below_the_head():
    searched = found([[0.75, 0.5, 0.25, -torch.inf]])
    head = reordered(first_columns(searched, 2), torch.tensor([[3.0, 7.0]]))
    whole = with_tail(head, searched)

    assert whole.phrase_ids.tolist() == [[1, 0, 2, 3]]
    assert whole.values.tolist() == [[7.0, 3.0, 2.75, -torch.inf]]


def test_a_tail_behind_nothing_found_stays_nothing():
    searched = found([[-torch.inf, -torch.inf, -torch.inf]])
    head = reordered(first_columns(searched, 2), searched.values[:, :2])

    assert (with_tail(head, searched).values == -torch.inf).all()
