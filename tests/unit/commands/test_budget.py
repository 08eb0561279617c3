from __future__ import annotations

import pytest

from lightweight_decoder.commands.opening import search_sizes
from lightweight_decoder.search.exact import BLOCKS_HELD


@pytest.mark.parametrize(
    ("gib", "block_mib", "copy_mib"), [(0.25, 16, 64), (2, 64, 512), (100, 64, 1_024)]
)
def test_exact_search_leaves_half_of_a_memory_budget(gib, block_mib, copy_mib):
    sizes = search_sizes(gib, "cpu")
    assert sizes == {"max_block_bytes": block_mib * 2**20, "max_copy_bytes": copy_mib * 2**20}
    assert BLOCKS_HELD * sizes["max_block_bytes"] + sizes["max_copy_bytes"] <= gib * 2**29


@pytest.mark.parametrize(("gib", "device"), [(None, "cpu"), (2, "cuda:0")])
def test_elsewhere_the_search_knows_best(gib, device):
    assert search_sizes(gib, device) == {}
