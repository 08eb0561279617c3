from __future__ import annotations

from functools import partial

from lightweight_decoder.commands.opening import completed_search
from lightweight_decoder.search import ExactSearch, FaissSearch


def test_a_search_is_completed_with_what_it_takes(tiny_bank):
    def made(part, gib=None):
        return completed_search(part, tiny_bank, device="cpu", max_memory_gb=gib)

    assert made(ExactSearch) is None  # the decoder makes its own, wherever it is moved to
    assert made(partial(ExactSearch)) is None
    assert isinstance(made(ExactSearch, gib=1), ExactSearch)
    assert isinstance(made(FaissSearch, gib=1), FaissSearch)
    given = made(lambda bank, device: (bank, device))
    assert given == (tiny_bank, "cpu")
