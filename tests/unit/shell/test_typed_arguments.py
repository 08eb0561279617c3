from __future__ import annotations

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from lightweight_decoder.shell.typed_arguments import (
    as_hydra_reads,
    mistakes_in,
    overrides_of,
    taken_verbatim,
    texts_of,
)

TYPED = st.one_of(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
    st.text("\\'\"${}ab,[]() =\n?:&#;~1.|!*"),
)
"""What a shell can hand over, often with what means something to Hydra or OmegaConf."""


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


@pytest.mark.parametrize(
    ("typed", "value"),
    [("~/a b", "/home/me/a b"), ("~", "/home/me"), ("~you/a", "~you/a"), ("a~/b", "a~/b")],
)
def test_the_users_folder_is_meant(monkeypatch, typed, value):
    monkeypatch.setenv("HOME", "/home/me")
    assert read(f"output={typed}") == ("output", value)
    assert read(f"--output={typed}") == ("output", value)


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


def configured(argument):
    """The value that a command is given in the end, once interpolations are resolved."""
    key, value = read(argument)
    config = OmegaConf.create({key: None})
    OmegaConf.update(config, key, value)
    return OmegaConf.to_container(config, resolve=True)[key]


@settings(max_examples=300)
@given(TYPED)
@example("${a}")
@example("\\\\${a}\\")
def test_any_text_that_is_no_value_comes_through(text):
    assert configured(f"k=({text}") == f"({text}"


@settings(max_examples=300)
@given(TYPED)
@example("${")
@example(" a.npy")
def test_any_text_is_itself_or_says_something_to_hydra(text):
    _, value = read(f"k={text}")
    says_something = text == "???" or "\\" in text or "${" in text
    is_quoted = text[:1] == text[-1:] in {"'", '"'} or text == "~"
    if isinstance(value, str) and not (says_something or is_quoted):
        assert configured(f"k={text}") == text


@pytest.mark.parametrize(
    ("typed", "value"),
    [
        (" a.npy ", " a.npy "),
        ("\ta", "\ta"),
        ("[1].npy", "[1].npy"),
        ("a${b.npy", "a${b.npy"),
        ("a, ${b}.npy", "a, ${b}.npy"),
        ("C:\\data\\a (1).npy", "C:\\data\\a (1).npy"),
        ("'a, b.npy'", "a, b.npy"),
        ("a\\,b.npy", "a,b.npy"),
    ],
)
def test_a_path_is_the_one_that_was_typed(typed, value):
    assert configured(f"k={typed}") == value


SENTENCES = [
    "a wide, fast road",
    "it's a long way",
    "what is 2+2=4?",
    'she said "no" & left; #1 [sic] {a: b} (c)',
    "2024.10",
    "1e5",
    "null",
    "true",
    "'quoted'",
    " spaces ",
    "two\nlines",
    "costs $5, or ${price}",
    "???",
    "interval(0,1)",
    "--text=a",
    "",
]


@pytest.mark.parametrize("prefix", ["", "--", "+", "++"])
@pytest.mark.parametrize("text", SENTENCES)
def test_a_sentence_is_taken_as_the_shell_hands_it_over(text, prefix):
    arguments = ["bank=b", f"{prefix}text={text}", "top_k=1"]
    assert taken_verbatim(arguments, ["text"]) == (["bank=b", "top_k=1"], {"text": text})


@given(TYPED)
def test_any_sentence_is_taken_so(text):
    assert taken_verbatim([f"text={text}"], ["text"]) == ([], {"text": text})


def test_options_of_hydra_are_no_overrides():
    typed = [
        "--cfg",
        "job",
        "a=1",
        "-c",
        "job",
        "-m",
        "--info",
        "searchpath",
        "~b",
        "-cn",
        "x",
        "c",
    ]
    assert overrides_of(typed) == ["a=1", "~b", "c"]


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
