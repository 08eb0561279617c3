"""Every option of every group composes, and mistakes are named before any work starts."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lightweight_decoder.commands.arguments import configured_arguments, converted
from lightweight_decoder.errors import ConfigError
from lightweight_decoder.shell import composing
from lightweight_decoder.shell.composing import COMMANDS, composed, register, run_command

CONF = Path(__file__).resolve().parents[2] / "conf"
OPTIONS = sorted(
    (str(path.parent.relative_to(CONF)), path.stem)
    for path in CONF.rglob("*.yaml")
    if path.parent != CONF
)


@pytest.fixture
def given(monkeypatch):
    """What a command would be called with; refused as the command would refuse it."""

    def given(name, *overrides):
        seen = {}
        monkeypatch.setattr(
            composing,
            "command",
            lambda function: lambda **values: seen.update(converted(function, values)),
        )
        register(name)
        filled = {"run_dir": "run"} if name == "train" else {}
        composing.call(name, composed(name, overrides), filled=filled, overrides=overrides)
        return seen

    return given


def test_each_command_has_a_primary_config():
    assert sorted(path.stem for path in CONF.glob("*.yaml")) == sorted(COMMANDS)
    assert ("data", "reverse_dictionary") in OPTIONS


PATHS = {
    "verify_bank": ["bank=x"],
    "evaluate": ["run_dir=x"],
    "build_bank": ["input=x", "output=x"],
    "calibrate": ["queries=x", "targets=x", "output=x"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_called_with_its_defaults_once_its_paths_are_given(given, name):
    arguments = given(name, *PATHS.get(name, ()))
    known = configured_arguments(COMMANDS[name].load())
    for key, parameter in known.items():
        has_plain_default = parameter.default is not parameter.empty
        if has_plain_default and not callable(parameter.default):
            assert arguments[key] == parameter.default, key
    assert arguments.keys() == known.keys()


MUST_BE_GIVEN = {
    "labelled_text": ["data.train=x"],
    "pairs": ["data.bank=x", "data.queries=x", "data.targets=x"],
    "denoise": ["data.bank=x"],
    "custom": ["embeddings.factory=x:y"],
}


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_names_only_what_exists(given, group, option):
    given("train", f"{group}={option}", *MUST_BE_GIVEN.get(option, ()))


def test_defaults_come_from_the_signatures(given):
    arguments = given("train")

    assert arguments["data"].keywords["size"] == "small"
    assert arguments["data"].keywords["bank_root"] == Path("outputs/banks")
    assert arguments["training"].keywords["lr"] == 1e-3
    assert arguments["trainer"].keywords["max_epochs"] == 3
    assert "default_root_dir" not in arguments["trainer"].keywords
    assert arguments["accelerator"].keywords["devices"] == "auto"
    assert given("decode")["accelerator"].keywords["devices"] == 1


def test_a_source_brings_its_own_settings(given):
    arguments = given("train", "data=labelled_text", "data.train=x")

    assert arguments["batches"].keywords["batch_size"] == 64
    assert arguments["trainer"].keywords["max_epochs"] == 20
    assert arguments["patience"] == 20
    assert arguments["reranker"].func.__name__ == "PhraseClassifier"
    assert arguments["adapter"] is None

    arguments = given("train", "data=labelled_text", "data.train=x", "rerank=listwise")
    assert arguments["reranker"].func.__name__ == "ListwiseReranker"
    assert arguments["adapter"].func.__name__ == "QueryAdapter"


@pytest.mark.parametrize(
    ("name", "override", "value"),
    [
        ("decode", "top_k=5.0", 5),
        ("decode", "top_k=1e3", 1000),
        ("decode", "top_k='7'", 7),
        ("decode", "max_memory_gb=1", 1.0),
        ("decode", "cached_queries=2.0", 2),
        ("decode", "bank=2024", Path("2024")),
        ("decode", "bank=01", Path("01")),
        ("decode", "output=1_0", Path("1_0")),
        ("decode", "bank=null", None),
        ("train", "seed=1.0", 1),
        ("train", "patience='4'", 4),
        ("train", "trainer.max_epochs=2.0", 2),
        ("train", "trainer.devices=1.0", 1),
        ("train", "trainer.max_time={hours: 1}", {"hours": 1}),
        ("train", "trainer.limit_val_batches=1.0", 1.0),
        ("train", "training.lr='1e-3'", 1e-3),
        ("train", "data.seed=2.0", 2),
        ("build_bank", "text_column=2024.10", "2024.10"),
        ("build_bank", "metadata_columns=[a,b]", ["a", "b"]),
    ],
)
def test_what_passes_the_check_is_used_converted(given, name, override, value):
    arguments = given(name, override, *PATHS.get(name, ()))
    key = override.partition("=")[0]
    part, _, option = key.rpartition(".")
    part = "accelerator" if key == "trainer.devices" else part
    found = arguments[part].keywords[option] if part else arguments[option]

    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("name", "override", "message"),
    [
        ("train", "training.lr=abc", r"training\.lr: expected .*number.*, found 'abc'"),
        ("train", "data.size=huge", r"data\.size: expected 'small' or 'full', found 'huge'"),
        ("train", "accelerator.on_unusable=7", r"accelerator\.on_unusable: expected .*, found 7"),
        (
            "train",
            "rerank.reranker.dropout=x",
            r"rerank\.reranker\.dropout: expected .*, found 'x'",
        ),
        ("train", "patience=abc", r"patience: expected .*integer.*, found 'abc'"),
        ("train", "patience=0", r"patience: expected greater than or equal to 1, found 0"),
        ("train", "patience=1.5", r"patience: expected .*integer.*, found 1\.5"),
        ("train", "logger.wandb=3", r"logger\.wandb: expected a part .*, found 3"),
        ("train", "training._target_=os.system", r"training\._target_: expected .* 'os\.system'"),
        ("train", "+trainer.max_epoch=3", r"trainer\.max_epoch: .*; trainer\.max_epochs is the"),
        ("train", "+trainer.callbacks=3", r"trainer\.callbacks: there is no such key"),
        ("train", "+run_dir=x", r"run_dir: there is no such key"),
        ("train", "accelerator=null", r"accelerator: expected a part with keys .* found None"),
        ("decode", "top_k=abc", r"top_k: expected .*integer.*, found 'abc'"),
        ("decode", "top_k=0", r"top_k: expected .* 1, found 0"),
        ("decode", "cached_queries=-1", r"cached_queries: expected .* 0, found -1"),
        ("decode", "abstain_below=2", r"abstain_below: expected .* 1, found 2"),
        ("decode", "cache=perhaps", r"cache: expected .*boolean.*, found 'perhaps'"),
        ("decode", "max_memory_gb=0", r"max_memory_gb: expected greater than 0, found 0"),
        ("decode", "max_memory_gb=-1", r"max_memory_gb: expected greater than 0, found -1"),
        ("decode", "max_memory_gb=much", r"max_memory_gb: expected .*number.*, found 'much'"),
        ("decode", "max_memory_gb=inf", r"max_memory_gb: expected a finite number, found inf"),
        ("decode", "max_memory_gb=nan", r"max_memory_gb: expected .*, found nan"),
        ("decode", "+nope=3", r"nope: there is no such key"),
        ("decode", "+search.bank=3", r"search\.bank: there is no such key"),
        ("decode", "input=${nope}", r"input: cannot be read: found .*nope"),
        (
            "build_bank",
            "dtype=int8",
            r"dtype: expected 'auto', 'float16' or 'float32', found 'int8'",
        ),
        ("build_bank", "metadata_columns=a", r"metadata_columns: expected a list.*, found 'a'"),
        ("doctor", "+nope=3", r"nope: there is no such key"),
    ],
)
def test_expected_and_found_are_both_said(given, name, override, message):
    with pytest.raises(ConfigError, match=message) as refused:
        given(name, override, *PATHS.get(name, ()))
    assert "\n" not in str(refused.value)


def test_every_mistake_is_named_at_once(given):
    overrides = ["data.size=huge", "data.num_test=many", "patience=0"]
    with pytest.raises(ConfigError) as refused:
        given("train", *overrides)
    for told in ("data.size: ", "data.num_test: ", "patience: "):
        assert len(re.findall(re.escape(f"\n  {told}"), str(refused.value))) == 1


def test_values_that_were_not_given_are_named(given):
    with pytest.raises(ConfigError, match=r"^data\.train: no value was given"):
        given("train", "data=labelled_text")
    with pytest.raises(ConfigError, match=r"(?s)data\.queries: .*data\.targets: .*data\.bank: "):
        given("train", "data=pairs")
    with pytest.raises(ConfigError, match=r"(?s)input: no value was given.*output: no value"):
        given("build_bank")


@pytest.mark.parametrize(
    ("name", "typed", "lines"),
    [
        ("decode", ["bnak=x"], ["bnak: there is no such key; bank is the nearest"]),
        ("doctor", ["formt=json"], ["formt: there is no such key; format is the nearest"]),
        (
            "train",
            ["training.lrr=1", "patince=2", "seed=1"],
            [
                "training.lrr: there is no such key; training.lr is the nearest",
                "patince: there is no such key; patience is the nearest",
            ],
        ),
        ("train", ["dta=pairs"], ["dta: there is no such key; data is the nearest"]),
        (
            "train",
            ["data=pair"],
            ["data: there is no such option: expected denoise, labelled_text,"],
        ),
        ("decode", ["search=3"], ["search: there is no such option: expected auto, exact, faiss,"]),
        ("decode", ["search=exact", "search=faiss"], ["search: was given twice: expected one"]),
        ("decode", ["+search=faiss"], ["search: has an option already: expected search=OPTION"]),
        ("decode", ["trainer=3"], ["trainer: has keys of its own: expected trainer.accelerator,"]),
        ("decode", ["bank"], ["bank: expected key=value"]),
        ("decode", ["=3"], ["=3: expected key=value"]),
        ("decode", ["~bnak"], ["Could not delete from config. 'bnak' does not exist"]),
        ("evaluate", ["--rundir=x"], ["rundir: there is no such key; run_dir is the nearest"]),
        (
            "decode",
            ["hydra.run.dir=/dev/null/x"],
            ["/dev/null/x: cannot be made: Not a directory."],
        ),
        ("train", ["seed=1", "hydra.run.dir=/dev/null/x"], ["/dev/null/x: cannot be made"]),
    ],
)
def test_what_hydra_refuses_is_told_in_a_line(capfd, name, typed, lines):
    with pytest.raises(SystemExit) as ended:
        run_command(name, typed)
    told = capfd.readouterr().err.splitlines()

    assert ended.value.code == 1
    assert len(told) == len(lines)
    for line, start in zip(told, lines, strict=True):
        assert line.startswith(start)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_each_key_with_its_default_and_what_it_means(capfd, name):
    run_command(name, ["--help"])
    told = capfd.readouterr().out

    defaults = {"decode": "top_k: 5  # How many", "train": "  lr: 0.001  # Peak learning rate"}
    assert defaults.get(name, "# ") in told
    keys = told.partition("== Configuration ==")[2]
    for key, parameter in configured_arguments(COMMANDS[name].load()).items():
        if key not in {"run_dir", "accelerator"} and not callable(parameter.default):
            assert re.search(rf"^ *{key}:.*  # \S", keys, re.MULTILINE), key


def test_help_shows_the_options_that_were_chosen(capfd):
    run_command("train", ["--help", "data=denoise", "training.lr=1e-5"])
    told = capfd.readouterr().out

    assert "noise: 1.0  # Length of the noise against the vector's 1, above 0" in told
    assert "lr: 1.0e-05" in told
    assert "data: denoise, labelled_text, pairs, reverse_dictionary" in told
