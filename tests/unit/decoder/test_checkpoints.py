from __future__ import annotations

import math
import os

import numpy as np
import pytest
import torch

from lightweight_decoder.bank import PhraseBank
from lightweight_decoder.decoder.calibration import Calibration
from lightweight_decoder.decoder.checkpoints import read_checkpoint
from lightweight_decoder.decoder.phrase_bank_decoder import PhraseBankDecoder
from lightweight_decoder.errors import CheckpointError
from lightweight_decoder.rerank import ListwiseReranker, QueryAdapter


@pytest.fixture
def trained(tiny_bank, queries):
    """A calibrated decoder whose adapter and reranker have random weights."""
    torch.manual_seed(0)
    adapter = QueryAdapter(query_dim=16, bank_dim=16)
    reranker = ListwiseReranker(
        query_dim=16, bank_dim=16, num_phrases=200, num_candidates=24, rank_dim=8, hidden_dim=12
    ).eval()
    for part in (adapter, reranker):
        for parameter in part.parameters():
            torch.nn.init.normal_(parameter.data, std=0.2)
    decoder = PhraseBankDecoder(tiny_bank, adapter=adapter, reranker=reranker)
    found = decoder.candidates(queries, 8)
    similarity = decoder.similarities(queries, found).numpy()
    right = np.arange(len(queries)) % 2 == 0
    decoder.calibration = Calibration.fit(found.values.numpy(), right, similarity=similarity)
    return decoder


@pytest.fixture
def saved(trained, tmp_path):
    trained.save(tmp_path / "decoder.ckpt")
    return tmp_path / "decoder.ckpt"


def assert_answers_alike(one, other, queries):
    expected, answer = (decoder.decode(queries, top_k=30) for decoder in (one, other))
    assert answer.texts == expected.texts
    np.testing.assert_array_equal(answer.values, expected.values)
    assert answer.kind == expected.kind
    if expected.confidence is not None:
        np.testing.assert_array_equal(answer.confidence, expected.confidence)


def test_a_saved_decoder_answers_the_same(trained, saved, queries):
    assert_answers_alike(trained, PhraseBankDecoder.from_checkpoint(saved), queries)
    assert [path.name for path in saved.parent.iterdir()] == ["decoder.ckpt"]


def test_the_folder_is_made(trained, tmp_path, queries):
    place = tmp_path / "new" / "folder" / "decoder.ckpt"
    trained.save(place)
    assert_answers_alike(trained, PhraseBankDecoder.from_checkpoint(place), queries)


@pytest.mark.parametrize("kept", [(), ("adapter",), ("reranker",), ("calibration",)])
def test_any_parts_can_be_saved(trained, queries, tmp_path, kept):
    for name in {"adapter", "reranker", "calibration"}.difference(kept):
        setattr(trained, name, None)
    if kept == ("calibration",):
        trained.calibration = calibration_of_cosines(trained, queries)
    trained.save(tmp_path / "decoder.ckpt")
    again = PhraseBankDecoder.from_checkpoint(tmp_path / "decoder.ckpt")
    assert_answers_alike(trained, again, queries)


def calibration_of_cosines(decoder, queries):
    found = decoder.candidates(queries, 4)
    return Calibration.fit(found.values.numpy(), np.arange(len(queries)) % 3 == 0)


def test_what_cannot_be_saved_leaves_what_was_there(trained, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(CheckpointError, match=r"file/decoder\.ckpt: the file cannot be written"):
        trained.save(tmp_path / "file" / "decoder.ckpt")
    assert (tmp_path / "file").read_text() == "mine"


def test_half_precision_is_computed_in_float32(saved, trained, queries):
    content = torch.load(saved, weights_only=True)
    for name, weight in content["state_dict"].items():
        content["state_dict"][name] = weight.to(torch.bfloat16)
    torch.save(content, saved)
    for part in (trained.adapter, trained.reranker):
        for tensor in (*part.parameters(), *part.buffers()):
            tensor.data = tensor.data.to(torch.bfloat16).float()
    assert_answers_alike(trained, PhraseBankDecoder.from_checkpoint(saved), queries)


def edited(saved, **changes):
    """Change fields of the recipe, each named by its path."""
    content = torch.load(saved, weights_only=True)
    for path, value in changes.items():
        *parents, last = path.split("__")
        inner = content
        for parent in parents:
            inner = inner[parent]
        inner[last] = value
    torch.save(content, saved)


CYCLE: list[object] = []
CYCLE.append(CYCLE)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"decoder__bank": "somewhere"}, "decoder.bank"),
        ({"decoder__bank__path": 3}, "decoder.bank.path"),
        ({"decoder__bank__fingerprint": "short"}, "decoder.bank.fingerprint"),
        ({"decoder__bank__more": "x"}, "decoder.bank.more"),
        ({"decoder__adapter": []}, "decoder.adapter"),
        ({"decoder__adapter__query_dim": "16"}, "decoder.adapter.query_dim"),
        ({"decoder__adapter__query_dim": 16.5}, "decoder.adapter.query_dim"),
        ({"decoder__adapter__query_dim": True}, "decoder.adapter.query_dim"),
        ({"decoder__adapter__query_dim": 10**40}, "decoder.adapter.query_dim"),
        ({"decoder__adapter__bank_dim": 8}, "decoder.adapter.bank_dim"),
        ({"decoder__reranker__query_dim": 8}, "decoder.reranker.query_dim"),
        ({"decoder__reranker__num_phrases": 9}, "decoder.reranker.num_phrases"),
        ({"decoder__reranker__num_candidates": 0}, "decoder.reranker.num_candidates"),
        ({"decoder__reranker__rank_dim": -1}, "decoder.reranker.rank_dim"),
        ({"decoder__reranker__hidden_dim": 2**30}, "decoder.reranker"),
        ({"decoder__reranker__hidden_dim": 0.5}, "decoder.reranker.hidden_dim"),
        (
            {"decoder__reranker__hidden_dim": 2**31 - 1, "decoder__reranker__rank_dim": 2**31 - 1},
            "decoder.reranker",
        ),
        ({"decoder__reranker__dropout": 1.0}, "decoder.reranker.dropout"),
        ({"decoder__reranker__dropout": math.nan}, "decoder.reranker.dropout"),
        ({"decoder__reranker": {"hidden_dim": 3}}, "decoder.reranker"),
        ({"decoder__tuning": "full"}, "decoder.tuning"),
        ({"decoder__calibration": CYCLE}, "decoder"),
        ({"decoder__calibration": torch.ones(2)}, "decoder"),
        ({"state_dict": 3}, "state_dict"),
        ({"state_dict__adapter.residual.bias": "many"}, "state_dict.adapter.residual.bias"),
        ({"state_dict__adapter.residual.bias": torch.ones(16).int()}, "adapter.residual.bias"),
        ({"state_dict__adapter.residual.bias": torch.ones(8)}, "decoder.adapter"),
        ({"state_dict__adapter.more": torch.ones(8)}, "decoder.adapter"),
        ({"state_dict__adapter.residual.bias": torch.ones(16).to_sparse()}, "residual.bias"),
        (
            {"state_dict__adapter.residual.weight": torch.ones(1).expand(16, 16)},
            "state_dict.adapter.residual.weight",
        ),
        ({"state_dict__reranker.hubness": torch.full((200,), math.nan)}, "reranker.hubness"),
        ({"state_dict__adapter.residual.bias": torch.full((16,), -math.inf)}, "residual.bias"),
    ],
)
def test_a_checkpoint_that_no_decoder_wrote_is_refused_in_one_line(saved, changes, key):
    edited(saved, **changes)
    expected = rf"decoder\.ckpt, key '.*{key}.*': its parts do not fit together"
    with pytest.raises(CheckpointError, match=expected) as raised:
        PhraseBankDecoder.from_checkpoint(saved)
    assert "\n" not in str(raised.value)


def test_a_calibration_that_no_fit_made_is_refused(saved):
    edited(saved, decoder__calibration__weights=[1.0])
    with pytest.raises(CheckpointError, match=r"calibration\.weights: "):
        PhraseBankDecoder.from_checkpoint(saved)


def test_weights_that_are_too_large_give_no_answers(saved, queries):
    content = torch.load(saved, weights_only=True)
    huge = torch.full_like(content["state_dict"]["reranker.correction.weight"], 3e38)
    edited(saved, **{"state_dict__reranker.correction.weight": huge})
    decoder = PhraseBankDecoder.from_checkpoint(saved)
    with pytest.raises(CheckpointError, match="not finite numbers"):
        decoder.decode(queries)


def test_a_bias_beyond_all_bounds_still_gives_a_probability(saved, queries):
    edited(saved, decoder__calibration__bias=1e308)
    confidence = PhraseBankDecoder.from_checkpoint(saved).decode(queries).confidence
    assert (confidence == 1).all()


@pytest.mark.parametrize("path", ["/no/such/bank", "\0", "a" * 5_000, None])
def test_a_bank_that_is_nowhere_has_to_be_named(saved, tiny_bank, path):
    edited(saved, decoder__bank__path=path)
    with pytest.raises(CheckpointError, match=r"has moved.*bank=DIR"):
        PhraseBankDecoder.from_checkpoint(saved)
    assert PhraseBankDecoder.from_checkpoint(saved, bank=tiny_bank).bank is tiny_bank


def test_a_decoder_over_a_bank_in_memory_is_given_that_bank_again(tmp_path, queries):
    vectors = np.random.default_rng(0).standard_normal((20, 16))
    bank = PhraseBank.from_texts([f"phrase {i}" for i in range(20)], vectors)
    PhraseBankDecoder(bank, adapter=QueryAdapter(query_dim=16, bank_dim=16)).save(tmp_path / "c")
    with pytest.raises(CheckpointError, match="a bank that lived in memory"):
        PhraseBankDecoder.from_checkpoint(tmp_path / "c")
    for place in (bank, bank.save(tmp_path / "bank"), tmp_path / "bank"):
        decoder = PhraseBankDecoder.from_checkpoint(tmp_path / "c", bank=place)
        assert decoder.decode(queries).texts == PhraseBankDecoder(bank).decode(queries).texts


def test_a_pipe_is_no_checkpoint(tmp_path):
    os.mkfifo(tmp_path / "pipe.ckpt")
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        read_checkpoint(tmp_path / "pipe.ckpt")
