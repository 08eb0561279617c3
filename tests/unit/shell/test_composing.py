from __future__ import annotations

import sys
from pathlib import Path

import pytest

from lightweight_decoder.__main__ import COMMANDS
from lightweight_decoder.shell import composing, sweep_jobs
from lightweight_decoder.shell.composing import config_folder


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
