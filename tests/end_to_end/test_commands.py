"""The commands as people type them, on data small enough for a test."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from lightweight_decoder import PhraseBank
from lightweight_decoder.accelerator import resolve_accelerator
from lightweight_decoder.commands.build_bank import build_bank
from lightweight_decoder.commands.decode import decode_file
from lightweight_decoder.commands.evaluate import evaluate_run
from lightweight_decoder.commands.train import TRAINER, train
from lightweight_decoder.decoder.splits import SPLIT_NAMES
from lightweight_decoder.errors import ConfigError
from lightweight_decoder.rerank import PhraseClassifier
from lightweight_decoder.search import FaissSearch
from lightweight_decoder.training.module import DecoderModule
from lightweight_decoder.training.sources.denoise import Denoise
from lightweight_decoder.training.sources.labelled_text import LabelledText
from lightweight_decoder.training.sources.pairs import Pairs

ROOT = Path(__file__).resolve().parents[2]
NUM_PHRASES, DIM = 60, 16


def test_a_run_leaves_its_record(trained):
    metrics = json.loads((trained / "metrics.json").read_text())
    plan = json.loads((trained / "accelerator.json").read_text())

    for system in ("baseline", "decoder"):
        for name in ("recall@1", "recall@10", "recall@100", "mrr", "median_rank"):
            assert metrics[f"test/{system}/{name}"] >= 0
        assert metrics[f"test/{system}/num_queries"] == 64
    assert plan["accelerator"] == "cpu"
    checkpoint = torch.load(trained / "checkpoints" / "best.ckpt", weights_only=True)
    assert checkpoint["accelerator_plan"] == plan
    assert (trained / "csv" / "metrics.csv").is_file()
    assert (trained / "train.log").is_file()


def test_python_and_the_command_line_train_the_same(work, trained, tmp_path):
    sizes = {f"num_{split}": 64 for split in ("val", "calib", "test")}
    done = train(
        data=partial(Denoise, bank=str(work / "bank"), noise=2, num_train=512.0, **sizes),
        run_dir=str(tmp_path / "run"),
        trainer=partial(TRAINER, max_epochs=2, enable_progress_bar=False),
        accelerator=partial(resolve_accelerator, "cpu"),
    )

    assert done.run_dir == tmp_path / "run"
    assert done.metrics == json.loads((trained / "metrics.json").read_text())
    typed, called = ((run / "config.yaml").read_text() for run in (trained, done.run_dir))
    assert typed.partition("\nlogger:")[0] == called.partition("\nlogger:")[0]
    evaluated = evaluate_run(str(done.run_dir), accelerator=partial(resolve_accelerator, "cpu"))
    assert {name: evaluated[name] for name in done.metrics} == pytest.approx(done.metrics)


def nearest(work, queries, top_k):
    """What numpy finds: (q, top_k) rows and cosines."""
    bank = np.load(work / "vectors.npy")
    cosines = (queries / np.linalg.norm(queries, axis=1, keepdims=True)) @ (
        bank / np.linalg.norm(bank, axis=1, keepdims=True)
    ).T
    rows = np.argsort(-cosines, axis=1)[:, :top_k]
    return rows, np.take_along_axis(cosines, rows, axis=1)


def answers(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_decoding_a_file_gives_what_numpy_finds(work, tmp_path, run):
    queries = np.random.default_rng(1).standard_normal((7, DIM)).astype(np.float32)
    np.save(tmp_path / "q.npy", queries)
    status, output = run(
        work,
        "scripts/decode.py",
        f"bank={work}/bank",
        f"input={tmp_path}/q.npy",
        f"output={tmp_path}/out.jsonl",
        "top_k=3",
        "trainer.accelerator=cpu",
    )

    assert status == 0, output
    rows, cosines = nearest(work, queries, 3)
    lines = answers(tmp_path / "out.jsonl")
    assert [line["query"] for line in lines] == list(range(7))
    assert [line["phrases"] for line in lines] == [[f"phrase {i}" for i in row] for row in rows]
    np.testing.assert_allclose([line["values"] for line in lines], cosines, atol=1e-5)
    assert {line["confidence"] for line in lines} == {None}


@pytest.mark.parametrize("search", [FaissSearch, lambda bank: FaissSearch(bank, factory="Flat")])
def test_python_decodes_with_a_search_of_its_choice(work, tmp_path, search):
    count = decode_file(
        bank=str(work / "bank"),
        input=work / "vectors.npy",
        output=str(tmp_path / "o.jsonl"),
        top_k="2",
        search=search,
        accelerator=partial(resolve_accelerator, "cpu"),
    )

    assert count == NUM_PHRASES
    lines = answers(tmp_path / "o.jsonl")
    assert [line["text"] for line in lines] == [f"phrase {i}" for i in range(NUM_PHRASES)]
    assert {len(line["phrases"]) for line in lines} == {2}


def test_python_builds_the_same_bank(work, tmp_path):
    report = build_bank(
        input=str(work / "phrases.csv"),
        vectors=str(work / "vectors.npy"),
        output=str(tmp_path / "bank"),
        metadata_columns=("frequency",),
    )

    assert (report.num_phrases, report.num_vectors, report.dim) == (NUM_PHRASES, NUM_PHRASES, DIM)
    made, known = (folder / "bank" / "manifest.json" for folder in (tmp_path, work))
    assert json.loads(made.read_text()) == json.loads(known.read_text())


def test_repeated_queries_are_answered_from_the_cache(work, tmp_path, command, caplog):
    caplog.set_level("INFO")
    rows = [4, 9, 4, 4, 9, 1, 4, 9]
    np.save(tmp_path / "q.npy", np.load(work / "vectors.npy")[rows])
    command(
        "decode",
        f"bank={work}/bank",
        f"input={tmp_path}/q.npy",
        f"output={tmp_path}/out.jsonl",
        "cached_queries=2",
    )

    assert "62.5% of the queries were answered from the cache" in caplog.text
    assert [line["text"] for line in answers(tmp_path / "out.jsonl")] == [
        f"phrase {row}" for row in rows
    ]


def test_decoding_with_a_checkpoint(work, trained, tmp_path, command):
    command(
        "decode",
        f"checkpoint={trained}/checkpoints/best.ckpt",
        f"input={work}/vectors.npy",
        f"output={tmp_path}/out.jsonl",
    )

    lines = answers(tmp_path / "out.jsonl")
    right = [line["text"] == f"phrase {row}" for row, line in enumerate(lines)]
    assert np.mean(right) > 0.9
    assert all(0 <= line["confidence"] <= 1 for line in lines)


def test_queries_of_another_width(work, tmp_path, command):
    bank = np.load(work / "vectors.npy")
    wide = bank.repeat(4, axis=0) @ np.random.default_rng(2).standard_normal((DIM, 24))
    np.save(tmp_path / "q.npy", wide.astype(np.float32))
    targets = [f"phrase {i}" for i in range(NUM_PHRASES) for _ in range(4)]
    (tmp_path / "t.txt").write_text("\n".join(targets) + "\n")
    done = command(
        "train",
        "data=pairs",
        f"data.queries={tmp_path}/q.npy",
        f"data.targets={tmp_path}/t.txt",
        f"data.bank={work}/bank",
        "trainer.max_epochs=2",
        "trainer.enable_progress_bar=false",
        run_dir=tmp_path / "run",
    )

    assert done.metrics["test/decoder/recall@10"] > 0.9  # a linear map undoes what was done
    assert "test/baseline/recall@1" not in done.metrics


class CountingEncoder:
    """Vectors of a text's letters; knows which texts it was asked for."""

    name, fingerprint, dim = "counting", "c" * 64, 26
    asked = Counter()  # noqa: RUF012 - side and text, of all that are made

    def encode_queries(self, texts):
        return self._encode("query", texts)

    def encode_phrases(self, texts):
        return self._encode("phrase", texts)

    def _encode(self, side, texts):
        self.asked.update((side, text) for text in texts)
        letters = [[text.count(chr(97 + i)) + 0.1 * i for i in range(26)] for text in texts]
        return np.array(letters, dtype=np.float32)


def test_one_training_opens_one_bank_and_makes_one_encoder(tmp_path, monkeypatch):
    rows = [f"{word} {i},{word}" for i in range(10) for word in ("card", "rate", "cash")]
    (tmp_path / "t.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    sources = []
    monkeypatch.setattr(CountingEncoder, "asked", Counter())

    def source(encoder):
        sources.append(LabelledText(encoder=encoder, train=tmp_path / "t.csv", bank_root=tmp_path))
        return sources[-1]

    train(
        data=source,
        run_dir=tmp_path / "run",
        embeddings=CountingEncoder,
        trainer=partial(TRAINER, max_epochs=1, enable_progress_bar=False),
        accelerator=partial(resolve_accelerator, "cpu"),
    )

    assert len(sources) == 1
    texts, labels = {row.split(",")[0] for row in rows}, {"card", "rate", "cash"}
    in_bank = {text for side, text in CountingEncoder.asked if side == "phrase"}
    assert {text for _, text in CountingEncoder.asked} == texts | labels
    assert labels < in_bank
    assert set(CountingEncoder.asked.values()) == {1}  # each text once for each side


def test_what_only_steps_use_is_told_where_none_are_taken(tmp_path, caplog):
    rows = [f"{word} {i},{word}" for i in range(10) for word in ("card", "rate", "cash")]
    (tmp_path / "t.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    fit = partial(
        train,
        data=partial(LabelledText, train=tmp_path / "t.csv", bank_root=tmp_path),
        run_dir=tmp_path / "run",
        embeddings=CountingEncoder,
        adapter=None,
        reranker=PhraseClassifier,
        accelerator=partial(resolve_accelerator, "cpu"),
    )

    fit(training=partial(DecoderModule, lr=0.5))

    assert "training.lr is not used" in caplog.text
    with pytest.raises(ConfigError, match=r"^ckpt_path: .*nothing is trained in steps"):
        fit(ckpt_path=tmp_path / "run/checkpoints/best.ckpt")


@pytest.mark.slow
def test_a_sweep_gives_each_job_a_folder_and_a_finished_tracker_run(work, tmp_path, run):
    status, output = run(
        work,
        "train.py",
        "-m",
        "seed=0,1",
        "data=denoise",
        f"data.bank={work}/bank",
        f"hydra.sweep.dir={tmp_path}/sweep",
        "logger=wandb",
        "trainer.accelerator=cpu",
        "trainer.max_epochs=1",
        "trainer.enable_progress_bar=false",
        "data.num_train=512",
    )

    assert status == 0, output
    assert output.count("wandb sync") == 2
    for job in ("0", "1"):
        assert (tmp_path / "sweep" / job / "metrics.json").is_file()
        assert len(list((tmp_path / "sweep" / job / "wandb").glob("offline-run-*/*.wandb"))) == 1


@pytest.mark.slow
def test_a_sentence_is_decoded_with_the_banks_own_encoder(tmp_path, run, command):
    rows = [
        f"{text} {i},{label}"
        for i in range(10)
        for text, label in (
            ("where is my card", "card_arrival"),
            ("the rate is wrong", "exchange_rate"),
        )
    ]
    (tmp_path / "train.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    command(
        "train",
        "data=labelled_text",
        f"data.train={tmp_path}/train.csv",
        f"data.bank_root={tmp_path}/banks",
        "trainer.max_epochs=2",
        "trainer.enable_progress_bar=false",
        run_dir=tmp_path / "run",
    )
    status, output = run(
        tmp_path,
        "scripts/decode.py",
        f"checkpoint={tmp_path}/run/checkpoints/best.ckpt",
        'text=when will my card come, it\'s 2024.10 (late) & "lost"; [why=${no}]?',
        "trainer.accelerator=cpu",
    )

    assert status == 0, output
    assert 'when will my card come, it\'s 2024.10 (late) & "lost"; [why=${no}]?' in " ".join(
        output.split()
    )
    assert output.index("card_arrival") < output.index("exchange_rate")
    assert "Loading weights" not in output


@pytest.fixture(scope="module")
def spoken(tmp_path_factory, command):
    """A bank of phrases that were encoded."""
    folder = tmp_path_factory.mktemp("spoken")
    phrases = ["a wide road", "a small dog", "boiled water", "to run fast", "red paint"]
    (folder / "p.txt").write_text("\n".join(phrases) + "\n")
    command("build_bank", f"input={folder}/p.txt", f"output={folder}/bank")
    return folder


def assert_alike(found, expected):
    """The same answers; an encoder's last bits depend on how many threads and texts it has."""
    for one, other in zip(found, expected, strict=True):
        assert one.pop("values") == pytest.approx(other["values"], abs=2e-6)
        assert one == {key: value for key, value in other.items() if key != "values"}


@pytest.mark.slow
def test_texts_of_a_file_a_table_and_standard_input_are_answered_alike(
    spoken, tmp_path, command, run, environment
):
    asked = ["a puppy", "it's scarlet, (paint) [x]", "a highway"]
    (tmp_path / "t.txt").write_text("\n".join(asked) + "\n")
    with (tmp_path / "t.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["id", "query"], *enumerate(asked)])
    count = command(
        "decode", f"bank={spoken}/bank", f"texts={tmp_path}/t.txt", f"output={tmp_path}/o.jsonl"
    )

    lines = answers(tmp_path / "o.jsonl")
    assert count == 3
    assert [line["text"] for line in lines] == ["a small dog", "red paint", "a wide road"]
    command(
        "decode",
        f"bank={spoken}/bank",
        f"texts={tmp_path}/t.csv",
        "text_column=query",
        f"output={tmp_path}/table.jsonl",
    )
    assert_alike(answers(tmp_path / "table.jsonl"), lines)
    done = subprocess.run(
        [sys.executable, "scripts/decode.py", f"bank={spoken}/bank", "texts=-", "output=-"],
        input=(tmp_path / "t.txt").read_text(),
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env=environment(tmp_path),
    )
    assert_alike([json.loads(line) for line in done.stdout.splitlines()], lines)
    assert "-: 3 queries" in done.stderr
    command("decode", f"bank={spoken}/bank", "text=a puppy", f"output={tmp_path}/one.jsonl")
    assert_alike(answers(tmp_path / "one.jsonl"), lines[:1])


def test_vectors_come_from_standard_input_too(work, tmp_path, environment):
    npy = io.BytesIO()
    np.save(npy, np.load(work / "vectors.npy")[[7, 3]])
    done = subprocess.run(
        [
            sys.executable,
            "scripts/decode.py",
            f"bank={work}/bank",
            "input=-",
            "output=-",
            "top_k=1",
        ],
        input=npy.getvalue(),
        capture_output=True,
        check=True,
        cwd=ROOT,
        env=environment(tmp_path),
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["text"] for line in lines] == ["phrase 7", "phrase 3"]
    assert [line["query"] for line in lines] == [0, 1]


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["text=a", "input=q.npy"], "text, texts, input: .* found text and input"),
        (["texts=t.txt", "input=q.npy", "output=o"], "found texts and input"),
        ([], "found none of them"),
        (["texts=t.txt"], "output: no value was given"),
        (["text=a", "key=x"], "key: .* expected input=FILE beside it, found 'x'"),
        (["texts=t.txt", "vector_column=x", "output=o"], "vector_column: .* input=FILE beside it"),
        (["input=q.npy", "text_column=x", "output=o"], "text_column: .* texts=FILE beside it"),
        (["text= "], "text: nothing to decode"),
    ],
)
def test_what_would_not_be_used_is_refused(work, command, overrides, told):
    with pytest.raises(ConfigError, match=told):
        command("decode", f"bank={work}/bank", *overrides)


def test_arrays_and_columns_are_named(work, tmp_path, command):
    vectors = np.load(work / "vectors.npy")
    np.savez(tmp_path / "two.npz", train=vectors, asked=vectors[::-1])
    columns = {"a": vectors.tolist(), "b": vectors[::-1].tolist()}
    texts = [f"phrase {i}" for i in range(NUM_PHRASES)]
    more = {
        "answer": texts,
        "text": texts[::-1],
        "topic": [f"t{i % 3}" for i in range(NUM_PHRASES)],
    }
    pq.write_table(pa.table(columns | more), tmp_path / "two.parquet")

    command(
        "build_bank",
        "input=null",
        f"vectors={tmp_path}/two.parquet",
        "vector_column=a",
        "text_column=answer",
        "metadata_columns=[topic]",
        f"output={tmp_path}/bank",
    )
    bank = PhraseBank.open(tmp_path / "bank")
    assert bank.texts(np.arange(NUM_PHRASES)) == texts
    assert bank.column("topic").tolist() == more["topic"]
    np.testing.assert_allclose(
        bank.vectors, vectors / np.linalg.norm(vectors, axis=1, keepdims=True), rtol=1e-6
    )
    for file, option in (("two.npz", "key=asked"), ("two.parquet", "vector_column=b")):
        paths = (f"input={tmp_path}/{file}", f"output={tmp_path}/o.jsonl")
        command("decode", f"bank={work}/bank", *paths, option)
        found = [line["text"] for line in answers(tmp_path / "o.jsonl")]
        assert found == texts[::-1]
    (tmp_path / "t.txt").write_text("\n".join(texts[::-1]) + "\n")
    command(
        "build_bank",
        f"input={tmp_path}/t.txt",
        f"vectors={tmp_path}/two.npz",
        "key=asked",
        f"output={tmp_path}/same",
    )
    assert PhraseBank.open(tmp_path / "same").vectors.shape == vectors.shape
    again = Pairs(
        queries=tmp_path / "two.npz",
        key="train",
        targets=work / "phrases.csv",
        bank=work / "bank",
    )
    np.testing.assert_array_equal(
        np.sort(np.concatenate([again.split(n).targets[:, 0] for n in SPLIT_NAMES])),
        np.arange(NUM_PHRASES),
    )
    for name in SPLIT_NAMES:
        split = again.split(name)
        np.testing.assert_array_equal(split.queries, vectors[split.targets[:, 0]])


@pytest.mark.parametrize(
    ("columns", "found"), [("[text]", "'text'"), ("[frequency,frequency]", "'frequency'")]
)
def test_metadata_columns_that_could_not_be_told_apart(work, tmp_path, command, columns, found):
    paths = (f"input={work}/phrases.csv", f"vectors={work}/vectors.npy", f"output={tmp_path}/b")
    with pytest.raises(ConfigError, match=f"metadata_columns: .*found {found}"):
        command("build_bank", *paths, f"metadata_columns={columns}")
    assert not (tmp_path / "b").exists()
