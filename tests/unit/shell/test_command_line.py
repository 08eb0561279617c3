from __future__ import annotations

import sys
from pathlib import Path

import pytest

from lightweight_decoder.__main__ import COMMANDS
from lightweight_decoder.shell import command_line
from lightweight_decoder.shell.command_line import TASKS, command_as_typed, config_folder


def test_every_command_has_a_task():
    assert [name.replace("_", "-") for name in TASKS] == list(COMMANDS)


def test_the_configuration_of_a_checkout_lies_beside_its_source():
    assert config_folder() == Path(__file__).resolve().parents[3] / "conf"


def test_the_configuration_of_an_installed_package_lies_within(tmp_path, monkeypatch):
    package = tmp_path / "site-packages" / "lightweight_decoder"
    monkeypatch.setattr(command_line, "__file__", str(package / "shell" / "command_line.py"))
    with pytest.raises(FileNotFoundError, match="conf"):
        config_folder()
    (package / "conf").mkdir(parents=True)
    (package / "conf" / "train.yaml").touch()
    assert config_folder() == package / "conf"


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("train.py", ["python", "train.py"]),
        ("scripts/build_bank.py", ["python", "scripts/build_bank.py"]),
        ("lightweight-decoder", ["lightweight-decoder", "build-bank"]),
    ],
)
def test_a_command_is_named_as_it_was_started(monkeypatch, program, expected):
    monkeypatch.setattr(sys, "argv", [program])
    assert command_as_typed("build_bank") == expected
