from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightweight_decoder.accelerator import verdict_cache
from lightweight_decoder.accelerator.machine import Machine
from lightweight_decoder.accelerator.plan import DeviceReport

USABLE = DeviceReport("usable", "works", index=0, uuid="GPU-a", capability=(9, 0))
BUSY = DeviceReport("busy", "held", index=1)


def test_what_is_stored_comes_back():
    verdict_cache.store("k", [USABLE])

    assert verdict_cache.load("k") == (USABLE,)
    assert verdict_cache.load("other") is None


@pytest.mark.parametrize(
    "verdict", ["busy", "out_of_memory", "hung", "crashed", "init_failed", "unknown"]
)
def test_passing_verdicts_are_not_kept(verdict, own_cache):
    verdict_cache.store("k", [USABLE, DeviceReport(verdict, "")])

    assert not own_cache.exists()


def test_passing_verdicts_are_kept_for_the_ranks_of_a_launch():
    verdict_cache.store("k", [BUSY], lasting_only=False)

    assert verdict_cache.load_launch("k") == (BUSY,)


def test_files_of_past_launches_are_cleared_away(own_cache):
    verdict_cache.store_launch("launch-a", [BUSY])
    os.utime(own_cache / "launch-a.json", (1, 1))

    verdict_cache.store_launch("launch-b", [BUSY])

    assert [path.name for path in own_cache.iterdir()] == ["launch-b.json"]


def test_what_was_stored_before_this_process_started_is_another_launchs(own_cache):
    verdict_cache.store("k", [USABLE])
    long_ago = time.time() - 10 * 86400
    os.utime(own_cache / "k.json", (long_ago, long_ago))

    assert verdict_cache.load("k") == (USABLE,)
    assert verdict_cache.load_launch("k") is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "[" * 100_000,
        '{"format": 2, "key": "k"}',
        '{"format": 0, "key": "k", "reports": []}',
        '{"format": 2, "key": "other", "reports": []}',
        '{"format": 2, "key": "k", "reports": [{"verdict": "usable", "later": 1}]}',
        '{"format": 2, "key": "k", "reports": [[]]}',
        '{"format": 2, "key": "k", "reports": [{"verdict": 1, "reason": 2, "capability": null}]}',
        "\x00" * 10,
        "x" * (1 << 21),
    ],
    ids=range(13),
)
def test_damaged_files_are_missing_files(text, own_cache):
    own_cache.mkdir()
    (own_cache / "k.json").write_text(text)

    assert verdict_cache.load("k") is None
    verdict_cache.store("k", [USABLE])
    assert verdict_cache.load("k") == (USABLE,)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["fifo", "folder"])
def test_what_is_no_file_is_a_missing_file(own_cache, make):
    own_cache.mkdir()
    make(own_cache / "k.json")

    assert verdict_cache.load("k") is None
    verdict_cache.store("k", [USABLE])


def test_a_cut_file_is_a_missing_file(own_cache):
    verdict_cache.store("k", [USABLE])
    whole = (own_cache / "k.json").read_text()
    for length in range(len(whole)):
        (own_cache / "k.json").write_text(whole[:length])
        assert verdict_cache.load("k") is None


@pytest.fixture
def unwritable(tmp_path, monkeypatch):
    """A cache folder that cannot be made, even by root."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LIGHTWEIGHT_DECODER_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_a_temporary_folder_takes_its_place(unwritable):
    verdict_cache.store("k", [USABLE])

    assert verdict_cache.load("k") == (USABLE,)
    assert len(list(unwritable.glob("lightweight-decoder-*/k.json"))) == 1


def test_a_temporary_folder_of_somebody_else_is_not_trusted(unwritable, monkeypatch):
    verdict_cache.store("k", [USABLE])
    (mine,) = unwritable.glob("lightweight-decoder-*")
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    mine.rename(unwritable / "lightweight-decoder-12345")

    assert verdict_cache.load("k") is None


def test_no_folder_at_all_is_no_cache(unwritable, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(unwritable / "file" / "tmp"))

    verdict_cache.store("k", [USABLE])
    assert verdict_cache.load("k") is None
    verdict_cache.drop("k")
    with verdict_cache.alone("k", patience_s=1):
        pass


def test_nothing_half_written_is_left(own_cache, monkeypatch):
    def full(*_arguments, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    verdict_cache.store("k", [USABLE])

    assert list(own_cache.iterdir()) == []


def test_handed_down_reports_are_for_other_processes(monkeypatch):
    verdict_cache.hand_down("k", [USABLE, BUSY])
    assert verdict_cache.handed_down("k") is None

    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert verdict_cache.handed_down("k") == (USABLE, BUSY)
    assert verdict_cache.handed_down("other") is None


@given(st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\x00")))
def test_any_text_in_the_environment_is_survived(text):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIGHTWEIGHT_DECODER_ACCELERATOR_VERDICT", text)
        assert verdict_cache.handed_down("k") is None


def test_drop_forgets_everywhere(own_cache):
    verdict_cache.store("k", [USABLE])
    verdict_cache.hand_down("k", [USABLE])

    verdict_cache.drop("k")

    assert list(own_cache.iterdir()) == []
    assert "LIGHTWEIGHT_DECODER_ACCELERATOR_VERDICT" not in os.environ


def test_the_key_follows_everything_a_verdict_depends_on():
    machines = [
        Machine("2.14"),
        Machine("2.15"),
        Machine("2.14", installed_ns=1),
        Machine("2.14", driver_cuda_version="13.0"),
        Machine("2.14", variables={"CUDA_VISIBLE_DEVICES": "1"}),
        Machine("2.14", variables={"CUDA_FORCE_PTX_JIT": "1"}),
    ]
    keys = [verdict_cache.machine_key(machine, "cuda") for machine in machines]
    keys.append(verdict_cache.machine_key(machines[0], "mps"))

    assert len(set(keys)) == len(keys)


def test_ranks_of_one_launch_share_a_key(monkeypatch):
    assert verdict_cache.launch_key("k") is None

    monkeypatch.setenv("LOCAL_RANK", "0")
    first = verdict_cache.launch_key("k")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert verdict_cache.launch_key("k") == first
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert verdict_cache.launch_key("k") != first
