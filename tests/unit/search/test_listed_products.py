"""Products with listed vectors against products in float64."""

from __future__ import annotations

import pytest
import torch

from lightweight_decoder.datatypes import NO_ID
from lightweight_decoder.search.listed_products import products_with


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("num_queries", "length"), [(1, 1), (1, 7), (40, 60), (3, 0), (0, 4)])
def test_products_are_those_of_the_rows_that_are_listed(dtype, num_queries, length):
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(50, 33, generator=generator).to(dtype)
    queries = torch.randn(num_queries, 33, generator=generator)
    ids = torch.randint(NO_ID, 50, (num_queries, length), generator=generator)  # some rows twice
    expected = (queries.double()[:, None] * vectors.double()[ids]).sum(dim=2)
    expected[ids == NO_ID] = -torch.inf
    found = products_with(queries, vectors, ids)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected.float(), rtol=0, atol=1e-4)


def test_vectors_may_be_mapped_read_only(tmp_path):
    vectors = torch.from_file(str(tmp_path / "rows"), shared=True, size=60).view(12, 5).fill_(0.5)
    ids = torch.tensor([[11, 0]])
    assert products_with(torch.ones(1, 5), vectors, ids).tolist() == [[2.5, 2.5]]
