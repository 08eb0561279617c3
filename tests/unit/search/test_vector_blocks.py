"""Blocks of vectors on the device that computes."""

from __future__ import annotations

import pytest
import torch

from lightweight_decoder.search import vector_blocks as module
from lightweight_decoder.search.vector_blocks import converted_blocks, device_blocks, fits

CPU = torch.device("cpu")


@pytest.mark.parametrize("most_rows", [1, 3, 10, 99])
def test_blocks_follow_each_other_without_copies(most_rows):
    vectors = torch.arange(20.0).view(10, 2)
    blocks = list(device_blocks(vectors, CPU, most_rows))
    assert [start for start, _ in blocks] == list(range(0, 10, most_rows))
    assert torch.equal(torch.cat([block for _, block in blocks]), vectors)
    assert all(block.data_ptr() == vectors[start].data_ptr() for start, block in blocks)


@pytest.mark.parametrize(("max_bytes", "sizes"), [(1, [1] * 10), (48, [3, 3, 3, 1]), (999, [10])])
def test_converted_blocks_keep_to_their_size(max_bytes, sizes):
    vectors = torch.arange(20.0).view(10, 2)
    blocks = list(converted_blocks(vectors, torch.float64, CPU, max_bytes=max_bytes))
    assert [len(block) for _, block in blocks] == sizes
    assert all(block.dtype == torch.float64 for _, block in blocks)
    assert torch.equal(torch.cat([block for _, block in blocks]), vectors.double())


def test_everything_fits_on_a_cpu():
    assert fits(torch.empty(1).expand(2**40), CPU)


@pytest.mark.gpu
def test_blocks_are_streamed_to_a_gpu(monkeypatch):
    monkeypatch.setattr(module, "_STREAMED_BYTES", 2**20)
    vectors = torch.randn(100_003, 64)
    received = torch.full((100_003, 64), torch.nan, device="cuda")
    for start, block in device_blocks(vectors, torch.device("cuda"), 2**20):
        torch.cuda._sleep(10**6)  # the next copy must wait for this block's use
        received[start : start + len(block)] = block
    assert torch.equal(received.cpu(), vectors)


@pytest.mark.gpu
def test_vectors_that_would_fill_a_gpu_do_not_fit():
    device = torch.device("cuda")
    free, _ = torch.cuda.mem_get_info(device)
    assert fits(torch.empty(1), device)
    assert not fits(torch.empty(1).expand(free), device)
