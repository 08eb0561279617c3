from __future__ import annotations

import textwrap

import numpy as np
import pytest

from lightweight_decoder.encoder import CustomEncoder, custom_encoder
from lightweight_decoder.errors import ConfigError, EncoderError


class Own:
    """Ones for queries, twos for phrases, as wide as asked for."""

    def __init__(self, form=lambda rows: rows):
        self.form = form

    def encode_queries(self, texts):
        return self.form([[1.0, 2.0, len(text)] for text in texts])

    def encode_phrases(self, texts):
        return self.form([[2.0, 2.0, len(text)] for text in texts])


@pytest.mark.parametrize("form", [list, np.array, lambda rows: np.array(rows, dtype=np.float16)])
def test_vectors_are_those_that_the_object_gives(form):
    encoder = CustomEncoder(Own(form))
    np.testing.assert_array_equal(encoder.encode_queries(("a", "bc")), [[1, 2, 1], [1, 2, 2]])
    np.testing.assert_array_equal(encoder.encode_phrases(["a"]), [[2, 2, 1]])
    assert encoder.encode_phrases(["a"]).dtype == np.float32
    assert encoder.encode_queries([]).shape[0] == 0
    assert encoder.knows_sides


def test_its_identity_is_its_name_or_what_it_says_itself():
    one, other = CustomEncoder(Own()), CustomEncoder(Own(), name="other")
    assert one.name.endswith(":Own")
    assert one.fingerprint == CustomEncoder(Own()).fingerprint != other.fingerprint
    versioned = Own()
    versioned.fingerprint = "version 2"
    assert CustomEncoder(versioned).fingerprint == CustomEncoder(versioned, name="x").fingerprint


def fails(_):
    raise ValueError("no connection")


@pytest.mark.parametrize(
    ("form", "message"),
    [
        (fails, r"Own, 2 texts: the encoder failed: found ValueError: no connection"),
        (lambda rows: rows[:1], r"Own: .*expected \(2, d\) numbers, found \(1, 3\)"),
        (lambda _: [1.0, 2.0], r"Own: .*expected \(2, d\) numbers, found \(2,\)"),
        (lambda _: [[], []], r"found \(2, 0\)"),
        (lambda _: [[1.0], [1.0, 2.0]], r"the encoder failed: found ValueError"),
        (lambda _: [["x"], ["y"]], r"the encoder failed: found ValueError"),
        (lambda _: [[1.0, 2.0], [1.0, np.nan]], r"text 'bc'.*expected finite numbers"),
        (lambda _: [[1.0, 2.0], [1.0, np.inf]], r"text 'bc'.*expected finite numbers"),
    ],
)
def test_what_are_no_vectors_is_refused(form, message):
    with pytest.raises(EncoderError, match=message):
        CustomEncoder(Own(form)).encode_queries(["a", "bc"])


def test_both_methods_are_needed():
    with pytest.raises(EncoderError, match="encode_queries and encode_phrases, found no encode_q"):
        CustomEncoder(object())


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Write a module into the working folder; it is imported under a name of its own."""
    monkeypatch.chdir(tmp_path)

    def write(name, code):
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(code))
        monkeypatch.delitem(__import__("sys").modules, name, raising=False)

    return write


def test_a_factory_is_imported_from_the_working_folder(module):
    module(
        "own_factory",
        """
        class Lengths:
            def encode_queries(self, texts):
                return [[len(text), 1] for text in texts]
            encode_phrases = encode_queries
        """,
    )
    encoder = custom_encoder("own_factory:Lengths")
    np.testing.assert_array_equal(encoder.encode_phrases(["abc"]), [[3, 1]])
    assert encoder.name == "own_factory:Lengths"


@pytest.mark.parametrize("factory", ["module", "module:", ":function", ""])
def test_a_factory_has_a_module_and_a_function(factory):
    with pytest.raises(ConfigError, match=r"embeddings\.factory: .*expected module:function"):
        custom_encoder(factory)


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("no_such_module:make", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("bad_factory:absent", "AttributeError: .*absent"),
        ("bad_factory:number", "TypeError: 'int' object is not callable"),
        ("bad_factory:fails", "RuntimeError: no licence"),
        ("bad_factory:nothing", "methods encode_queries and encode_phrases"),
        ("broken_factory:make", "ZeroDivisionError"),
    ],
)
def test_a_factory_that_makes_no_encoder_is_refused(module, factory, message):
    module("broken_factory", "1 / 0")
    module(
        "bad_factory",
        """
        number = 3
        def fails():
            raise RuntimeError("no licence")
        def nothing():
            return None
        """,
    )
    with pytest.raises(EncoderError, match=message):
        custom_encoder(factory)
