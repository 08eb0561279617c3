"""Answers kept for queries that come again."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightweight_decoder.datatypes import Decoded
from lightweight_decoder.decoder.calibration import Calibration
from lightweight_decoder.decoder.phrase_bank_decoder import PhraseBankDecoder
from lightweight_decoder.decoder.query_cache import CacheStats, QueryCache
from lightweight_decoder.errors import ConfigError, EmbeddingError
from lightweight_decoder.rerank import ListwiseReranker, QueryAdapter
from lightweight_decoder.search import ExactSearch


def echo(queries):
    """An answer that says which query it is of."""
    ids = queries.long().numpy()
    return Decoded(
        texts=[[f"phrase {i}"] for i in ids[:, 0]],
        phrase_ids=ids,
        values=queries.numpy().copy(),
        kind="cosine",
        confidence=queries[:, 0].numpy() / 100,
        abstained=ids[:, 0] % 2 == 0,
    )


def numbered(*numbers):
    return torch.tensor(numbers, dtype=torch.float32)[:, None]


def assert_same(answer, expected):
    assert answer.texts == expected.texts
    assert answer.kind == expected.kind
    assert (answer.confidence is None) == (expected.confidence is None)
    for name in ("phrase_ids", "values", "abstained", "confidence"):
        if getattr(expected, name) is not None:
            np.testing.assert_array_equal(getattr(answer, name), getattr(expected, name))


@given(
    st.integers(1, 6),
    st.lists(st.lists(st.tuples(st.integers(0, 9)), max_size=8), max_size=8),
)
def test_answers_as_without_a_cache(max_queries, batches):
    cache, recent, hits = QueryCache(max_queries), [], 0
    for batch in batches:
        queries = numbered(*(number for (number,) in batch))
        numbers = queries[:, 0].tolist()
        new = [n for n in dict.fromkeys(numbers) if n not in recent]
        asked = []

        def search(rows, asked=asked):
            asked.extend(rows[:, 0].tolist())
            return echo(rows)

        assert_same(cache.decode(queries, None, search), echo(queries))
        assert asked == new
        hits += len(numbers) - len(new)
        for number in numbers:
            recent = [n for n in recent if n != number] + [number]
        recent = recent[-max_queries:]
        assert len(cache) == len(recent)
    num_queries = sum(map(len, batches))
    assert cache.stats == CacheStats(hits=hits, misses=num_queries - hits)


def test_options_are_part_of_the_question():
    cache = QueryCache(9)
    cache.decode(numbered(1), (5, 0.0), echo)
    cache.decode(numbered(1), (5, 0.5), echo)
    cache.decode(numbered(1), (4, 0.0), echo)
    assert cache.stats.misses == 3


def test_the_hit_rate_of_nothing_is_zero():
    assert QueryCache(1).stats.hit_rate == 0
    assert CacheStats(hits=3, misses=1).hit_rate == 0.75


def test_what_a_caller_does_to_an_answer_stays_with_the_caller():
    cache = QueryCache(9)
    for _ in range(2):
        answer = cache.decode(numbered(1, 2), None, echo)
        assert_same(answer, echo(numbered(1, 2)))
        answer.texts[0][0] = "changed"
        answer.texts[1].append("changed")
        answer.values[:] = answer.phrase_ids[:] = -7
        answer.abstained[:] = True


def test_a_search_that_fails_leaves_nothing_behind():
    cache = QueryCache(9)

    def fail(_):
        raise EmbeddingError("no answer")

    with pytest.raises(EmbeddingError, match="no answer"):
        cache.decode(numbered(1), None, fail)
    assert len(cache) == 0
    assert cache.stats == CacheStats()


def test_clearing_forgets_answers():
    cache = QueryCache(9)
    cache.decode(numbered(1), None, echo)
    cache.clear()
    cache.decode(numbered(1), None, echo)
    assert cache.stats == CacheStats(hits=0, misses=2)


def test_threads_may_share_it():
    cache = QueryCache(5)

    def ask(seed):
        queries = torch.from_numpy(np.random.default_rng(seed).integers(0, 12, (20, 1))).float()
        assert_same(cache.decode(queries, None, echo), echo(queries))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(ask, range(200)))
    assert cache.stats.hits + cache.stats.misses == 4000
    assert len(cache) == 5


@pytest.mark.parametrize("max_queries", [0, -1])
def test_a_cache_of_nothing_is_refused(max_queries):
    with pytest.raises(ConfigError, match=r"max_queries: .* expected at least 1"):
        QueryCache(max_queries)


def test_a_decoder_answers_as_without_one(tiny_bank, queries):
    plain, cached = PhraseBankDecoder(tiny_bank), PhraseBankDecoder(tiny_bank, cached_queries=20)
    assert plain.cache is None
    for rows in (queries, queries[5:25], queries[[3, 3, 29, 3]], queries[:0]):
        for top_k in (1, 4):
            answer, expected = cached.decode(rows, top_k=top_k), plain.decode(rows, top_k=top_k)
            assert answer.texts == expected.texts
            np.testing.assert_array_equal(answer.phrase_ids, expected.phrase_ids)
            np.testing.assert_allclose(answer.values, expected.values, atol=1e-6)
    assert cached.cache is not None
    assert cached.cache.stats.hits > 0


@pytest.fixture
def learned(tiny_bank, queries):
    """Two decoders of the same parts, reranked and calibrated: without a cache, and with one."""
    torch.manual_seed(0)
    adapter = QueryAdapter(query_dim=16, bank_dim=16)
    reranker = ListwiseReranker(
        query_dim=16, bank_dim=16, num_phrases=200, num_candidates=24, rank_dim=8, hidden_dim=12
    ).eval()
    for parameter in (*adapter.parameters(), *reranker.parameters()):
        torch.nn.init.normal_(parameter.data, std=0.2)
    plain = PhraseBankDecoder(tiny_bank, adapter=adapter, reranker=reranker)
    plain.calibration = calibration_of(plain, queries, right=np.arange(30) % 2 == 0)
    return plain, PhraseBankDecoder(
        tiny_bank,
        adapter=adapter,
        reranker=reranker,
        calibration=plain.calibration,
        cached_queries=40,
    )


def calibration_of(decoder, queries, right):
    found = decoder.candidates(queries, 8)
    similarity = decoder.similarities(queries, found).numpy()
    return Calibration.fit(found.values.numpy(), right, similarity=similarity)


def assert_close(answer, expected):
    assert answer.texts == expected.texts
    np.testing.assert_array_equal(answer.phrase_ids, expected.phrase_ids)
    np.testing.assert_array_equal(answer.abstained, expected.abstained)
    np.testing.assert_allclose(answer.values, expected.values, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(answer.confidence, expected.confidence, atol=1e-5)


def test_a_learned_decoder_answers_as_without_one(learned, queries):
    plain, cached = learned
    threshold = float(np.median(plain.decode(queries).confidence)) + 1e-4
    for rows in (queries[:7], queries, queries[[3, 3, 29, 3]], queries[:0]):
        answer = cached.decode(rows, abstain_below=threshold)
        assert_close(answer, plain.decode(rows, abstain_below=threshold))
    assert cached.cache.stats == CacheStats(hits=11, misses=30)


def replace_calibration(decoder, queries):
    decoder.calibration = calibration_of(decoder, queries, right=np.arange(30) % 3 == 0)


def replace_adapter(decoder, _):
    decoder.adapter = None


def replace_search(decoder, _):
    decoder.search = ExactSearch(decoder.bank)


def train(decoder, _):
    optimizer = torch.optim.AdamW(decoder.reranker.parameters(), lr=0.1)
    for parameter in decoder.reranker.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()


def load(decoder, _):
    decoder.adapter.load_state_dict({k: v * 2 for k, v in decoder.adapter.state_dict().items()})


def convert(decoder, _):
    decoder.reranker.to(torch.bfloat16).to(torch.float32)


@pytest.mark.parametrize(
    "change", [replace_calibration, replace_adapter, replace_search, train, load, convert]
)
def test_no_answer_outlives_the_parts_that_gave_it(learned, queries, change):
    _, cached = learned
    cached.decode(queries)
    change(cached, queries)
    changed = PhraseBankDecoder(
        cached.bank,
        adapter=cached.adapter,
        reranker=cached.reranker,
        calibration=cached.calibration,
    )
    assert_close(cached.decode(queries), changed.decode(queries))
    assert cached.cache.stats == CacheStats(hits=0, misses=60)
    cached.decode(queries)
    assert cached.cache.stats == CacheStats(hits=30, misses=60)


def test_parts_made_in_inference_mode_can_be_cached_for(learned, queries):
    _, cached = learned
    with torch.inference_mode():
        cached.adapter = QueryAdapter(query_dim=16, bank_dim=16)
        cached.decode(queries)
        cached.decode(queries)
    assert cached.cache.stats.hits == 30


def test_a_decoder_checks_queries_first(tiny_bank):
    decoder = PhraseBankDecoder(tiny_bank, cached_queries=4)
    with pytest.raises(EmbeddingError, match="has no direction"):
        decoder.decode(np.full(16, np.nan))
    with pytest.raises(EmbeddingError, match="wrong shape"):
        decoder.decode(np.ones(15))
