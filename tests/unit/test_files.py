from __future__ import annotations

from pathlib import Path

import pytest

from lightweight_decoder.errors import CheckpointError, InputDataError
from lightweight_decoder.files import user_cache_dir, whole_file


def test_a_file_is_there_when_it_is_whole(tmp_path):
    with whole_file(tmp_path / "f") as partial:
        partial.write_text("new")
        assert not (tmp_path / "f").exists()

    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("f", "new")]


def write_half(path):
    with whole_file(path) as partial:
        partial.write_text("ne")
        message = "half"
        raise ValueError(message)


def test_an_error_leaves_what_was_there(tmp_path):
    (tmp_path / "f").write_text("old")
    with pytest.raises(ValueError, match="half"):
        write_half(tmp_path / "f")

    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("f", "old")]


@pytest.mark.parametrize("place", ["missing/f", "file/f"])
def test_a_place_that_cannot_be_written_is_named(tmp_path, place):
    (tmp_path / "file").touch()
    refused = pytest.raises(InputDataError, match=rf"{place}: the file cannot be written.*folder")
    with refused, whole_file(tmp_path / place):
        pytest.fail("there is nowhere to write")


def test_the_caller_says_which_error_and_what_to_do(tmp_path):
    refused = pytest.raises(CheckpointError, match=r"x/f: .*Pray")
    with refused, whole_file(tmp_path / "x" / "f", error=CheckpointError, advice="Pray"):
        pytest.fail("there is nowhere to write")


def test_the_environment_names_the_cache_folder(monkeypatch):
    monkeypatch.setenv("LIGHTWEIGHT_DECODER_CACHE", "/somewhere/else")
    assert user_cache_dir() == Path("/somewhere/else")
    monkeypatch.setenv("LIGHTWEIGHT_DECODER_CACHE", "")
    assert user_cache_dir().name == "lightweight-decoder"
