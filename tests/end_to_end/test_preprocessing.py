"""A bank with preprocessing through every command that meets it."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lightweight_decoder import PhraseBank, PhraseBankDecoder
from lightweight_decoder.errors import ConfigError, EmbeddingError, LightweightDecoderError

NUM_PHRASES, DIM, REDUCED = 120, 16, 10
STEPS = f"preprocessing=[l2,center,{{clip:{{quantile:0.005}}}},{{pca:{{dim:{REDUCED}}}}}]"


@pytest.fixture
def build(command):
    def build(work, *overrides):
        command(
            "build_bank",
            f"input={work}/phrases.txt",
            f"vectors={work}/vectors.npy",
            f"output={work}/bank",
            *overrides,
        )
        return PhraseBank.open(work / "bank")

    return build


@pytest.fixture
def work(tmp_path):
    """Phrases, their vectors, and queries near them with what is right."""
    random = np.random.default_rng(0)
    vectors = random.standard_normal((NUM_PHRASES, DIM)).astype(np.float32) + 2
    np.save(tmp_path / "vectors.npy", vectors)
    (tmp_path / "phrases.txt").write_text("".join(f"phrase {i}\n" for i in range(NUM_PHRASES)))
    targets = random.integers(NUM_PHRASES, size=300)
    noise = random.standard_normal((300, DIM)).astype(np.float32)
    np.save(tmp_path / "q.npy", vectors[targets] + 0.7 * noise)
    (tmp_path / "t.txt").write_text("".join(f"phrase {i}\n" for i in targets))
    return tmp_path


@pytest.fixture
def first_phrases(command):
    def first_phrases(work, *overrides):
        command("decode", f"input={work}/q.npy", f"output={work}/out.jsonl", *overrides)
        lines = (work / "out.jsonl").read_text().splitlines()
        return [json.loads(line)["phrases"][0] for line in lines]

    return first_phrases


@pytest.mark.slow
def test_built_decoded_and_calibrated(work, command, build, first_phrases):
    bank = build(work, STEPS)
    assert (bank.input_dim, bank.dim) == (DIM, REDUCED)
    targets = (work / "t.txt").read_text().splitlines()
    found = first_phrases(work, f"bank={work}/bank")
    assert np.mean([a == b for a, b in zip(found, targets, strict=True)]) > 0.5

    command(
        "calibrate",
        f"bank={work}/bank",
        f"queries={work}/q.npy",
        f"targets={work}/t.txt",
        f"output={work}/decoder.ckpt",
    )

    assert first_phrases(work, f"checkpoint={work}/decoder.ckpt") == found
    np.save(work / "q.npy", np.ones((300, REDUCED)))
    with pytest.raises(EmbeddingError, match=r"q\.npy: .*expected \(q, 16\), found \(300, 10\)"):
        command(
            "calibrate",
            f"bank={work}/bank",
            f"queries={work}/q.npy",
            f"targets={work}/t.txt",
            f"output={work}/other.ckpt",
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    "data",
    [
        ["data=pairs", "data.queries={}/q.npy", "data.targets={}/t.txt"],
        ["data=denoise"],
    ],
)
def test_trained_evaluated_and_decoded(work, data, run, build, first_phrases):
    build(work, STEPS)
    sizes = ["data.num_train=256", *(f"data.num_{name}=64" for name in ("val", "calib", "test"))]
    status, output = run(
        work,
        "train.py",
        "trainer.accelerator=cpu",
        *(override.format(work) for override in data),
        f"data.bank={work}/bank",
        f"hydra.run.dir={work}/run",
        "trainer.max_epochs=1",
        "trainer.enable_progress_bar=false",
        *(sizes if data == ["data=denoise"] else []),
    )
    assert status == 0, output
    trained = json.loads((work / "run" / "metrics.json").read_text())
    evaluating = ("scripts/evaluate.py", f"run_dir={work}/run", "trainer.accelerator=cpu")
    status, output = run(work, *evaluating)
    assert status == 0, output
    evaluated = json.loads((work / "run" / "metrics.json").read_text())
    for system in ("baseline", "decoder"):
        key = f"test/{system}/mrr"
        assert evaluated[key] == pytest.approx(trained[key], abs=1e-6)
    checkpoint = work / "run" / "checkpoints" / "best.ckpt"
    decoder = PhraseBankDecoder.from_checkpoint(checkpoint)
    assert (decoder.input_dim, decoder.query_dim) == (DIM, REDUCED)
    answer = decoder.decode(np.load(work / "q.npy"), top_k=1)
    assert first_phrases(work, f"checkpoint={checkpoint}") == [text for (text,) in answer.texts]


@pytest.mark.slow
def test_encoded_texts_are_preprocessed_and_so_is_a_sentence(
    tmp_path, capsys, monkeypatch, command
):
    monkeypatch.setenv("LIGHTWEIGHT_DECODER_CACHE", str(tmp_path / "cache"))
    words = ["a wide road", "a small dog", "boiled water", "to run fast", "red paint", "old wine"]
    (tmp_path / "t.txt").write_text("\n".join(words))
    command(
        "build_bank",
        f"input={tmp_path}/t.txt",
        f"output={tmp_path}/bank",
        "preprocessing=[center,{pca:{dim:3}}]",
    )
    assert PhraseBank.open(tmp_path / "bank").input_dim == 384
    capsys.readouterr()
    command("decode", f"bank={tmp_path}/bank", "text=a puppy", "top_k=2")
    assert "a small dog" in capsys.readouterr().out


def test_float16_vectors_that_change_are_stored_as_float32(work, build):
    np.save(work / "vectors.npy", np.load(work / "vectors.npy").astype(np.float16))
    assert build(work, STEPS).manifest.dtype == "float32"
    assert build(work, "overwrite=true").manifest.dtype == "float16"


def test_bad_rows_are_left_out_of_sample_and_bank(work, build):
    vectors = np.load(work / "vectors.npy")
    vectors[5], vectors[9] = np.nan, 0
    np.save(work / "vectors.npy", vectors)
    with pytest.raises(LightweightDecoderError, match="row 5"):
        build(work, STEPS)
    assert build(work, STEPS, "on_bad_row=drop").num_vectors == NUM_PHRASES - 2


@pytest.mark.parametrize(
    ("steps", "told"),
    [
        ("[l3]", r"preprocessing\[0\]: there is no such step: expected l2, .*found l3"),
        ("[l2,{pca:{dims:3}}]", r"preprocessing\[1\]\.pca\.dims: .*option of pca: dim, whiten"),
        ("[{l2:{dim:3}}]", r"preprocessing\[0\]\.l2\.dim: .*there are none"),
        ("[{pca:{dim:many}}]", r"preprocessing\[0\]\.pca\.dim: .*integer, found 'many'"),
        ("[{pca:{dim:0}}]", r"preprocessing\[0\]\.pca\.dim: .*at least 1, found 0"),
        ("[center,{pca:{dim:17}}]", r"preprocessing\[1\]\.pca\.dim: .*at most 16 .*found 17"),
        ("[{pca:8}]", r"preprocessing\[0\]\.pca: .*found 8"),
        ("[{pca:{},l2:{}}]", r"preprocessing\[0\]: there is no such step"),
        ("[{clip:{quantile:0.7}}]", r"preprocessing\[0\]\.clip\.quantile: .*below 0.5, found 0.7"),
        ("[[l2]]", "preprocessing: expected"),
        ("l2", r"preprocessing: expected a list, .*found 'l2'"),
        ("[null]", "preprocessing: expected"),
    ],
)
def test_what_is_typed_wrong_is_named_and_leaves_nothing(work, steps, told, build):
    before = sorted(work.rglob("*"))
    with pytest.raises(ConfigError, match=told):
        build(work, f"preprocessing={steps}")
    assert sorted(work.rglob("*")) == before


def test_a_constant_column_is_not_whitened(work, build):
    vectors = np.load(work / "vectors.npy")
    vectors[:, 3] = 1
    np.save(work / "vectors.npy", vectors)
    with pytest.raises(ConfigError, match=r"expected at most 15, to be whitened, found 16"):
        build(work, "preprocessing=[{pca:{whiten:true}}]")
