"""`scripts/calibrate.py`, and decoding with what it writes."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from lightweight_decoder import PhraseBankDecoder
from lightweight_decoder.bank import PhraseBank
from lightweight_decoder.errors import ConfigError, EmbeddingError, InputDataError
from lightweight_decoder.rerank import QueryAdapter


@pytest.fixture
def work(tmp_path):
    """A bank of sixty phrases, queries near them, and queries near none."""
    random = np.random.default_rng(0)
    vectors = random.standard_normal((60, 16)).astype(np.float32)
    PhraseBank.build(tmp_path / "bank", [f"phrase {i}" for i in range(60)], vectors)
    targets = random.integers(60, size=400)
    queries = vectors[targets] + 1.2 * random.standard_normal((400, 16)).astype(np.float32)
    np.save(tmp_path / "q.npy", queries)
    np.save(tmp_path / "o.npy", random.standard_normal((200, 16)).astype(np.float32))
    (tmp_path / "t.txt").write_text("".join(f"phrase {i}\n" for i in targets))
    return tmp_path


@pytest.fixture
def calibrate(command):
    def calibrate(work, *overrides):
        command(
            "calibrate",
            f"bank={work}/bank",
            f"queries={work}/q.npy",
            f"targets={work}/t.txt",
            f"output={work}/decoder.ckpt",
            *overrides,
        )
        return PhraseBankDecoder.from_checkpoint(work / "decoder.ckpt")

    return calibrate


@pytest.fixture
def decoded_lines(command):
    def decoded_lines(work, *overrides):
        command(
            "decode",
            f"checkpoint={work}/decoder.ckpt",
            f"input={work}/q.npy",
            f"output={work}/out.jsonl",
            *overrides,
        )
        return [json.loads(line) for line in (work / "out.jsonl").read_text().splitlines()]

    return decoded_lines


@pytest.mark.parametrize("method", ["temperature", "isotonic"])
def test_plain_search_is_calibrated_and_decodes(work, capsys, method, calibrate, decoded_lines):
    calibrate(work, f"calibration.method={method}")
    targets = (work / "t.txt").read_text().splitlines()

    lines = decoded_lines(work, "target_precision=0.9")

    right = np.array([line["phrases"][0] == t for line, t in zip(lines, targets, strict=True)])
    answered = np.array([line["text"] is not None for line in lines])
    confidence = np.array([line["confidence"] for line in lines])
    assert right[answered].mean() >= 0.9
    assert 0.2 < answered.mean() < 1
    assert confidence.mean() == pytest.approx(right.mean(), abs=0.02)
    assert "precision" in capsys.readouterr().out
    half = decoded_lines(work, "target_coverage=0.5")
    assert 200 <= sum(line["text"] is not None for line in half) < 240  # ties go together


def test_out_of_bank_queries_are_mistrusted(work, calibrate):
    outside = np.load(work / "o.npy")
    without = calibrate(work).decode(outside).confidence
    hidden = calibrate(work, "calibration.out_of_bank_share=0.5").decode(outside).confidence
    shown = calibrate(
        work, f"out_of_bank={work}/o.npy", "calibration.out_of_bank_share=0.5"
    ).decode(outside)

    assert hidden.mean() < without.mean()
    assert shown.confidence.mean() < without.mean()


def test_a_checkpoint_keeps_what_it_learned(work, calibrate):
    torch.manual_seed(0)
    decoder = calibrate(work)
    decoder.adapter = QueryAdapter(query_dim=16, bank_dim=16)
    torch.nn.init.normal_(decoder.adapter.residual.weight, std=0.05)
    weights = {f"adapter.{name}": w for name, w in decoder.adapter.state_dict().items()}
    decoder.calibration = None
    torch.save({"decoder": decoder.recipe(), "state_dict": weights}, work / "trained.ckpt")

    again = calibrate(work, f"checkpoint={work}/trained.ckpt", f"output={work}/decoder.ckpt")

    assert again.calibration is not None
    queries = np.load(work / "q.npy")
    np.testing.assert_array_equal(
        again.decode(queries).phrase_ids, decoder.decode(queries).phrase_ids
    )


def test_a_folder_gets_a_file(work, command, calibrate):
    calibrate(work)
    command(
        "calibrate",
        f"bank={work}/bank",
        f"queries={work}/q.npy",
        f"targets={work}/t.txt",
        f"output={work}/some/folder",
    )
    assert (work / "some" / "folder" / "calibrated.ckpt").is_file()


def test_queries_that_are_all_right_teach_nothing(work, calibrate):
    bank = np.load(work / "bank" / "vectors.npy")
    np.save(work / "q.npy", bank)
    (work / "t.txt").write_text("".join(f"phrase {i}\n" for i in range(60)))

    with pytest.raises(InputDataError, match="the calibration split has one class"):
        calibrate(work)
    assert not (work / "decoder.ckpt").exists()


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        (["out_of_bank={work}/o.npy"], ConfigError, r"share of such queries in use, above 0"),
        (
            ["out_of_bank={work}/w.npy", "calibration.out_of_bank_share=0.1"],
            EmbeddingError,
            "w.npy",
        ),
        (["queries={work}/o.npy"], InputDataError, "expected 400 rows"),
        (
            ["calibration.out_of_bank_share=1"],
            ConfigError,
            "out_of_bank_share: expected less than 1",
        ),
        (["calibration.method=platt"], ConfigError, r"calibration\.method"),
        (["targets={work}/none.txt"], InputDataError, "none.txt"),
        (["bank=null"], ConfigError, "bank=DIR or checkpoint=CKPT"),
    ],
)
def test_what_cannot_be_calibrated_is_named(work, overrides, error, message, calibrate):
    np.save(work / "w.npy", np.ones((3, 5), np.float32))

    with pytest.raises(error, match=message):
        calibrate(work, *(override.format(work=work) for override in overrides))
    assert not (work / "decoder.ckpt").exists()


def test_one_way_to_abstain_at_a_time(work, command, calibrate, decoded_lines):
    calibrate(work)

    with pytest.raises(ConfigError, match="target_precision, target_coverage: only one"):
        decoded_lines(work, "target_precision=0.9", "target_coverage=0.9")
    with pytest.raises(ConfigError, match="target_precision: needs a calibrated decoder"):
        command(
            "decode",
            f"bank={work}/bank",
            f"input={work}/q.npy",
            f"output={work}/out.jsonl",
            "target_precision=0.9",
        )
