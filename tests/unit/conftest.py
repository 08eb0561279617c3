"""A tiny bank that the tests of search, reranking, decoding and training share."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch

from lightweight_decoder.bank import PhraseBank

NUM_PHRASES = 200
DIM = 16


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """Tiny matrices: threads only cost time, and the machine is shared."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_bank(tmp_path_factory):
    """200 phrases of width 16; every fifth owns three vectors, the others one."""
    texts = [
        f"{'Phrase' if i % 3 else 'phrase'} {'long ' * (i % 4)}{i}" for i in range(NUM_PHRASES)
    ]
    texts += [text for text in texts[::5] for _ in range(2)]
    random = np.random.default_rng(0)
    centers = random.normal(size=(NUM_PHRASES, DIM))
    near = np.repeat(centers[::5], 2, axis=0) + random.normal(size=(NUM_PHRASES // 5 * 2, DIM))
    vectors = np.concatenate([centers, near]).astype(np.float32)
    frequency = [float(i * i) for i in range(NUM_PHRASES)] + [0.0] * len(near)
    folder = tmp_path_factory.mktemp("banks") / "tiny"
    return PhraseBank.build(folder, texts, vectors, metadata={"frequency": frequency})


@pytest.fixture(scope="session")
def single_bank(tmp_path_factory):
    """Forty phrases of one vector each, without metadata."""
    vectors = np.random.default_rng(1).normal(size=(40, DIM)).astype(np.float32)
    folder = tmp_path_factory.mktemp("banks") / "single"
    return PhraseBank.build(folder, [f"word {i}" for i in range(40)], vectors)


@pytest.fixture
def queries():
    """Thirty queries (30, 16) float32 of different lengths."""
    return torch.from_numpy(np.random.default_rng(2).normal(size=(30, DIM)).astype(np.float32) * 3)


def _with_default_dtype(dtype):
    @contextlib.contextmanager
    def change():
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            yield
        finally:
            torch.set_default_dtype(before)

    return change


@contextlib.contextmanager
def _with_medium_products():
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        yield
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


SURROUNDINGS = {
    "bf16-mixed": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "16-mixed": lambda: torch.autocast("cpu", dtype=torch.float16),
    "64-true": _with_default_dtype(torch.float64),
    "bf16-true": _with_default_dtype(torch.bfloat16),
    "medium": _with_medium_products,
}


@pytest.fixture(scope="session")
def all_surroundings():
    """Every such context by name."""
    return SURROUNDINGS


@pytest.fixture(params=SURROUNDINGS)
def surroundings(request):
    """A context that changes how torch computes, as trainer.precision and users do."""
    return SURROUNDINGS[request.param]
