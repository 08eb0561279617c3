"""Verifying a bank: everything that is wrong is said, and nothing else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lightweight_decoder.bank import PhraseBank, hashed_file, verify_bank
from lightweight_decoder.vectors.preprocessing import Center

SCRIPT = Path(__file__).parents[3] / "scripts" / "verify_bank.py"
BLOCK = 200
FILES = ["vectors.npy", "owners.npy", "phrases.arrow", "preprocessing.safetensors"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A bank of blocks of 200 bytes, with preprocessing."""
    monkeypatch.setattr(hashed_file, "BLOCK_BYTES", BLOCK)
    vectors = np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32)
    texts = [f"phrase {i % 50}" for i in range(60)]
    return PhraseBank.build(tmp_path / "bank", texts, vectors, preprocessing=[Center()]).path


def alter(path, *places):
    with path.open("r+b") as file:
        for place in places:
            file.seek(place)
            (byte,) = file.read(1)
            file.seek(place)
            file.write(bytes([byte ^ 0x40]))


def test_a_right_bank_has_nothing_wrong(folder):
    assert verify_bank(folder) == []


def test_every_altered_block_of_every_file_is_named(folder):
    alter(folder / "vectors.npy", 5, 399, 400)
    alter(folder / "phrases.arrow", 1_000)
    problems = verify_bank(folder)
    assert [(Path(problem.where).name, problem.at) for problem in problems] == [
        ("vectors.npy", "bytes 0 to 199"),
        ("vectors.npy", "bytes 200 to 399"),
        ("vectors.npy", "bytes 400 to 599"),
        ("phrases.arrow", "bytes 1000 to 1199"),
    ]


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_altered_byte_is_found(folder, data):
    path = folder / data.draw(st.sampled_from(FILES))
    place = data.draw(st.integers(0, path.stat().st_size - 1))
    alter(path, place)
    try:
        (problem,) = verify_bank(folder)
        assert problem.where == str(path)
        assert problem.at.startswith(f"bytes {place // BLOCK * BLOCK} to ")
    finally:
        alter(path, place)
    assert verify_bank(folder) == []


def test_missing_cut_and_odd_files_are_all_named(folder):
    (folder / "owners.npy").unlink()
    os.truncate(folder / "vectors.npy", 100)
    (folder / "preprocessing.safetensors").unlink()
    os.mkfifo(folder / "preprocessing.safetensors")
    alter(folder / "phrases.arrow", 0)
    problems = verify_bank(folder)
    assert {(Path(problem.where).name, problem.found) for problem in problems[:3]} == {
        ("owners.npy", "No such file or directory"),
        ("vectors.npy", "100 bytes"),
        ("preprocessing.safetensors", "a pipe, no file"),
    }
    assert [problem.at for problem in problems[3:]] == ["bytes 0 to 199"]


@pytest.mark.parametrize("damage", ["missing", "pipe", "altered", "nowhere"])
def test_without_a_manifest_there_is_one_thing_to_say(folder, damage):
    if damage == "nowhere":
        shutil.rmtree(folder)
    elif damage == "altered":
        alter(folder / "manifest.json", 30)
    else:
        (folder / "manifest.json").unlink()
    if damage == "pipe":
        os.mkfifo(folder / "manifest.json")
    assert len(verify_bank(folder)) == 1


def test_of_rows_that_no_build_writes_the_first_of_each_kind_is_named(bank, reseal):
    vectors = np.load(bank.path / "vectors.npy")
    vectors[[2, 4]] *= 2
    np.save(bank.path / "vectors.npy", vectors)
    np.save(bank.path / "owners.npy", np.array([0, 1, 1, 9, 3, -1, 0]))
    reseal(bank.path)
    assert [(Path(problem.where).name, problem.at) for problem in verify_bank(bank.path)] == [
        ("vectors.npy", "row 2"),
        ("owners.npy", "row 3"),
        ("phrases.arrow", "row 2"),
    ]


def test_an_old_bank_is_verified_file_by_file(tmp_path):
    written = Path(__file__).with_name("banks_of_0_1") / "plain"
    folder = shutil.copytree(written, tmp_path / "bank")
    assert verify_bank(folder) == []
    alter(folder / "vectors.npy", 140)
    (problem,) = verify_bank(folder)
    assert problem.where == str(folder / "vectors.npy")
    assert problem.expected.startswith("sha256")


def test_progress_is_shown_when_asked_for(folder, capsys):
    verify_bank(folder)
    assert capsys.readouterr() == ("", "")
    verify_bank(folder, show_progress=True)
    assert "verifying the bank" in capsys.readouterr().out


def test_the_command_says_all_of_it_and_ends_with_1(folder):
    def run():
        command = [sys.executable, SCRIPT, f"bank={folder}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, done.stderr

    assert run()[0] == 0
    alter(folder / "vectors.npy", 5, 450)
    status, output, errors = run()
    assert (status, errors) == (1, "")
    assert "vectors.npy, bytes 0 to 199" in output
    assert "vectors.npy, bytes 400 to 599" in output
