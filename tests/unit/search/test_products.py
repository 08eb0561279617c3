"""Products of queries and vectors against float64, in whatever surroundings."""

from __future__ import annotations

import contextlib
import threading

import pytest
import torch

from lightweight_decoder.datatypes import NO_ID
from lightweight_decoder.search.products import (
    full_float32,
    listed_products,
    products,
    products_of_lists,
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("num_queries", "length"), [(1, 1), (1, 7), (40, 60), (3, 0), (0, 4)])
def test_products_are_those_of_the_rows_that_are_listed(dtype, num_queries, length):
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(50, 33, generator=generator).to(dtype)
    queries = torch.randn(num_queries, 33, generator=generator)
    ids = torch.randint(NO_ID, 50, (num_queries, length), generator=generator)  # some rows twice
    expected = (queries.double()[:, None] * vectors.double()[ids]).sum(dim=2)
    expected[ids == NO_ID] = -torch.inf
    found = listed_products(queries, vectors, ids)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected.float(), rtol=0, atol=1e-4)


def test_vectors_may_be_mapped_read_only(tmp_path):
    vectors = torch.from_file(str(tmp_path / "rows"), shared=True, size=60).view(12, 5).fill_(0.5)
    ids = torch.tensor([[11, 0]])
    assert listed_products(torch.ones(1, 5), vectors, ids).tolist() == [[2.5, 2.5]]


@pytest.mark.parametrize("num_queries", [1, 40])
@pytest.mark.parametrize("query_dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_surroundings_do_not_change_products(surroundings, num_queries, query_dtype, dtype):
    generator = torch.Generator().manual_seed(0)
    shape = {"generator": generator, "dtype": torch.float32}
    queries = torch.randn(num_queries, 96, **shape).to(query_dtype)
    vectors = torch.nn.functional.normalize(torch.randn(300, 96, **shape)).to(dtype)
    ids = torch.arange(num_queries * 5).view(num_queries, 5)
    expected = queries.double() @ vectors.double().T
    with surroundings():
        every = products(queries, vectors)
        listed = listed_products(queries, vectors, ids)
        lists = products_of_lists(queries, vectors[ids])
    for found, exact in (
        (every, expected),
        *((own, expected.gather(1, ids)) for own in (listed, lists)),
    ):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), exact, rtol=0, atol=1e-5)


def test_the_last_thread_puts_the_setting_back():
    setting, cpu = torch.backends.mkldnn.matmul, torch.device("cpu")
    before, seen = setting.fp32_precision, []
    inside, leave = threading.Event(), threading.Event()

    def stay():
        with full_float32(cpu):
            inside.set()
            leave.wait(10)
            seen.append(setting.fp32_precision)

    setting.fp32_precision = "bf16"
    try:
        thread = threading.Thread(target=stay)
        with full_float32(cpu):
            thread.start()
            assert inside.wait(10)
        seen.append(setting.fp32_precision)  # the other thread still computes
        leave.set()
        thread.join()
        assert seen == ["ieee", "ieee"]
        assert setting.fp32_precision == "bf16"
    finally:
        setting.fp32_precision = before


def test_the_setting_is_put_back_after_an_error():
    before = torch.backends.mkldnn.matmul.fp32_precision
    with contextlib.suppress(ValueError), full_float32(torch.device("cpu")):
        raise ValueError
    assert torch.backends.mkldnn.matmul.fp32_precision == before


@pytest.mark.gpu
def test_tf32_is_not_used_on_a_gpu():
    queries, vectors = torch.randn(64, 256, device="cuda"), torch.randn(999, 256, device="cuda")
    setting = torch.backends.cuda.matmul
    before, setting.fp32_precision = setting.fp32_precision, "tf32"
    try:
        with torch.autocast("cuda", dtype=torch.bfloat16):
            found = products(queries, vectors)
        assert setting.fp32_precision == "tf32"
    finally:
        setting.fp32_precision = before
    torch.testing.assert_close(
        found.double(), queries.double() @ vectors.double().T, atol=1e-3, rtol=0
    )
