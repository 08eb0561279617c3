from __future__ import annotations

import numpy as np
import pytest
import torch

from lightweight_decoder.rerank import QueryAdapter


def unit(rows):
    rows = np.asarray(rows, dtype=np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_a_new_adapter_only_scales_to_unit_length(queries):
    adapted = QueryAdapter(query_dim=16, bank_dim=16)(queries).detach()
    np.testing.assert_allclose(adapted, unit(queries), atol=1e-7)


def test_a_new_adapter_of_another_width_is_its_projection(queries):
    adapter = QueryAdapter(query_dim=16, bank_dim=6)
    weight = adapter.projection.weight.detach().double().numpy()
    expected = unit(unit(queries) @ weight.T)
    np.testing.assert_allclose(adapter(queries).detach(), expected, atol=1e-6)


@pytest.mark.parametrize("bank_dim", [16, 6])
def test_is_a_residual_linear_map(queries, bank_dim):
    torch.manual_seed(0)
    adapter = QueryAdapter(query_dim=16, bank_dim=bank_dim)
    torch.nn.init.normal_(adapter.residual.weight, std=0.3)
    torch.nn.init.normal_(adapter.residual.bias, std=0.3)
    weight, bias = (p.detach().double().numpy() for p in adapter.residual.parameters())
    base = unit(queries)
    if adapter.projection is not None:
        base = base @ adapter.projection.weight.detach().double().numpy().T
    expected = unit(base + base @ weight.T + bias)
    np.testing.assert_allclose(adapter(queries).detach(), expected, atol=1e-6)


@pytest.mark.parametrize("ridge", [1e-2, 1.0])
def test_the_projection_starts_at_the_ridge_regression(ridge):
    random = np.random.default_rng(0)
    queries = (random.normal(size=(80, 10)) * 5).astype(np.float32)
    vectors = unit(random.normal(size=(80, 6))).astype(np.float32)
    adapter = QueryAdapter(query_dim=10, bank_dim=6)
    adapter.fit_projection(torch.from_numpy(queries), torch.from_numpy(vectors), ridge=ridge)
    # Ridge regression as least squares over rows that pull each weight towards zero.
    x = unit(queries)
    penalty = np.sqrt(ridge * (x**2).sum() / 10)
    rows = np.concatenate([x, penalty * np.eye(10)])
    right = np.concatenate([vectors.astype(np.float64), np.zeros((10, 6))])
    expected = np.linalg.lstsq(rows, right, rcond=None)[0].T
    np.testing.assert_allclose(adapter.projection.weight.detach(), expected, atol=1e-6)


def test_a_fitted_projection_undoes_a_linear_map():
    random = np.random.default_rng(0)
    vectors = torch.from_numpy(unit(random.normal(size=(300, 6))).astype(np.float32))
    queries = vectors @ torch.from_numpy(np.linalg.qr(random.normal(size=(10, 6)))[0].T).float()
    adapter = QueryAdapter(query_dim=10, bank_dim=6)
    adapter.fit_projection(queries, vectors)
    cosines = (adapter(queries) * vectors).sum(dim=1)
    assert cosines.min() > 0.99


def test_fit_projection_leaves_an_adapter_of_one_width_alone(queries):
    adapter = QueryAdapter(query_dim=16, bank_dim=16)
    before = adapter(queries)
    adapter.fit_projection(queries, queries.flip(0))
    assert torch.equal(adapter(queries), before)


def test_hyperparameters_make_the_same_adapter(queries):
    adapter = QueryAdapter(query_dim=16, bank_dim=6)
    again = QueryAdapter(**adapter.hyperparameters)
    again.load_state_dict(adapter.state_dict())
    assert torch.equal(again(queries), adapter(queries))
