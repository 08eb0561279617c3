from __future__ import annotations

import pytest

from lightweight_decoder.accelerator import resolve_accelerator
from lightweight_decoder.search import exact
from lightweight_decoder.shell import parts
from lightweight_decoder.shell.parts import exact_search


@pytest.fixture(scope="module")
def plan():
    return resolve_accelerator(accelerator="cpu")


@pytest.mark.parametrize(
    ("gib", "block_mib", "copy_mib"), [(0.25, 16, 64), (2, 64, 512), (100, 64, 1_024)]
)
def test_exact_search_leaves_half_of_a_memory_budget(monkeypatch, plan, gib, block_mib, copy_mib):
    monkeypatch.setattr(parts, "ExactSearch", lambda _, **sizes: sizes)
    sizes = exact_search(None, gib, plan)
    assert sizes == {"max_block_bytes": block_mib * 2**20, "max_copy_bytes": copy_mib * 2**20}
    assert exact.BLOCKS_HELD * sizes["max_block_bytes"] + sizes["max_copy_bytes"] <= gib * 2**29


def test_without_a_memory_budget_the_decoder_makes_its_own_search(plan):
    assert exact_search(None, None, plan) is None
