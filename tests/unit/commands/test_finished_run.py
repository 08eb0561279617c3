from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lightweight_decoder.commands.finished_run import read_settings, write_settings
from lightweight_decoder.errors import ConfigError
from lightweight_decoder.training.sources.denoise import Denoise

DATA = "data:\n  _target_: lightweight_decoder.training.sources.denoise.Denoise\n  bank: b\n"


def test_settings_are_read_as_they_were_written(tmp_path):
    arguments = {
        "data": partial(Denoise, bank=Path("ü b")),
        "seed": 3,
        "cache": True,
        "wandb": None,
    }
    written = write_settings(arguments, tmp_path)

    assert read_settings(tmp_path / "config.yaml") == written
    assert written["data"]["bank"] == "ü b"
    assert yaml.safe_load((tmp_path / "config.yaml").read_text("utf-8")) == written


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda each: (
        st.lists(each, max_size=3) | st.dictionaries(st.text(max_size=9), each, max_size=3)
    ),
    max_leaves=9,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(more=st.dictionaries(st.text("abc", min_size=1), PLAIN, max_size=3))
def test_any_plain_settings_are_read_as_they_were_written(tmp_path, more):
    written = write_settings({**more, "data": partial(Denoise, bank="b")}, tmp_path)
    if "${" in (tmp_path / "config.yaml").read_text("utf-8"):
        return  # is refused, see below
    assert read_settings(tmp_path / "config.yaml") == written


def bomb():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 20)]
    return "\n".join(lines) + "\n" + DATA


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (DATA + "seed: ${oc.env:SECRET}\n", "seed: .* found an interpolation"),
        (DATA + "x:\n- a: '${data.bank}'\n", r"x\[0\]\.a: .* found an interpolation"),
        (DATA + "search:\n  _target_: os.system\n", r"search\._target_: .* 'os\.system'"),
        (DATA + "search:\n  _target_: [a]\n", r"search\._target_: .*found \['a'\]"),
        (DATA + "x: 2024-01-01\n", r"x: .* found datetime\.date"),
        (DATA + "x: !!set {a}\n", "x: .*found {'a'}"),
        (DATA + "x: !!binary aGVsbG8=\n", "x: .*found b'hello'"),
        (DATA + "x: !!python/object/apply:os.system [true]\n", "could not determine a constructor"),
        (DATA + "x: !new {}\n", "could not determine a constructor"),
        (DATA + "x: &a [1]\ny: *a\n", "it has an alias"),
        (DATA + "x: &a {b: 1}\ny:\n  <<: *a\n", "it has an alias"),
        (DATA + "x: &a\n- *a\n", "it has an alias"),
        (bomb(), "it has an alias"),
        ("x: " + "[" * 50_000, "cannot be read: .*recursion"),
        (DATA + "x: '" + "a" * 2**18 + "'\n", "at most 262144 bytes, found more"),
        ("data: [", "cannot be read"),
        ("colors: [red]", "no part 'data'"),
        ("- a", "no part 'data'"),
        ("data: 3", "no part 'data'"),
        ("", "no part 'data'"),
        ("data: {x: \0}", "cannot be read"),
        (b"data: \xff\xfe", "cannot be read"),
    ],
)
def test_a_strangers_settings_have_no_powers(tmp_path, monkeypatch, content, told):
    monkeypatch.setenv("SECRET", "s3cret")
    path = tmp_path / "config.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())

    with pytest.raises(ConfigError, match=told) as refused:
        read_settings(path)
    assert str(refused.value).startswith(str(path))
    assert "s3cret" not in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1
    assert len(str(refused.value)) < 1_000
