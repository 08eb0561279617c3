"""What a user reads who gets a configuration wrong, on every command line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import ConfigCompositionException
from omegaconf import OmegaConf

from lightweight_decoder import shell
from lightweight_decoder.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
CONF = ROOT / "conf"
COMMANDS = sorted(path.stem for path in CONF.glob("*.yaml"))


def composed(name, *overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(name, list(overrides))


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "doctor"])
def test_every_command_passes_its_check_once_its_paths_are_given(name):
    missing = OmegaConf.missing_keys(composed(name))
    shell.check(composed(name, *(f"{key}=some/path" for key in missing)))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_names_the_key_that_it_does_not_know(name):
    with pytest.raises(ConfigCompositionException, match=r"Could not override 'top_kk'"):
        composed(name, "top_kk=1")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.size=huge", r"data\.size: expected 'small' or 'full', found 'huge'"),
        ("accelerator.on_unusable=7", r"accelerator\.on_unusable: expected .*string, found 7"),
        ("trainer.max_time=[1]", r"trainer\.max_time: expected .*, found \[1\]"),
        ("patience=abc", r"patience: expected .*integer.*, found 'abc'"),
        ("patience=0", r"patience: expected greater than or equal to 1, found 0"),
        ("logger.wandb=3", r"logger\.wandb: expected a part .* or null, found 3"),
        ("training._target_=os.system", r"training\._target_: expected the default, found 'os\.s"),
    ],
)
def test_expected_and_found_are_both_said(override, message):
    with pytest.raises(ConfigError, match=message):
        shell.check(composed("train", override))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("top_k=abc", r"top_k: expected .*integer.*, found 'abc'"),
        ("top_k=0", r"top_k: expected .* 1, found 0"),
        ("cached_queries=-1", r"cached_queries: expected .* 0, found -1"),
        ("abstain_below=2", r"abstain_below: expected .* 1, found 2"),
        ("cache=perhaps", r"cache: expected .*boolean.*, found 'perhaps'"),
        ("trainer.devices={a:1}", r"trainer\.devices"),
        ("max_memory_gb=0", r"max_memory_gb: expected greater than 0, found 0"),
        ("max_memory_gb=-1", r"max_memory_gb: expected greater than 0, found -1"),
        ("max_memory_gb=much", r"max_memory_gb: expected .*number.*, found 'much'"),
        ("max_memory_gb=inf", r"max_memory_gb: expected a finite number, found inf"),
        ("max_memory_gb=nan", r"max_memory_gb: expected .*, found nan"),
    ],
)
def test_values_of_a_command_itself_are_checked(override, message):
    with pytest.raises(ConfigError, match=message):
        shell.check(composed("decode", override))


def test_build_bank_names_both_paths_that_it_needs():
    with pytest.raises(ConfigError, match=r"(?s)input: no value was given.*output: no value"):
        shell.check(composed("build_bank"))


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("training.lr=abc", ["training.lr", "'abc'", "Float"]),  # found by Hydra's own types
        ("data.size=huge", ["data.size", "'small' or 'full'", "'huge'"]),  # found by our check
        ("hydra.run.dir=/dev/null/run", ["/dev/null/run", "cannot be made", "hydra.run.dir=DIR"]),
    ],
)
def test_a_command_says_what_is_wrong_before_any_work(tmp_path, override, told):
    finished = subprocess.run(
        [sys.executable, ROOT / "train.py", f"hydra.run.dir={tmp_path / 'run'}", override],
        capture_output=True,
        cwd=tmp_path,
        env={**os.environ, "LIGHTWEIGHT_DECODER_CACHE": str(tmp_path / "cache")},
        stdin=subprocess.DEVNULL,
        text=True,
        check=False,
    )
    output = finished.stdout + finished.stderr

    assert finished.returncode == 1
    assert all(part in output for part in told), output
    assert "Traceback" not in output
    assert not (tmp_path / "cache").exists()
    assert not (tmp_path / "outputs").exists()
    assert not (tmp_path / "run" / "accelerator.json").exists()
