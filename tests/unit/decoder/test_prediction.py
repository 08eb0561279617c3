from __future__ import annotations

import numpy as np
import pytest
import torch

from lightweight_decoder.datatypes import NO_ID
from lightweight_decoder.decoder.calibration import Calibration
from lightweight_decoder.decoder.phrase_bank_decoder import PhraseBankDecoder
from lightweight_decoder.decoder.prediction import (
    NUM_VECTORS,
    SEEN,
    phrase_metadata,
    plain_search,
    predict,
    size_metrics,
    speed_metrics,
)
from lightweight_decoder.decoder.splits import Split, no_own_vectors, out_of_bank_split
from lightweight_decoder.errors import InputDataError
from lightweight_decoder.rerank import ListwiseReranker, QueryAdapter

CALIBRATION = Calibration(
    method="temperature",
    num_candidates=150,
    num_similarities=2,
    temperature=0.1,
    weights=(1.0, 0.0, 1.0, 0.5),
    bias=0.0,
)


def learned_decoder(bank, *, query_dim=16, calibration=CALIBRATION):
    torch.manual_seed(0)
    adapter = QueryAdapter(query_dim=query_dim, bank_dim=16)
    torch.nn.init.normal_(adapter.residual.weight, std=0.1)
    reranker = ListwiseReranker(
        query_dim=query_dim, bank_dim=16, num_phrases=bank.num_phrases, num_candidates=20
    ).eval()
    torch.nn.init.normal_(reranker.correction.weight, std=0.5)
    return PhraseBankDecoder(bank, adapter=adapter, reranker=reranker, calibration=calibration)


@pytest.fixture
def split(queries):
    """Thirty queries with one to three right phrases, and four that have none."""
    random = np.random.default_rng(5)
    targets = np.stack([random.choice(200, 3, replace=False) for _ in range(30)])
    targets[::2, 1:] = NO_ID
    own = np.full((30, 1), NO_ID)
    own[3, 0] = 7
    outside = out_of_bank_split("test", queries[:4].numpy() + 1, ["a", "b", "c", "d"])
    return Split(
        name="test",
        queries=queries.numpy(),
        targets=targets,
        own_vectors=own,
        texts=[f"text {row}" for row in range(30)],
        out_of_bank=outside,
    )


def test_predictions_say_what_decoding_and_ranking_say(tiny_bank, split, queries):
    decoder = learned_decoder(tiny_bank)
    predictions = predict(decoder, split, top_k=4, abstain_below=0.3)
    inside = predictions.slice(0, 30)

    hidden = torch.from_numpy(split.own_vectors)
    systems = {"target_ranks": decoder, "baseline_target_ranks": plain_search(decoder)}
    for name, system in systems.items():
        ranks = system.ranks(queries, torch.from_numpy(split.targets), exclude_vectors=hidden)
        expected = [[rank for rank in row if rank > 0] for row in ranks.tolist()]
        assert inside[name].to_pylist() == expected
    assert inside["rank"].to_pylist() == [min(row) for row in inside["target_ranks"].to_pylist()]
    decoded = decoder.decode(queries, top_k=4, abstain_below=0.3)
    others = [row for row in range(30) if row != 3]  # of which one vector is hidden
    for row in others:
        assert inside["phrases"][row].as_py() == decoded.texts[row]
        assert inside["confidence"][row].as_py() == pytest.approx(decoded.confidence[row], abs=1e-4)
        assert inside["abstained"][row].as_py() == decoded.abstained[row]
    texts = [tiny_bank.texts([i for i in row if i != NO_ID]) for row in split.targets]
    assert inside["targets"].to_pylist() == texts


def test_queries_out_of_the_bank_come_last(tiny_bank, split):
    predictions = predict(learned_decoder(tiny_bank), split)

    outside = predictions.slice(30)
    assert predictions["query"].to_pylist() == list(range(34))
    assert outside["in_bank"].to_pylist() == [False] * 4
    assert outside["rank"].to_pylist() == outside["baseline_rank"].to_pylist() == [0] * 4
    assert outside["text"].to_pylist() == ["a", "b", "c", "d"]
    assert outside["targets"].to_pylist() == [[]] * 4
    assert outside["frequency"].null_count == 4


def test_a_split_without_queries_is_refused(tiny_bank):
    nothing = no_own_vectors(0)
    empty = Split("test", np.empty((0, 16), dtype=np.float32), nothing, nothing, [])
    with pytest.raises(InputDataError, match="the split 'test': is missing: expected queries"):
        predict(PhraseBankDecoder(tiny_bank), empty)


def test_an_untrained_decoder_is_its_own_baseline(tiny_bank, split):
    decoder = PhraseBankDecoder(tiny_bank)
    predictions = predict(decoder, split, abstain_below=0.0)

    assert plain_search(decoder) is decoder
    assert predictions["rank"].equals(predictions["baseline_rank"])
    first = [values[0] for values in predictions["values"].to_pylist()]
    assert predictions["baseline_value"].to_pylist() == first
    assert predictions["confidence"].null_count == 34


def test_plain_search_cannot_read_queries_of_another_width(tiny_bank, split):
    decoder = learned_decoder(tiny_bank, query_dim=5, calibration=None)
    narrow = Split(
        name="test",
        queries=split.queries[:, :5],
        targets=split.targets,
        own_vectors=split.own_vectors,
        texts=None,
    )
    predictions = predict(decoder, narrow)

    assert plain_search(decoder) is None
    assert predictions["baseline_rank"].null_count == 30
    assert predictions["text"].null_count == 30


def test_metadata_is_that_of_each_phrase(tiny_bank):
    metadata = phrase_metadata(tiny_bank, np.array([0, 7, NO_ID]), seen=np.array([7]))

    assert metadata == {
        "frequency": [0.0, 49.0, None],
        NUM_VECTORS: [3, 1, None],
        SEEN: [False, True, None],
    }


def test_speed_and_size(tiny_bank, split):
    decoder = learned_decoder(tiny_bank)
    speed, latencies_ms = speed_metrics(decoder, split.queries[:3], top_k=2)
    size = size_metrics(decoder)

    assert speed["latency_p50_ms"] == pytest.approx(np.median(latencies_ms))
    assert speed["queries_per_s"] > 0
    state = {**decoder.adapter.state_dict(), **decoder.reranker.state_dict()}
    assert size["model_bytes"] == sum(4 * tensor.numel() for tensor in state.values())
    files = [path.stat().st_size for path in tiny_bank.path.iterdir() if path.suffix != ".json"]
    assert size["bank_bytes"] == sum(files)
