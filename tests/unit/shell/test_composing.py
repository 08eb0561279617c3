from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from lightweight_decoder.__main__ import COMMANDS
from lightweight_decoder.commands.decode import decode_file
from lightweight_decoder.errors import BankError, ConfigError
from lightweight_decoder.shell import composing, sweep_jobs
from lightweight_decoder.shell.composing import config_folder
from lightweight_decoder.shell.exit_status import _stop
from lightweight_decoder.shell.typed_arguments import as_hydra_reads


def test_every_command_of_the_program_is_one():
    assert {name.replace("_", "-") for name in composing.COMMANDS} == {*COMMANDS}


def test_the_configuration_of_a_checkout_lies_beside_its_source():
    assert config_folder() == Path(__file__).resolve().parents[3] / "conf"


def test_the_configuration_of_an_installed_package_lies_within(tmp_path, monkeypatch):
    package = tmp_path / "site-packages" / "lightweight_decoder"
    monkeypatch.setattr(composing, "__file__", str(package / "shell" / "composing.py"))
    with pytest.raises(FileNotFoundError, match="conf"):
        config_folder()
    (package / "conf").mkdir(parents=True)
    (package / "conf" / "train.yaml").touch()
    assert config_folder() == package / "conf"


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("train.py", ["python", "train.py"]),
        ("lightweight-decoder", ["lightweight-decoder", "train"]),
    ],
)
def test_a_command_is_named_as_it_was_started(monkeypatch, program, expected):
    monkeypatch.setattr(sys, "argv", [program])
    assert sweep_jobs._as_typed() == expected


@pytest.mark.parametrize("folder", ["[a]", "{a: 1}", "2024", "1.0", "true", "a, b (1)"])
def test_a_path_that_reads_like_another_value_is_a_path(folder, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    composing.register("decode")
    typed = [f"bank={folder}", "input=q.npy", "output=o.jsonl", "trainer.accelerator=cpu"]
    overrides = as_hydra_reads(typed, groups=[], is_sweep=False)
    with pytest.raises(BankError) as found:
        composing.call("decode", composing.composed("decode", overrides), overrides=overrides)
    assert found.value.where == str(tmp_path / folder)


def test_signals_end_the_program_as_usual_until_its_libraries_are_imported(monkeypatch):
    seen = []
    usual = signal.getsignal(signal.SIGINT)

    def look(*_):
        seen.append(signal.getsignal(signal.SIGINT))

    monkeypatch.setattr(composing, "register", look)
    monkeypatch.setattr(composing, "_run", look)
    composing.run_command("decode", ["bank=b"])
    assert seen == [usual, _stop]
    assert signal.getsignal(signal.SIGINT) == usual


def test_a_sweep_may_be_asked_for_anywhere(monkeypatch):
    given = []
    monkeypatch.setattr(composing, "register", given.append)
    monkeypatch.setattr(composing, "_run", lambda *arguments: given.append(arguments[-1]))
    composing.run_command("train", ["data=denoise", "-m", "training.lr=1e-3,1e-2"])
    assert given == ["train", ["-m", "data=denoise", "training.lr=1e-3,1e-2"]]


@pytest.mark.parametrize("text", ["", " ", "\n"])
def test_a_sentence_of_nothing_is_refused(text):
    with pytest.raises(ConfigError, match=r"^text: nothing to decode: expected a sentence"):
        decode_file(bank="b", text=text)


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        (
            "scripts/calibrate.py",
            ["python scripts/calibrate.py bank=", "python scripts/decode.py c"],
        ),
        (
            "lightweight-decoder",
            ["lightweight-decoder calibrate b", "lightweight-decoder decode c"],
        ),
    ],
)
def test_help_says_what_to_type_here(monkeypatch, program, expected):
    monkeypatch.setattr(sys, "argv", [program])
    composing.register("calibrate")
    printed = composing.help_text("calibrate", [])
    assert all(line in printed for line in expected)
