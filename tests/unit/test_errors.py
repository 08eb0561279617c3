from __future__ import annotations

import pytest

from lightweight_decoder.errors import ConfigError, InputDataError, LightweightDecoderError


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            ConfigError.unexpected("top_k", "at least 1", 0, advice="Give more"),
            "top_k: cannot be used: expected at least 1, found 0. Give more",
        ),
        (
            InputDataError.unexpected("a.csv", "a number", "x", at="row 3", summary="is no vector"),
            "a.csv, row 3: is no vector: expected a number, found x",
        ),
        (InputDataError.missing("a.csv", "a file"), "a.csv: is missing: expected a file"),
        (InputDataError.missing("a.csv"), "a.csv: is missing"),
        (
            InputDataError.unreadable("a.pt", OSError("cut off"), at="byte 7"),
            "a.pt, byte 7: cannot be read: found cut off",
        ),
    ],
)
def test_named_constructors_keep_the_order_of_a_message(error, message):
    assert str(error) == message
    assert isinstance(error, LightweightDecoderError)
