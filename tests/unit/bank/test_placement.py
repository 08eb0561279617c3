"""Putting a bank in its place: a whole one is there at every moment, and nothing else is lost."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from lightweight_decoder.bank import PhraseBank, placement, refuse_output_over
from lightweight_decoder.errors import BankBuildError, BankError, InputDataError


def build(folder, text="new", **options):
    return PhraseBank.build(folder, [text], np.ones((1, 2)), **options)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(params=[True, False], ids=["exchange", "two renames"])
def exchange(request, monkeypatch):
    """Whether the file system exchanges two folders in one step."""
    if not request.param:
        monkeypatch.setattr(placement, "_exchanged", lambda *_: False)
    return request.param


def test_the_new_bank_replaces_the_old_one(tmp_path, exchange):
    old = build(tmp_path / "bank", "old")
    assert build(tmp_path / "bank", overwrite=True).texts([0]) == ["new"]
    assert old.texts([0]) == ["old"]  # what is open stays readable
    assert names(tmp_path) == ["bank"]


def test_an_empty_folder_is_replaced(tmp_path, exchange):
    (tmp_path / "bank").mkdir()
    with pytest.raises(BankBuildError, match="exists already"):
        build(tmp_path / "bank")
    assert build(tmp_path / "bank", overwrite=True).texts([0]) == ["new"]
    assert names(tmp_path) == ["bank"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux exchanges folders")
def test_a_reader_finds_a_whole_bank_at_every_moment(tmp_path):
    build(tmp_path / "bank", "0")
    found, errors, stop = set(), [], threading.Event()

    def read():
        while not stop.is_set():
            try:
                found.add(PhraseBank.open(tmp_path / "bank").texts([0])[0])
            except BankError as error:
                errors.append(error)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for number in range(1, 31):
        build(tmp_path / "bank", str(number), overwrite=True)
    stop.set()
    for reader in readers:
        reader.join()
    assert errors == []
    assert len(found) > 5


def test_a_failure_between_the_two_renames_puts_the_old_one_back(tmp_path, monkeypatch):
    build(tmp_path / "bank", "old")
    monkeypatch.setattr(placement, "_exchanged", lambda *_: False)
    rename = Path.rename

    def refuse(path, target):
        if path.name == ".bank.partial":
            raise OSError(13, "Permission denied", str(target))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(BankBuildError, match=r"cannot be written: .*Permission denied"):
        build(tmp_path / "bank", overwrite=True)
    assert PhraseBank.open(tmp_path / "bank").texts([0]) == ["old"]
    assert names(tmp_path) == ["bank"]


def test_what_a_kill_between_the_two_renames_left_is_put_back(tmp_path, caplog):
    build(tmp_path / "bank", "old")
    (tmp_path / "bank").rename(tmp_path / ".bank.old")
    with pytest.raises(BankError, match=r"no phrase bank here.*left the bank as \S+/\.bank\.old"):
        PhraseBank.open(tmp_path / "bank")
    with pytest.raises(BankBuildError, match="exists already"):
        build(tmp_path / "bank")
    assert "putting" in caplog.text
    assert PhraseBank.open(tmp_path / "bank").texts([0]) == ["old"]
    assert names(tmp_path) == ["bank"]


def test_what_a_kill_after_the_two_renames_left_is_removed(tmp_path, exchange):
    build(tmp_path / "bank", "new")
    build(tmp_path / ".bank.old", "old")
    assert build(tmp_path / "bank", "newer", overwrite=True).texts([0]) == ["newer"]
    assert names(tmp_path) == ["bank"]


@pytest.mark.parametrize(
    "kind", ["folder", "file", "bank and more", "manifest of others", "dead link"]
)
def test_what_is_no_bank_is_never_replaced(tmp_path, kind):
    precious = tmp_path / "precious"
    if kind == "file":
        precious.write_text("x")
    elif kind == "dead link":
        precious.symlink_to(tmp_path / "elsewhere" / "file")
        (tmp_path / "elsewhere").write_text("x")
    elif kind == "bank and more":
        build(precious)
        (precious / "thesis.txt").write_text("x")
    else:
        precious.mkdir()
        name = "manifest.json" if kind == "manifest of others" else "thesis.txt"
        (precious / name).write_text("x")
        (precious / "src").mkdir()
    before = names(precious) if precious.is_dir() else None
    message = "cannot be written" if kind == "dead link" else "is not a phrase bank"
    with pytest.raises(BankBuildError, match=message):
        build(precious, overwrite=True)
    assert os.path.lexists(precious)
    assert (names(precious) if precious.is_dir() else None) == before
    assert [name for name in names(tmp_path) if name.startswith(".")] == []


def test_a_damaged_bank_is_replaced(tmp_path):
    build(tmp_path / "bank", "old")
    (tmp_path / "bank" / "vectors.npy").unlink()
    (tmp_path / "bank" / "manifest.json").write_text("{")
    assert build(tmp_path / "bank", overwrite=True).texts([0]) == ["new"]


@pytest.mark.parametrize("exists", [True, False])
def test_a_link_stays_and_what_it_points_to_is_replaced(tmp_path, exists):
    (tmp_path / "there").mkdir()
    if exists:
        build(tmp_path / "there" / "bank", "old")
    (tmp_path / "link").symlink_to(tmp_path / "there" / "bank")
    build(tmp_path / "link", overwrite=True)
    assert (tmp_path / "link").readlink() == tmp_path / "there" / "bank"
    assert PhraseBank.open(tmp_path / "there" / "bank").texts([0]) == ["new"]
    assert (names(tmp_path), names(tmp_path / "there")) == (["link", "there"], ["bank"])


def test_no_bank_is_built_inside_another(tmp_path):
    build(tmp_path / "bank", "old")
    with pytest.raises(InputDataError, match="lies inside a phrase bank"):
        build(tmp_path / "bank" / "inner")
    PhraseBank.open(tmp_path / "bank").verify()


@pytest.mark.parametrize("how", ["same", "dots", "link", "hard link"])
def test_an_output_may_not_be_an_input_by_whatever_name(tmp_path, monkeypatch, how):
    monkeypatch.chdir(tmp_path)
    source = tmp_path / "q.npy"
    source.write_text("x")
    if how == "link":
        Path("other").symlink_to("q.npy")
    elif how == "hard link":
        os.link("q.npy", "other")
    output = {"same": "q.npy", "dots": "../" + tmp_path.name + "/q.npy"}.get(how, "other")
    refused = pytest.raises(
        InputDataError, match=r"would replace its input: .*found the input \S*q"
    )
    with refused:
        refuse_output_over(Path(output), [Path("nothing"), source])
    refuse_output_over(tmp_path / "o.jsonl", [source])


@pytest.mark.parametrize("place", ["vectors.npy", "new.jsonl", "sub/new.jsonl", "link"])
def test_an_output_may_not_lie_inside_a_bank(tmp_path, place):
    folder = build(tmp_path / "bank").path
    if place == "link":
        (tmp_path / "link").symlink_to(folder / "new.jsonl")
        folder = tmp_path
    with pytest.raises(InputDataError, match=r"inside a phrase bank: .*found the bank \S+/bank"):
        refuse_output_over(folder / place, [])
    refuse_output_over(tmp_path / "bank.jsonl", [tmp_path / "bank"])


def test_a_manifest_alone_makes_no_bank(tmp_path):
    (tmp_path / "manifest.json").write_text("{}")
    refuse_output_over(tmp_path / "o.jsonl", [])


OVERWRITE = """
    import sys
    import numpy as np
    from lightweight_decoder.bank import BankRows, write_bank
    def rows():
        for start in range(0, 40_000, 1_000):
            vectors = np.random.default_rng(start).normal(size=(1_000, 64)).astype(np.float32)
            yield BankRows([f"phrase {i}" for i in range(start, start + 1_000)], vectors)
    print("started", flush=True)
    write_bank(sys.argv[1], rows(), overwrite=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_killed_at_any_moment_a_whole_bank_is_there(tmp_path, sent):
    """The old bank or the new one, nothing but ``.bank.partial``; KILLS=10 for ten moments."""
    moments = random.Random(int(sent))  # noqa: S311, not for secrets
    command = [sys.executable, "-c", textwrap.dedent(OVERWRITE), tmp_path / "bank"]
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    duration = time.perf_counter() - started
    new = PhraseBank.open(tmp_path / "bank").fingerprint
    for _ in range(int(os.environ.get("KILLS", "2"))):
        old = build(tmp_path / "bank", "old", overwrite=True).fingerprint
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            process.stdout.readline()
            time.sleep(moments.uniform(0, duration / 2))
            process.send_signal(sent)
        there = PhraseBank.open(tmp_path / "bank")
        there.verify()
        assert there.fingerprint in {old, new}
        assert process.returncode != 0 or there.fingerprint == new
        assert set(names(tmp_path)) <= {"bank", ".bank.partial"}
    subprocess.run(command, check=True, capture_output=True)
    assert PhraseBank.open(tmp_path / "bank").fingerprint == new
    assert names(tmp_path) == ["bank"]
