"""What is mined, in whatever surroundings."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lightweight_decoder.datatypes import NO_ID
from lightweight_decoder.search import ExactSearch, FaissSearch
from lightweight_decoder.training.mining import CandidateMiner
from lightweight_decoder.training.sources.datamodule import Batch

CPU = torch.device("cpu")


@pytest.fixture
def task(make_run, tmp_path):
    """A decoder, its training queries, and all of them as one batch."""
    run = make_run(tmp_path)
    split = run.data.split("train")
    columns = (split.queries, split.targets, split.own_vectors, np.arange(len(split)))
    return run.decoder, split, Batch(*map(torch.from_numpy, columns))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_mined_candidates_stand_in_the_order_of_search(task, surroundings, dtype):
    decoder, split, batch = task
    with surroundings():
        miner = CandidateMiner(decoder, split, num_listed=24, num_mined=120, device=CPU)
        miner.mine(seed=3)
        adapted = decoder.adapt(batch.queries).detach().to(dtype)
        rows, found = miner.candidates(batch, adapted)
    assert len(rows) == 120
    assert decoder.reranker.hubness.abs().sum() > 0
    again = ExactSearch(decoder.bank).search_among(adapted[rows], found.vector_ids.flip(1), 24)
    assert found.values.dtype == torch.float32
    assert torch.equal(found.phrase_ids, again.phrase_ids)
    assert torch.equal(found.vector_ids, again.vector_ids)
    cosines = (decoder.bank.gather(found.vector_ids).double() @ adapted[rows, :, None].double())[
        ..., 0
    ]
    cosines /= adapted[rows].double().norm(dim=1, keepdim=True)
    there = found.vector_ids != NO_ID
    torch.testing.assert_close(found.values[there].double(), cosines[there], rtol=0, atol=2e-6)


def test_an_approximate_search_mines_in_the_same_order(task):
    pytest.importorskip("faiss")
    decoder, split, batch = task
    miner = CandidateMiner(decoder, split, num_listed=24, num_mined=120, device=CPU)
    miner.mine(seed=3)
    _, expected = miner.candidates(batch, decoder.adapt(batch.queries))
    decoder.search = FaissSearch(decoder.bank)  # lists all of so small a bank
    miner = CandidateMiner(decoder, split, num_listed=24, num_mined=120, device=CPU)
    miner.mine(seed=3)
    _, found = miner.candidates(batch, decoder.adapt(batch.queries))
    assert torch.equal(found.phrase_ids, expected.phrase_ids)
    assert torch.equal(found.values, expected.values)
