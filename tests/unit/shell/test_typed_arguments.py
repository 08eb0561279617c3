from __future__ import annotations

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from lightweight_decoder.shell.typed_arguments import (
    as_hydra_reads,
    mistakes_in,
    taken_verbatim,
    texts_of,
)


def read(argument, *, is_sweep=False):
    """The key and the value that Hydra reads."""
    (typed,) = as_hydra_reads([argument], groups=["search"], is_sweep=is_sweep)
    override = OverridesParser.create().parse_override(typed)
    return override.key_or_group, override.value()


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("k=3", 3),
        ("k=null", None),
        ("k='3'", "3"),
        ("k=[a,b]", ["a", "b"]),
        ("k={pca: {dim: 3}}", {"pca": {"dim": 3}}),
        ("k=a b", "a b"),
        ("k=a,b.npy", "a,b.npy"),
        ("k=a (1).npy", "a (1).npy"),
        ("k=it's", "it's"),
        ("k=a=b", "a=b"),
        ("k=[1", "[1"),
        ("k=é#;&<>", "é#;&<>"),
        ("k=a\nb", "a\nb"),
        ("k=choice(", "choice("),
        ("k=", ""),
    ],
)
def test_what_is_no_value_to_hydra_is_text(argument, value):
    assert read(argument) == ("k", value)


def test_a_list_is_swept_where_something_is():
    _, value = read("training.lr=1e-3,3e-3", is_sweep=True)
    assert value.list == [1e-3, 3e-3]


def test_an_option_is_no_number():
    assert read("search=3") == ("search", "3")
    assert read("search=null") == ("search", None)


@pytest.mark.parametrize("argument", ["--training.lr=0.001", "--seed=3", "--search=faiss"])
def test_an_agents_arguments_are_ours(argument):
    assert as_hydra_reads([argument], groups=[], is_sweep=False) == [argument.removeprefix("--")]


@pytest.mark.parametrize(
    "argument",
    ["-m", "--help", "--cfg=job", "--config-dir=x", "hydra/launcher=a", "~a", "++a=1"],
)
def test_hydras_own_is_left_alone(argument):
    assert as_hydra_reads([argument], groups=[], is_sweep=True) == [argument]


@given(st.text(min_size=1))
def test_any_text_comes_through(text):
    _, value = read(f"k=({text}")
    assert value == f"({text}"


def test_a_sentence_is_taken_as_it_is():
    arguments = ["bank=b", "text=it's [a], ${b} = 'c' #1", "top_k=3"]
    others, taken = taken_verbatim(arguments, ["text"])
    assert others == ["bank=b", "top_k=3"]
    assert taken == {"text": "it's [a], ${b} = 'c' #1"}
    assert taken_verbatim(["text=null", "text=1e5"], ["text"]) == ([], {"text": "1e5"})
    assert taken_verbatim(["texts=x"], ["text"]) == (["texts=x"], {})


def test_mistakes_before_hydra_sees_them():
    assert mistakes_in(["a=1", "a=2", "~b", "+c.d=e", "hydra/launcher=joblib"], ["search"]) == []
    assert mistakes_in(["bank", "=3", "search=a", "search@x=b"], ["search"]) == [
        "bank: expected key=value",
        "=3: expected key=value",
        "search: was given twice: expected one option, found ['a', 'b']",
    ]


def test_texts_of_overrides():
    assert texts_of(["a.b=01", "+c=1=2", "~d"]) == {"a.b": "01", "c": "1=2", "d": ""}
