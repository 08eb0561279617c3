"""Every option of every group composes, and mistakes are named before any work starts."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import ConfigCompositionException
from omegaconf import OmegaConf

from lightweight_decoder import shell
from lightweight_decoder.errors import ConfigError

CONF = Path(__file__).resolve().parents[2] / "conf"
OPTIONS = sorted(
    (str(path.parent.relative_to(CONF)), path.stem)
    for path in CONF.rglob("*.yaml")
    if path.parent != CONF
)
PRIMARY = sorted(path.stem for path in CONF.glob("*.yaml"))


def composed(name, overrides=()):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(name, list(overrides))


def test_there_are_options_and_primary_configs():
    assert ("data", "reverse_dictionary") in OPTIONS
    assert set(PRIMARY) >= {"train", "build_bank", "decode", "doctor"}


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes_and_names_only_what_exists(group, option):
    config = composed("train", [f"{group}={option}"])
    for key in OmegaConf.missing_keys(config):
        OmegaConf.update(config, key, "x")

    shell.check(config)


@pytest.mark.parametrize("name", PRIMARY)
def test_every_primary_config_composes(name):
    assert composed(name) is not None


def test_defaults_come_from_the_signatures():
    config = composed("train")

    assert config.data.size == "small"
    assert config.training.lr == pytest.approx(1e-3)
    assert config.trainer.max_epochs == 3
    assert "default_root_dir" not in config.trainer


def test_a_source_brings_its_own_settings():
    assert composed("train", ["data=labelled_text"]).batches.batch_size == 64


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("training.lr=abc", "training.lr"),
        ("data.size=huge", "data.size"),
        ("trainer.max_epochs=x", "trainer.max_epochs"),
        ("rerank.reranker.num_candidates=many", "num_candidates"),
    ],
)
def test_a_value_of_the_wrong_type_is_named(override, key):
    with pytest.raises((ConfigError, ConfigCompositionException)) as caught:
        shell.check(composed("train", [override]))

    assert key in f"{caught.value} {caught.value.__cause__}"


def test_every_mistake_is_named_at_once():
    config = composed("train", ["data.size=huge", "data.num_test=many"])

    with pytest.raises(ConfigError, match=r"(?s)data\.size: .*'huge'.*data\.num_test: .*'many'"):
        shell.check(config)


@pytest.mark.parametrize("override", ["training.nope=1", "nope=1", "trainer.nope=1"])
def test_an_unknown_key_is_refused(override):
    with pytest.raises(ConfigCompositionException, match="nope"):
        composed("train", [override])


def test_values_that_were_not_given_are_named():
    with pytest.raises(ConfigError, match=r"data\.train: no value was given"):
        shell.check(composed("train", ["data=labelled_text"]))
    with pytest.raises(ConfigError, match=r"(?s)data\.bank.*data\.queries.*data\.targets"):
        shell.check(composed("train", ["data=pairs"]))
