from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hydra.core.global_hydra import GlobalHydra

import lightweight_decoder
from lightweight_decoder.__main__ import COMMANDS, main
from lightweight_decoder.bank import PhraseBank

CONF = Path(__file__).resolve().parents[2] / "conf"


@pytest.fixture
def start(monkeypatch):
    """Types words after the program's name; gives the exit status."""

    def start(*words):
        monkeypatch.setattr(sys, "argv", ["lightweight-decoder", *words])
        try:
            main()
        except SystemExit as end:
            return end.code or 0
        finally:
            GlobalHydra.instance().clear()
        return 0

    return start


@pytest.mark.parametrize("words", [(), ("--help",), ("-h",)])
def test_help_names_every_command(start, capsys, words):
    assert start(*words) == 0
    printed = capsys.readouterr().out
    for name, summary in COMMANDS.items():
        assert f"  {name} " in printed
        assert summary in printed


def test_the_version_is_the_package_s(start, capsys):
    assert start("--version") == 0
    assert capsys.readouterr().out == f"lightweight-decoder {lightweight_decoder.__version__}\n"


def test_there_is_a_command_for_every_configuration():
    configured = {path.stem.replace("_", "-") for path in CONF.glob("*.yaml")}
    assert set(COMMANDS) == configured


@pytest.mark.parametrize("word", ["--help", "--version", "nonsense"])
def test_what_needs_no_command_imports_nothing_slow(word):
    script = (
        "import sys\n"
        "from lightweight_decoder.__main__ import main\n"
        "try:\n    main()\n"
        "except SystemExit: pass\n"
        "print(*{name.partition('.')[0] for name in sys.modules})\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, word], capture_output=True, text=True, check=True
    )
    imported = set(done.stdout.splitlines()[-1].split())
    assert "lightweight_decoder" in imported
    assert imported.isdisjoint({"hydra", "lightning", "numpy", "omegaconf", "rich", "torch"})


@pytest.mark.parametrize(
    ("typed", "guess"),
    [
        ("decod", " Did you mean decode?"),
        ("buildbank", " Did you mean build-bank?"),
        ("build_bnak", " Did you mean build-bank?"),
        ("Train", " Did you mean train?"),
        ("xyz", ""),
        ("", ""),
    ],
)
def test_an_unknown_command_is_told_the_nearest(start, capsys, typed, guess):
    assert start(typed) == 2
    listed = "train, build-bank, decode, evaluate, calibrate, verify-bank, doctor"
    message = f"lightweight-decoder: there is no command {typed!r}.{guess} There are: {listed}\n"
    assert capsys.readouterr().err == message


@pytest.mark.parametrize("name", ["build-bank", "build_bank"])
def test_both_spellings_show_the_configuration(start, capsys, name):
    assert start(name, "input=a.csv", "output=b", "--cfg", "job") == 0
    printed = capsys.readouterr().out
    assert {"input: a.csv", "output: b"} <= {*printed.splitlines()}


def test_paths_are_meant_from_where_the_user_stands(start, tmp_path, monkeypatch):
    vectors = np.eye(4, dtype=np.float32)
    PhraseBank.build(tmp_path / "bank", ["north", "east", "south", "west"], vectors)
    np.save(tmp_path / "q.npy", vectors[[2, 0]])
    monkeypatch.chdir(tmp_path)
    words = ["bank=bank", "input=q.npy", "output=o.jsonl", "top_k=1", "trainer.accelerator=cpu"]
    assert start("decode", *words) == 0
    lines = (tmp_path / "o.jsonl").read_text().splitlines()
    assert ["south" in lines[0], "north" in lines[1], len(lines)] == [True, True, 2]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bank", "o.jsonl", "q.npy"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
def test_a_folder_that_nobody_may_write_into(start, tmp_path, monkeypatch, capsys):
    vectors = np.eye(4, dtype=np.float32)
    PhraseBank.build(tmp_path / "bank", ["north", "east", "south", "west"], vectors)
    np.save(tmp_path / "q.npy", vectors[[2, 0]])
    monkeypatch.chdir("/proc")  # root may not either
    words = [f"bank={tmp_path}/bank", f"input={tmp_path}/q.npy", "trainer.accelerator=cpu"]
    assert start("decode", *words, f"output={tmp_path}/o.jsonl", "top_k=1") == 0
    assert "south" in (tmp_path / "o.jsonl").read_text().splitlines()[0]
    capsys.readouterr()
    assert start("train", "data=denoise", f"data.bank={tmp_path}/bank") == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert "cannot be made" in said
    assert "hydra.run.dir=DIR" in said


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("lightweight-decoder ", set(COMMANDS)),
        ("lightweight-decoder d", {"decode", "doctor"}),
        ("/usr/bin/lightweight-decoder  build", {"build-bank"}),
        ("lightweight-decoder nope x", set()),
        (
            "lightweight-decoder decode search=",
            {f"search={path.stem}" for path in (CONF / "search").glob("*.yaml")},
        ),
        ("lightweight-decoder build_bank trainer.acc", {"trainer.accelerator="}),
    ],
)
def test_a_shell_completes_commands_and_their_keys(start, capsys, monkeypatch, line, expected):
    monkeypatch.setenv("COMP_LINE", line)
    assert start("-sc", "query=bash") == 0
    assert set(capsys.readouterr().out.split()) == expected


def test_completion_is_installed_for_the_program(start, capsys, monkeypatch):
    monkeypatch.delenv("COMP_LINE", raising=False)
    assert start("-sc", "install=bash") == 0
    assert capsys.readouterr().out.endswith("-F hydra_bash_completion lightweight-decoder\n")
