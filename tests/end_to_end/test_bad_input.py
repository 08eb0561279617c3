"""What each command says about input that it cannot use, and that it leaves nothing behind."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

from lightweight_decoder import PhraseBank, PhraseBankDecoder
from lightweight_decoder.errors import LightweightDecoderError

DIM = 8
TEXTS = ["red", "green", "blue"]


def vectors(num_rows):
    return np.random.default_rng(num_rows).standard_normal((num_rows, DIM)).astype(np.float32)


@pytest.fixture
def work(tmp_path):
    """A folder with a bank, four queries and a table."""
    folder = tmp_path / "work"
    PhraseBank.build(folder / "bank", TEXTS, vectors(3))
    np.save(folder / "q.npy", vectors(4))
    (folder / "t.csv").write_text("text,label\nhello,greeting\n")
    return folder


@pytest.fixture
def refusal(work, command):
    """The message that a command ends with; whatever it began to write is gone."""

    def refusal(name, *overrides):
        before = sorted(work.rglob("*"))
        filled = {"run_dir": work.with_name("run")} if name == "train" else {}
        with pytest.raises(LightweightDecoderError) as refused:
            command(name, *(override.format(work=work) for override in overrides), **filled)
        assert sorted(work.rglob("*")) == before
        return str(refused.value).replace(str(work), "WORK")

    return refusal


DECODE = ["bank={work}/bank", "input={work}/q.npy", "output={work}/out.jsonl"]


@pytest.mark.parametrize(
    ("row", "told"),
    [
        (np.full(DIM, np.nan), "nan"),
        (np.full(DIM, np.inf), "inf"),
        (np.zeros(DIM), "zero"),
    ],
)
def test_a_query_that_points_nowhere(work, row, told, refusal):
    queries = vectors(4)
    queries[2] = row
    np.save(work / "q.npy", queries)

    message = refusal("decode", *DECODE)

    assert "row 2" in message
    assert told in message.lower()


def test_a_vector_that_points_nowhere_joins_no_bank(work, refusal):
    rows = vectors(3)
    rows[1, 0] = np.nan
    np.save(work / "v.npy", rows)
    (work / "p.txt").write_text("a\nb\nc\n")

    message = refusal(
        "build_bank",
        "input={work}/p.txt",
        "vectors={work}/v.npy",
        "output={work}/new",
    )

    assert "row 1" in message


@pytest.mark.parametrize(
    ("name", "overrides", "told"),
    [
        ("decode", ["bank=/no/bank", *DECODE[1:]], "/no/bank"),
        ("decode", ["checkpoint=/no/x.ckpt", *DECODE[1:]], "/no/x.ckpt"),
        ("decode", ["bank={work}/bank"], "text, texts, input"),
        ("decode", DECODE[1:], "bank=DIR or checkpoint=CKPT"),
        ("build_bank", ["input=/no/p.csv", "output={work}/new"], "/no/p.csv"),
        ("train", ["data=pairs", "data.bank={work}/bank"], "data.queries"),
    ],
)
def test_what_is_not_there(work, name, overrides, told, refusal):
    assert told in refusal(name, *overrides)


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("decode", DECODE),
        (
            "build_bank",
            ["input=null", "vectors={work}/q.npy", "output={work}/new"],
        ),
        ("train", ["data=denoise", "data.bank={work}/bank"]),
    ],
)
def test_a_memory_budget_below_what_any_work_takes(work, name, overrides, refusal):
    message = refusal(name, *overrides, "max_memory_gb=0.01")

    assert "max_memory_gb: " in message
    assert "needs at least 0.0312 GiB" in message


def test_no_queries_at_all(work, refusal):
    np.save(work / "q.npy", np.empty((0, DIM), dtype=np.float32))

    assert "WORK/q.npy" in refusal("decode", *DECODE)


@pytest.mark.parametrize("name", ["build_bank", "train"])
@pytest.mark.parametrize(
    ("table", "told"),
    [
        ("", ["file is empty"]),
        ("text,label\n", ["WORK/t.csv"]),
        ("words,label\nhello,greeting\n", ["no column 'text'", "'words', 'label'", "text_column"]),
        ("text,label\nhello,greeting\n ,greeting\n", ["row 1", "empty", "' '"]),
    ],
)
def test_a_table_without_what_it_should_have(work, name, table, told, refusal):
    (work / "t.csv").write_text(table)
    overrides = {
        "build_bank": ["input={work}/t.csv", "output={work}/new"],
        "train": ["data=labelled_text", "data.train={work}/t.csv", "data.bank_root={work}/banks"],
    }[name]

    message = refusal(name, *overrides)

    assert all(part in message for part in ["WORK/t.csv", *told]), message


def test_too_few_rows_to_train_on(work, refusal):
    (work / "t.csv").write_text("text,label\nhello,greeting\nbye,farewell\n")
    message = refusal(
        "train",
        "data=labelled_text",
        "data.train={work}/t.csv",
        "data.bank_root={work}/banks",
    )

    assert "leave nothing to train on" in message


def test_a_target_that_is_not_in_the_bank(work, refusal):
    (work / "targets.txt").write_text("red\ngreen\npurple\nblue\n")

    message = refusal(
        "train",
        "data=pairs",
        "data.queries={work}/q.npy",
        "data.targets={work}/targets.txt",
        "data.bank={work}/bank",
    )

    assert "purple" in message
    assert "row 2" in message


def checkpoint_of(work):
    """A checkpoint of an untrained decoder of the bank."""
    decoder = PhraseBankDecoder(PhraseBank.open(work))
    path = work.parent / "best.ckpt"
    torch.save({"decoder": decoder.recipe(), "state_dict": {}}, path)
    return path


def test_a_checkpoint_from_another_bank(work, refusal):
    path = checkpoint_of(work / "bank")
    PhraseBank.build(work / "other", TEXTS, vectors(5)[:3])

    message = refusal("decode", f"checkpoint={path}", "bank={work}/other", *DECODE[1:])

    assert "trained with another bank" in message
    assert "bank=DIR" in message


def test_a_checkpoint_whose_bank_has_moved(work, refusal, command):
    path = checkpoint_of(work / "bank")
    shutil.move(work / "bank", work / "elsewhere")

    assert "bank=DIR" in refusal("decode", f"checkpoint={path}", *DECODE[1:])
    command(
        "decode",
        f"checkpoint={path}",
        f"bank={work}/elsewhere",
        *(d.format(work=work) for d in DECODE[1:]),
    )
    assert len((work / "out.jsonl").read_text().splitlines()) == 4


@pytest.mark.parametrize("damage", ["cut", "altered"])
def test_a_damaged_bank(work, damage, refusal):
    file = work / "bank" / "vectors.npy"
    content = file.read_bytes()
    file.chmod(0o644)
    file.write_bytes(content[:-4] if damage == "cut" else content[:-1] + b"\x7f")

    assert "WORK/bank/vectors.npy" in refusal("decode", *DECODE)


@pytest.mark.parametrize("name", ["decode", "build_bank"])
def test_an_output_that_cannot_be_written(work, name, refusal):
    (work / "p.txt").write_text("a\nb\nc\nd\n")
    overrides = {
        "decode": [*DECODE[:2], "output=/dev/null/out.jsonl"],
        "build_bank": ["input={work}/p.txt", "vectors={work}/q.npy", "output=/dev/null/bank"],
    }[name]

    assert "/dev/null" in refusal(name, *overrides)
