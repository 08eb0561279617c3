from __future__ import annotations

import numpy as np
import pytest
import torch

from lightweight_decoder.decoder.phrase_bank_decoder import PhraseBankDecoder
from lightweight_decoder.rerank import ListwiseReranker, QueryAdapter
from lightweight_decoder.search import ExactSearch


def reranker_for(bank, **options):
    sizes = {"num_candidates": 24, "rank_dim": 8, "hidden_dim": 12, **options}
    torch.manual_seed(0)
    return ListwiseReranker(
        query_dim=16, bank_dim=bank.dim, num_phrases=bank.num_phrases, **sizes
    ).eval()


def with_random_weights(reranker):
    torch.manual_seed(1)
    for parameter in reranker.parameters():
        torch.nn.init.normal_(parameter.data, std=0.5) if parameter.ndim else parameter.data.fill_(
            0.3
        )
    reranker.hubness.normal_()
    return reranker


@pytest.mark.parametrize("bank_name", ["tiny_bank", "single_bank"])
@pytest.mark.parametrize("k", [5, 24, 40])
def test_a_new_decoder_ranks_exactly_as_the_search(request, queries, bank_name, k):
    bank = request.getfixturevalue(bank_name)
    adapter = QueryAdapter(query_dim=16, bank_dim=16)
    decoder = PhraseBankDecoder(bank, adapter=adapter, reranker=reranker_for(bank))
    found = decoder.candidates(queries, k)
    plain = ExactSearch(bank).search(queries, k)
    assert torch.equal(found.phrase_ids, plain.phrase_ids)
    assert torch.equal(found.vector_ids, plain.vector_ids)
    targets = torch.arange(bank.num_phrases).expand(len(queries), -1)
    assert torch.equal(
        decoder.ranks(queries, targets), PhraseBankDecoder(bank).ranks(queries, targets)
    )


def test_values_fall_and_are_logits(tiny_bank, queries):
    reranker = with_random_weights(reranker_for(tiny_bank))
    found = PhraseBankDecoder(tiny_bank, reranker=reranker).candidates(queries, 60)
    assert found.kind == "logit"
    assert (found.values.diff(dim=1) <= 0).all()


def test_reorders_the_head_and_keeps_the_tail(tiny_bank, queries):
    reranker = with_random_weights(reranker_for(tiny_bank))
    found = PhraseBankDecoder(tiny_bank, reranker=reranker).candidates(queries, 60)
    plain = ExactSearch(tiny_bank).search(queries, 60)
    assert not torch.equal(found.phrase_ids[:, :24], plain.phrase_ids[:, :24])
    same = found.phrase_ids[:, :24].sort(dim=1).values, plain.phrase_ids[:, :24].sort(dim=1).values
    assert torch.equal(*same)
    assert torch.equal(found.phrase_ids[:, 24:], plain.phrase_ids[:, 24:])
    assert torch.equal(found.vector_ids[:, 24:], plain.vector_ids[:, 24:])


def test_equal_logits_keep_the_order_of_the_search(tiny_bank, queries):
    reranker = reranker_for(tiny_bank)
    reranker.relative_scale.data.fill_(-1.0)  # a scale of 0: every logit is 0
    found = PhraseBankDecoder(tiny_bank, reranker=reranker).candidates(queries, 24)
    plain = ExactSearch(tiny_bank).search(queries, 24)
    assert torch.equal(found.phrase_ids, plain.phrase_ids)


def test_hubness_and_agreement_enter_the_logit_linearly(tiny_bank, queries):
    reranker = reranker_for(tiny_bank)
    reranker.hubness.normal_()
    decoder = PhraseBankDecoder(tiny_bank, reranker=reranker)
    plain = ExactSearch(tiny_bank).search(queries, 24)
    start = decoder.scorer.logits(reranker, queries, queries, plain).detach()
    np.testing.assert_allclose(start, 16 * plain.values, rtol=1e-6)
    reranker.hubness_share.data.fill_(0.5)
    with_hubness = decoder.scorer.logits(reranker, queries, queries, plain).detach()
    np.testing.assert_allclose(
        with_hubness, start - 8 * reranker.hubness[plain.phrase_ids], atol=1e-4
    )


def test_hidden_candidates_come_last_and_leave_the_gradient_finite(single_bank, queries):
    """A bank smaller than the list, with vectors hidden: the list's end is empty."""
    reranker = with_random_weights(reranker_for(single_bank, num_candidates=64))
    decoder = PhraseBankDecoder(single_bank, reranker=reranker)
    hidden = torch.arange(3).expand(len(queries), 3)
    found = ExactSearch(single_bank).search(queries, 64, exclude_vectors=hidden)
    logits = decoder.scorer.logits(reranker, queries, queries, found, exclude_vectors=hidden)
    assert (logits[:, -3:] == -torch.inf).all()
    assert torch.isfinite(logits[:, :-3]).all()
    logits[:, :-3].logsumexp(dim=1).sum().backward()
    for name, parameter in reranker.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name


def test_phrases_hidden_beyond_the_list_have_no_nan_value(tiny_bank, queries):
    """So much is hidden that even the reranked list has empty places."""
    reranker = with_random_weights(reranker_for(tiny_bank))
    decoder = PhraseBankDecoder(tiny_bank, reranker=reranker)
    hidden = torch.arange(10, tiny_bank.num_vectors).expand(len(queries), -1)
    found = decoder.candidates(queries, 40, exclude_vectors=hidden)
    assert not found.values.isnan().any()
    assert (found.values[:, 10:] == -torch.inf).all()
    assert (found.phrase_ids[:, 10:] == -1).all()


def test_hyperparameters_make_the_same_reranker(tiny_bank, queries):
    reranker = with_random_weights(reranker_for(tiny_bank))
    again = ListwiseReranker(**reranker.hyperparameters).eval()
    again.load_state_dict(reranker.state_dict())
    answers = [
        PhraseBankDecoder(tiny_bank, reranker=r).candidates(queries, 5) for r in (reranker, again)
    ]
    assert torch.equal(answers[0].values, answers[1].values)
