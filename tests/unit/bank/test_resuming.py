"""Interrupted builds: what is left, and that going on gives the files of an undisturbed build."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import textwrap
from itertools import islice

import numpy as np
import pytest

from lightweight_decoder.bank import (
    BankRows,
    PhraseBank,
    build_bank,
    journal,
    output_file,
    write_bank,
)
from lightweight_decoder.errors import BankBuildError, ResumeError

NUM_BLOCKS = 12


def blocks(num_blocks=NUM_BLOCKS, *, changed=None):
    """Blocks of 3,000 rows; a third of the texts come again."""
    for number in range(num_blocks):
        rng = np.random.default_rng(number)
        texts = [f"text {i}" for i in rng.integers(0, 30_000, size=3_000)]
        vectors = rng.normal(size=(3_000, 8)).astype(np.float32)
        if changed == ("texts", number):
            texts[5] = "another text"
        if changed == ("vectors", number):
            vectors[5] += 1
        yield BankRows(texts, vectors, {"number": list(range(3_000))})


@pytest.fixture
def undisturbed(tmp_path):
    """The fingerprint that every build of these blocks has."""
    return build_bank(tmp_path / "undisturbed", blocks()).fingerprint


@pytest.fixture
def interrupt(tmp_path, monkeypatch):
    """Start a build, and end it with Ctrl-C when all but the last of its blocks are journaled."""
    monkeypatch.setattr(journal, "SECONDS_BETWEEN", 0.01)
    monkeypatch.setattr(output_file, "_CHUNK_BYTES", 1_000)

    def interrupt(num_blocks, **options):
        def rows():
            yield from islice(blocks(), num_blocks)
            while not is_journaled(tmp_path, num_rows=3_000 * (num_blocks - 1)):
                pass
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            write_bank(tmp_path / "bank", rows(), interrupted="keep", **options)
        assert not (tmp_path / "bank").exists()

    return interrupt


def is_journaled(folder, num_rows):
    path = partial(folder) / journal.JOURNAL_NAME
    if not path.exists():
        return False
    sizes = json.loads(path.read_text())
    return sizes["vectors.npy"] >= 32 * num_rows and sizes["owners.npy"] >= 8 * num_rows


def partial(folder):
    return folder / ".bank.partial"


def left_in(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("num_blocks", [0, 1, 7, NUM_BLOCKS])
@pytest.mark.parametrize("total", [None, NUM_BLOCKS * 3_000])
def test_going_on_ends_with_the_same_files(tmp_path, undisturbed, interrupt, num_blocks, total):
    interrupt(num_blocks, total=total)
    report = write_bank(tmp_path / "bank", blocks(), interrupted="resume", total=total)
    bank = PhraseBank.open(tmp_path / "bank")
    bank.verify()
    assert bank.fingerprint == undisturbed
    assert left_in(tmp_path) == ["bank", "undisturbed"]
    assert report.num_rows == NUM_BLOCKS * 3_000


def test_bytes_behind_the_journal_are_written_anew(tmp_path, undisturbed, interrupt):
    interrupt(9)
    sizes = json.loads((partial(tmp_path) / journal.JOURNAL_NAME).read_text())
    sizes = {name: max(0, size - 1_001) for name, size in sizes.items()}
    (partial(tmp_path) / journal.JOURNAL_NAME).write_text(json.dumps(sizes))
    for name, size in sizes.items():
        with (partial(tmp_path) / name).open("r+b") as file:
            file.seek(size)
            file.write(b"\0" * 500)  # what a power cut may leave
    write_bank(tmp_path / "bank", blocks(), interrupted="resume")
    assert PhraseBank.open(tmp_path / "bank").fingerprint == undisturbed


def test_going_on_twice(tmp_path, undisturbed, interrupt):
    interrupt(3)

    def rows():
        yield from islice(blocks(), 8)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_bank(tmp_path / "bank", rows(), interrupted="resume")
    write_bank(tmp_path / "bank", blocks(), interrupted="resume")
    assert PhraseBank.open(tmp_path / "bank").fingerprint == undisturbed


@pytest.mark.parametrize("changed", [("texts", 2), ("vectors", 2)])
def test_other_rows_are_refused_and_the_first_ones_kept(tmp_path, undisturbed, interrupt, changed):
    interrupt(9)
    with pytest.raises(
        ResumeError, match=r"\.arrow|\.npy.*the interrupted build was of other rows"
    ):
        write_bank(tmp_path / "bank", blocks(changed=changed), interrupted="resume")
    write_bank(tmp_path / "bank", blocks(), interrupted="resume")
    assert PhraseBank.open(tmp_path / "bank").fingerprint == undisturbed


def test_fewer_rows_than_there_were_are_refused(tmp_path, interrupt):
    interrupt(9)
    with pytest.raises(ResumeError, match="other rows"):
        write_bank(tmp_path / "bank", blocks(2), interrupted="resume")
    assert partial(tmp_path).is_dir()


@pytest.mark.parametrize(
    "content", ["", "{}", '{"vectors.npy": -1}', "[1]", '{"vectors.npy": 9, "owners.npy": 0}']
)
def test_a_damaged_journal_is_refused(tmp_path, interrupt, content):
    interrupt(3)
    (partial(tmp_path) / journal.JOURNAL_NAME).write_text(content)
    with pytest.raises(ResumeError, match=r"journal.json: the journal .* is damaged"):
        write_bank(tmp_path / "bank", blocks(), interrupted="resume")


def test_a_file_cut_below_its_journal_is_refused(tmp_path, interrupt):
    interrupt(9)
    (partial(tmp_path) / "owners.npy").write_bytes(b"")
    with pytest.raises(ResumeError, match="files that do not go with it"):
        write_bank(tmp_path / "bank", blocks(), interrupted="resume")


def test_without_resume_what_is_left_is_replaced_and_said(tmp_path, undisturbed, interrupt, caplog):
    interrupt(9)
    assert "resume=true goes on with it" in caplog.text
    write_bank(tmp_path / "bank", blocks(), interrupted="keep")
    assert "removing" in caplog.text
    assert PhraseBank.open(tmp_path / "bank").fingerprint == undisturbed
    assert left_in(tmp_path) == ["bank", "undisturbed"]


def test_resume_without_anything_left_starts_anew(tmp_path, undisturbed):
    write_bank(tmp_path / "bank", blocks(), interrupted="resume")
    assert PhraseBank.open(tmp_path / "bank").fingerprint == undisturbed


@pytest.mark.parametrize("interrupted", ["keep", "resume"])
def test_an_ordinary_error_leaves_nothing(tmp_path, interrupt, interrupted):
    interrupt(4)

    def rows():
        yield from blocks(5)
        yield BankRows([""], np.ones((1, 8)), {"number": [0]})

    with pytest.raises(BankBuildError, match="row 15000: a text cannot be a phrase"):
        write_bank(tmp_path / "bank", rows(), interrupted=interrupted)
    assert left_in(tmp_path) == []


def test_two_builds_of_one_bank_do_not_mix(tmp_path):
    def rows():
        with pytest.raises(BankBuildError, match="another process is building this bank"):
            write_bank(tmp_path / "bank", blocks(1), interrupted="resume")
        yield from blocks(1)

    write_bank(tmp_path / "bank", rows(), interrupted="keep")
    assert left_in(tmp_path) == ["bank"]


def test_a_kill_leaves_what_can_be_gone_on_with(tmp_path, undisturbed):
    code = """
        import sys, time
        sys.path.insert(0, sys.argv[2])
        from test_resuming import blocks, journal, output_file, write_bank
        journal.SECONDS_BETWEEN, output_file._CHUNK_BYTES = 0.01, 1_000
        def rows():
            for number, block in enumerate(blocks()):
                yield block
                if number == 6:
                    time.sleep(0.3)
                    print("writing", flush=True)
                    time.sleep(100)
        write_bank(sys.argv[1], rows(), interrupted="keep")
    """
    with subprocess.Popen(
        [
            sys.executable,
            "-c",
            textwrap.dedent(code),
            tmp_path / "bank",
            __file__.rpartition("/")[0],
        ],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "writing\n"
        process.send_signal(signal.SIGKILL)
    assert journal.read_journal(partial(tmp_path))["vectors.npy"] > 0
    write_bank(tmp_path / "bank", blocks(), interrupted="resume")
    assert PhraseBank.open(tmp_path / "bank").fingerprint == undisturbed
    assert left_in(tmp_path) == ["bank", "undisturbed"]
