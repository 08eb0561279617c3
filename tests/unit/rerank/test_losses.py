from __future__ import annotations

import numpy as np
import pytest
import torch

from lightweight_decoder.rerank import listwise_loss


def expected_loss(logits, right, counts):
    """The mean over useful queries of -log of the right candidates' share, in float64."""
    losses = []
    for row, is_right, takes_part in zip(logits, right, counts, strict=True):
        shares = [
            (np.exp(np.float64(x)), r)
            for x, r, c in zip(row, is_right, takes_part, strict=True)
            if (c or r) and np.isfinite(x)
        ]
        good = sum(share for share, r in shares if r)
        if good and any(not r for _, r in shares):
            losses.append(-np.log(good / sum(share for share, _ in shares)))
    return np.mean(losses) if losses else 0.0


def random_case(seed):
    random = np.random.default_rng(seed)
    logits = random.normal(size=(9, 7)).astype(np.float32) * 4
    logits[random.random(logits.shape) < 0.15] = -np.inf
    right = random.random(logits.shape) < 0.3
    right[0] = False
    right[1] = True
    right[2, :3] = True
    return logits, right, random.random(logits.shape) < 0.6


@pytest.mark.parametrize("seed", range(8))
def test_is_the_share_of_the_right_candidates(seed):
    logits, right, counts = random_case(seed)
    loss = listwise_loss(*map(torch.from_numpy, (logits, right, counts)))
    assert loss.item() == pytest.approx(expected_loss(logits, right, counts), rel=1e-5)


def test_known_values():
    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
    right = torch.tensor([[True, False, False, False], [True, True, False, False]])
    every = torch.ones_like(right)
    assert listwise_loss(logits[:1], right[:1], every[:1]).item() == pytest.approx(np.log(4))
    assert listwise_loss(logits, right, every).item() == pytest.approx(1.5 * np.log(2))


def test_a_right_candidate_is_never_pushed_down():
    logits = torch.randn(5, 6, generator=torch.Generator().manual_seed(0), requires_grad=True)
    right = torch.zeros(5, 6, dtype=torch.bool)
    right[:, :3] = True
    listwise_loss(logits, right, ~right).backward()
    assert (logits.grad[right] < 0).all()  # descent raises them
    assert (logits.grad[~right] > 0).all()


def test_a_candidate_that_does_not_count_is_left_alone():
    logits = torch.randn(5, 6, generator=torch.Generator().manual_seed(0), requires_grad=True)
    right = torch.zeros(5, 6, dtype=torch.bool)
    right[:, 0] = True
    counts = torch.zeros(5, 6, dtype=torch.bool)
    counts[:, :3] = True
    listwise_loss(logits, right, counts).backward()
    assert (logits.grad[:, 3:] == 0).all()
    assert (logits.grad[:, :3] != 0).all()


@pytest.mark.parametrize("are_right", [True, False])
def test_is_zero_where_there_is_nothing_to_tell_apart(are_right):
    logits = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    right = torch.full((3, 4), fill_value=are_right)
    loss = listwise_loss(logits, right, torch.ones_like(right))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(logits.grad, torch.zeros(3, 4))


def test_queries_without_a_right_candidate_do_not_dilute_the_mean():
    logits, right, counts = map(torch.from_numpy, random_case(3))
    keep = right.any(dim=1)
    assert not keep.all()
    both = (
        listwise_loss(logits, right, counts),
        listwise_loss(logits[keep], right[keep], counts[keep]),
    )
    assert both[0].item() == pytest.approx(both[1].item())


def test_hidden_candidates_leave_the_gradient_finite():
    logits = torch.tensor([[1.0, -torch.inf, 0.0], [-torch.inf, 2.0, 1.0]], requires_grad=True)
    right = torch.tensor([[True, False, False], [True, False, True]])
    loss = listwise_loss(logits, right, torch.ones_like(right))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()
    assert (logits.grad[[0, 1], [1, 0]] == 0).all()
