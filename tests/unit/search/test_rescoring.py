from __future__ import annotations

import numpy as np
import pytest
import torch

from lightweight_decoder.datatypes import NO_ID
from lightweight_decoder.search import rescoring
from lightweight_decoder.search.order import rounded_cosines
from lightweight_decoder.search.rescoring import Rescorer

NUM_VECTORS, DIM, LISTED, K = 80, 12, 20, 6


@pytest.fixture
def vectors():
    rows = torch.randn(NUM_VECTORS, DIM, generator=torch.Generator().manual_seed(0))
    rows[40:60] = rows[:20]  # ties
    rows[60:70] = rows[:10] + 1e-7 * rows[30:40]  # what float32 cannot tell apart
    return torch.nn.functional.normalize(rows)


@pytest.fixture
def queries(vectors):
    noise = torch.randn(9, DIM, generator=torch.Generator().manual_seed(1))
    return torch.nn.functional.normalize(vectors[:9].double() + 0.1 * noise)


@pytest.fixture(params=[True, False], ids=["few", "many"], autouse=True)
def list_lengths(request, monkeypatch):
    """Lists that are short enough to be computed in float64 altogether, or are not."""
    monkeypatch.setattr(rescoring, "_FEW_PAIRS", 10**6 if request.param else 0)


@pytest.fixture
def listed():
    generator = torch.Generator().manual_seed(2)
    rows = torch.stack([torch.randperm(NUM_VECTORS, generator=generator) for _ in range(9)])
    rows = rows[:, :LISTED]
    rows[3, 15:] = NO_ID
    return rows


def expected_order(queries, vectors, owners, listed):
    """Sort by value, phrase and vector, with NumPy."""
    rows = []
    for query, row in zip(queries.numpy(), listed.numpy(), strict=True):
        ids = row[row != NO_ID]
        cosines = torch.from_numpy(vectors[ids].double().numpy() @ query)
        values = rounded_cosines(cosines).numpy()
        order = np.lexsort((ids, owners.numpy()[ids], -values))
        rows.append(list(zip(ids[order].tolist(), values[order].tolist(), strict=True)))
    return rows


@pytest.mark.parametrize("num_phrases", [NUM_VECTORS, 30])
def test_the_order_is_that_of_float64(vectors, queries, listed, num_phrases):
    owners = torch.arange(NUM_VECTORS) % num_phrases
    rescorer = Rescorer(vectors, None if num_phrases == NUM_VECTORS else owners)
    found = rescorer.in_order(queries, listed, LISTED)

    for row, expected in enumerate(expected_order(queries, vectors, owners, listed)):
        count = len(expected)
        assert found.vectors[row, :count].tolist() == [vector for vector, _ in expected]
        values = [value for _, value in expected]
        np.testing.assert_allclose(found.values[row, :count], values, atol=1e-6)
        assert (found.values[row, count:] == -torch.inf).all()
        assert found.phrases[row, :count].tolist() == [owners[v].item() for v, _ in expected]


def test_products_that_are_there_already_change_nothing(vectors, queries, listed):
    rescorer = Rescorer(vectors, None)
    products = (queries.float()[:, None] * vectors[listed]).sum(dim=2)
    products.masked_fill_(listed == NO_ID, -torch.inf)
    values, order = products.sort(dim=1, descending=True)
    found = rescorer.in_order(queries, listed.gather(1, order), K, values=values)

    expected = rescorer.in_order(queries, listed, K)
    assert torch.equal(found.vectors[:, :K], expected.vectors[:, :K])
    torch.testing.assert_close(found.values[:, :K], expected.values[:, :K], rtol=0, atol=1e-6)


def test_a_hidden_vector_becomes_no_id(vectors, queries, listed):
    rescorer = Rescorer(vectors, torch.arange(NUM_VECTORS) % 30)
    values = torch.full(listed.shape, -torch.inf)
    found = rescorer.first_phrases(rescorer.in_order(queries, listed, K, values=values), K)

    assert found.vectors.shape == (9, K)
    assert (found.vectors == NO_ID).all()
    assert (found.phrases == NO_ID).all()
