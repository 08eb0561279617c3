from __future__ import annotations

import numpy as np
import pytest
import torch

from lightweight_decoder.accelerator.precision import PRECISIONS
from lightweight_decoder.decoder.phrase_bank_decoder import PhraseBankDecoder
from lightweight_decoder.training.run import fit_and_test

DTYPES = {
    "32-true": torch.float32,
    "bf16-mixed": torch.float32,
    "bf16-true": torch.bfloat16,
    "64-true": torch.float64,
    "16-mixed": torch.float32,
}
ON_CPU = [(name, width, "cpu") for name in DTYPES for width in (16, 12) if name != "16-mixed"]
ON_GPU = [pytest.param((name, 16, "cuda"), marks=pytest.mark.gpu) for name in DTYPES]


@pytest.fixture(scope="module", params=ON_CPU + ON_GPU)
def trained(request, make_run, tmp_path_factory):
    """One epoch in a precision, queries as wide as the bank or not."""
    precision, query_dim, accelerator = request.param
    run = make_run(
        tmp_path_factory.mktemp("runs"),
        query_dim=query_dim,
        precision=precision,
        accelerator=accelerator,
        max_epochs=1,
    )
    run.dtypes = {}
    keep = run.module.on_train_epoch_end

    def look():
        run.dtypes |= {name: p.dtype for name, p in run.module.named_parameters()}
        keep()

    run.module.on_train_epoch_end = look
    run.precision, run.metrics = precision, fit_and_test(run.trainer, run.module, run.data)
    return run


def test_the_learned_parts_have_the_dtype_asked_for(trained):
    assert set(trained.dtypes.values()) == {DTYPES[trained.precision]}


def test_training_helps(trained):
    for parameter in trained.module.parameters():
        assert parameter.detach().isfinite().all()
    found = trained.metrics["test/decoder/mrr"]
    batch = trained.data.split("test")
    if batch.queries.shape[1] == 16:
        assert found > trained.metrics["test/baseline/mrr"] + 0.005
    else:
        assert found > 0.3


def test_the_baseline_is_that_of_float32(trained):
    split, bank = trained.data.split("test"), trained.decoder.bank
    if split.queries.shape[1] != bank.dim:
        assert "test/baseline/mrr" not in trained.metrics  # plain search cannot read them
        return
    ranks = PhraseBankDecoder(bank).ranks(
        *(torch.from_numpy(column) for column in (split.queries, split.targets)),
        exclude_vectors=torch.from_numpy(split.own_vectors),
    )[:, 0]
    expected = torch.where(ranks > 0, 1 / ranks.clamp(min=1), 0).mean()
    assert trained.metrics["test/baseline/mrr"] == pytest.approx(float(expected), rel=1e-6)


def test_the_test_is_of_the_decoder_that_was_saved(trained):
    saved = PhraseBankDecoder.from_checkpoint(trained.best)
    assert {p.dtype for p in saved.adapter.parameters()} == {torch.float32}
    split = trained.data.split("test")
    columns = [torch.from_numpy(c) for c in (split.queries, split.targets, split.own_vectors)]
    ranks = saved.ranks(*columns[:2], exclude_vectors=columns[2])[:, 0]
    expected = torch.where(ranks > 0, 1 / ranks.clamp(min=1), 0).mean()
    assert trained.metrics["test/decoder/mrr"] == pytest.approx(float(expected), rel=1e-6)
    confidence = saved.decode(split.queries).confidence
    assert np.isfinite(confidence).all()
    np.testing.assert_allclose(
        confidence, trained.decoder.decode(split.queries).confidence, rtol=1e-5
    )


def test_every_precision_that_the_resolver_grants_is_trained_here():
    assert set(DTYPES) == set(PRECISIONS)
