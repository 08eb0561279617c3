from __future__ import annotations

from functools import partial

import pytest

from lightweight_decoder.commands.build_bank import build_bank
from lightweight_decoder.commands.decode import decode_file
from lightweight_decoder.commands.evaluate import evaluate_run
from lightweight_decoder.commands.opening import completed_search, refuse_encoder_options
from lightweight_decoder.commands.parts import options_of
from lightweight_decoder.commands.train import train
from lightweight_decoder.encoder import TextEncoder
from lightweight_decoder.encoder.custom_encoder import custom_encoder
from lightweight_decoder.errors import ConfigError, InputDataError
from lightweight_decoder.search import ExactSearch, FaissSearch
from lightweight_decoder.training.sources.denoise import Denoise


def test_a_search_is_completed_with_what_it_takes(tiny_bank):
    def made(part, gib=None):
        return completed_search(part, tiny_bank, device="cpu", max_memory_gb=gib)

    assert made(ExactSearch) is None  # the decoder makes its own, wherever it is moved to
    assert made(partial(ExactSearch)) is None
    assert isinstance(made(ExactSearch, gib=1), ExactSearch)
    assert isinstance(made(FaissSearch, gib=1), FaissSearch)
    given = made(lambda bank, device: (bank, device))
    assert given == (tiny_bank, "cpu")


@pytest.mark.parametrize(
    ("call", "because"),
    [
        (partial(build_bank, input="a", output="b", vectors="v.npy"), "vectors=FILE"),
        (partial(decode_file, bank="b", input="q.npy", output="o.jsonl"), "input=FILE"),
        (partial(train, data=partial(Denoise, bank="b"), run_dir="r"), "data has vectors"),
    ],
)
def test_an_encoder_that_would_encode_nothing_is_refused(call, because):
    with pytest.raises(ConfigError, match=rf"^embeddings\.model: no text is .* as {because}.*'m'"):
        call(embeddings=partial(TextEncoder, model="m"))


def test_the_default_encoder_may_be_there_for_nothing():
    for part in (
        TextEncoder,
        partial(TextEncoder),
        partial(TextEncoder, **options_of(TextEncoder)),
    ):
        refuse_encoder_options(part, TextEncoder, because="of that")
    with pytest.raises(ConfigError, match=r"^embeddings: .*found 'custom_encoder'"):
        refuse_encoder_options(partial(custom_encoder, "a:b"), TextEncoder, because="of that")


def test_no_results_are_written_into_a_bank(tiny_bank):
    with pytest.raises(InputDataError, match="the output lies inside a phrase bank"):
        train(data=partial(Denoise, bank=tiny_bank.path), run_dir=tiny_bank.path / "run")
    assert not (tiny_bank.path / "run").exists()


def test_a_seed_is_from_0():
    with pytest.raises(ConfigError, match=r"^data\.seed: expected greater than or equal to 0"):
        train(data=partial(Denoise, bank="b", seed=-1), run_dir="r")


def test_a_tolerance_needs_something_to_compare_with():
    with pytest.raises(ConfigError, match=r"^tolerance: .*against=FILE beside it, found 0\.5"):
        evaluate_run("run", tolerance=0.5)
