from __future__ import annotations

from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
from lightning import Trainer

from lightweight_decoder.accelerator import resolve_accelerator
from lightweight_decoder.commands.arguments import Count, command, converted_part
from lightweight_decoder.commands.decode import decode_file
from lightweight_decoder.commands.parts import (
    PARTS,
    as_arguments,
    as_configuration,
    bound_arguments,
    described,
    find_part,
    options_of,
    part_described,
    place_of,
)
from lightweight_decoder.errors import ConfigError
from lightweight_decoder.training.sources.denoise import Denoise


@command
def work(path: Path, *, count: Count = 3, data: object = None) -> tuple[object, ...]:
    """Do nothing with its arguments."""
    return path, count, data


def test_a_command_is_called_with_converted_values():
    assert work("x", count="5") == (Path("x"), 5, None)
    assert work(path="x", count=5.0) == (Path("x"), 5, None)
    *_, data = work("x", data=partial(Denoise, bank="b", num_test=4.0))
    assert bound_arguments(data) == {"bank": Path("b"), "num_test": 4}
    assert data.func is Denoise
    assert work.__doc__ == "Do nothing with its arguments."


def test_positional_arguments_of_a_part_are_kept():
    part = converted_part(partial(resolve_accelerator, "cpu", 1.0), "accelerator")
    assert bound_arguments(part) == {"accelerator": "cpu", "devices": 1}
    assert part().accelerator == "cpu"


def test_everything_that_is_wrong_is_one_error():
    with pytest.raises(ConfigError) as refused:
        work(count=0, data=partial(Denoise, noise="many", num_test=3), cuont=1)
    assert str(refused.value).splitlines() == [
        "the configuration cannot be used:",
        "  count: expected greater than or equal to 1, found 0",
        "  data.noise: expected a valid number, unable to parse string as a number, found 'many'",
        "  data.bank: no value was given",
        "  cuont: there is no such key; count is the nearest",
        "  path: no value was given. Give values as key=value; --help lists all keys",
    ]


def test_a_part_has_to_be_something_to_call():
    with pytest.raises(ConfigError, match=r"^search: expected a part with keys of its own"):
        decode_file(bank="b", input="i", output="o", search="faiss")


def test_parts_are_told_and_found_again():
    part = partial(Denoise, bank=Path("b"), noise=2.0)
    told = described(part)
    assert told == {
        "_target_": "lightweight_decoder.training.sources.denoise.Denoise",
        "bank": "b",
        "noise": 2.0,
        "num_train": 50_000,
        "num_val": 2_000,
        "num_calib": 2_000,
        "num_test": 2_000,
        "seed": 0,
    }
    again = converted_part(part_described(told), "data")
    assert options_of(again) == options_of(part)
    assert again.func is Denoise


def test_every_part_is_where_it_is_said_to_be():
    for part in PARTS.values():
        target = part.load()
        assert f"{target.__module__}.{target.__qualname__}" == part.path
        assert find_part(part.path) is part


@pytest.mark.parametrize(
    "path", ["os.system", "Denoise", "evil.Denoise", "lightweight_decoder.os.system", 3, None, []]
)
def test_nothing_else_is_a_part(path):
    assert find_part(path) is None
    assert part_described({"_target_": path, "command": "true"}) is None


def test_a_part_of_an_earlier_version_is_known_by_its_name():
    earlier = find_part("lightweight_decoder.data.denoise.Denoise")
    assert earlier is PARTS["denoise"]
    earlier = find_part("lightweight_decoder.search.hnsw_search.HnswSearch")
    assert earlier is PARTS["faiss_search"]
    earlier = find_part("lightweight_decoder.training.calibrating.calibrate")
    assert earlier is PARTS["calibration"]


def test_a_truth_value_is_no_number():
    with pytest.raises(ConfigError, match=r"^count: expected no truth value, found True"):
        work("x", count=True)


def test_what_cannot_be_meant_is_said():
    with pytest.raises(ConfigError, match=r"^path: expected a path, found ''"):
        work("")
    with pytest.raises(ConfigError, match=r"^path: expected a path, found None"):
        work(None)
    with pytest.raises(ConfigError, match=r"^count: .*found '1,2' \(several, .* with -m\)"):
        work("x", count="1,2")


def test_a_span_of_time_is_told_in_seconds():
    told = described(partial(Trainer, max_time=timedelta(minutes=2)))
    assert told["max_time"] == {"seconds": 120.0}


def test_arguments_and_configuration_are_the_same_in_two_layouts():
    arguments = {
        "seed": 1,
        "adapter": {"_target_": "a"},
        "reranker": None,
        "accelerator": {"_target_": "r", "accelerator": "cpu", "devices": 1, "cache": True},
        "trainer": {"_target_": "t", "max_epochs": 3},
        "wandb": None,
    }
    configuration = as_configuration(arguments)
    assert configuration == {
        "seed": 1,
        "rerank": {"adapter": {"_target_": "a"}, "reranker": None},
        "accelerator": {"_target_": "r", "cache": True},
        "trainer": {"_target_": "t", "max_epochs": 3, "accelerator": "cpu", "devices": 1},
        "logger": {"wandb": None},
    }
    assert as_arguments(configuration) == arguments
    assert place_of("accelerator.devices") == "trainer.devices"
    assert place_of("reranker.dropout") == "rerank.reranker.dropout"
    assert place_of("accelerator.cache") == "accelerator.cache"
