"""Whole files: what they replace, what they leave alone, and what they refuse."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from lightweight_decoder.errors import CheckpointError, InputDataError
from lightweight_decoder.files import open_regular, user_cache_dir, whole_file


def write(path, text="new"):
    with whole_file(path) as partial:
        partial.write_text(text)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_there_when_it_is_whole(tmp_path):
    with whole_file(tmp_path / "f") as partial:
        partial.write_text("new")
        assert not (tmp_path / "f").exists()

    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("f", "new")]


def write_half(path, error):
    with whole_file(path) as partial:
        partial.write_text("ne")
        raise error


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_error_leaves_what_was_there(tmp_path, error):
    (tmp_path / "f").write_text("old")
    with pytest.raises(error):
        write_half(tmp_path / "f", error)

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


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o755])
def test_the_mode_of_what_was_there_is_kept(tmp_path, mode):
    (tmp_path / "f").write_text("old")
    (tmp_path / "f").chmod(mode)
    write(tmp_path / "f")
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == mode
    assert (tmp_path / "f").read_text() == "new"


def test_a_new_file_has_the_mode_of_any(tmp_path):
    (tmp_path / "other").touch()
    write(tmp_path / "f")
    assert (tmp_path / "f").stat().st_mode == (tmp_path / "other").stat().st_mode


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root")
def test_the_owner_of_what_was_there_is_kept(tmp_path):
    (tmp_path / "f").touch()
    os.chown(tmp_path / "f", 12, 34)
    write(tmp_path / "f")
    status = (tmp_path / "f").stat()
    assert (status.st_uid, status.st_gid) == (12, 34)


@pytest.mark.parametrize("exists", [True, False])
def test_a_link_stays_and_what_it_points_to_is_written(tmp_path, exists):
    (tmp_path / "there").mkdir()
    (tmp_path / "here").mkdir()
    if exists:
        (tmp_path / "there" / "f").write_text("old")
    (tmp_path / "here" / "one").symlink_to("two")
    (tmp_path / "here" / "two").symlink_to(tmp_path / "there" / "f")
    write(tmp_path / "here" / "one")
    assert (tmp_path / "here" / "one").readlink() == Path("two")
    assert (tmp_path / "here" / "two").is_symlink()
    assert (tmp_path / "there" / "f").read_text() == "new"
    assert (names(tmp_path / "here"), names(tmp_path / "there")) == (["one", "two"], ["f"])


def test_links_in_a_circle_are_refused(tmp_path):
    (tmp_path / "f").symlink_to("g")
    (tmp_path / "g").symlink_to("f")
    with pytest.raises(InputDataError, match=r"f: the file cannot be written: found Too many"):
        write(tmp_path / "f")
    assert names(tmp_path) == ["f", "g"]


@pytest.fixture
def odd(tmp_path):
    """Something that is no regular file, by its kind."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    with socket.socket(socket.AF_UNIX) as bound:
        here = Path.cwd()
        os.chdir(tmp_path)  # the name of a socket may not be long
        bound.bind("socket")
        os.chdir(here)
        yield {
            "a pipe": tmp_path / "pipe",
            "a folder": tmp_path / "folder",
            "a socket": tmp_path / "socket",
            "a device": Path("/dev/zero"),
        }


@pytest.mark.parametrize("kind", ["a pipe", "a folder", "a socket", "a device"])
def test_what_is_no_regular_file_is_neither_replaced_nor_read(odd, tmp_path, kind):
    before, found = names(tmp_path), odd[kind].stat().st_mode
    with pytest.raises(InputDataError, match=f"cannot be written: found {kind} is there"):
        write(odd[kind])
    with pytest.raises(OSError, match=f"{kind}, no file"):
        open_regular(odd[kind])
    assert odd[kind].stat().st_mode == found
    assert names(tmp_path) == before


def test_a_regular_file_is_opened(tmp_path):
    (tmp_path / "f").write_bytes(b"content")
    (tmp_path / "link").symlink_to("f")
    with open_regular(tmp_path / "link") as file:
        assert file.read() == b"content"
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "nothing")


@pytest.mark.parametrize("link", [False, True])
def test_null_is_written_through(tmp_path, link):
    path = Path("/dev/null")
    if link:
        path = tmp_path / "null"
        path.symlink_to("/dev/null")
    write(path)
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    assert path.is_symlink() == link


def run_python(code, *arguments, **options):
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.Popen(command, text=True, **options)


WRITE = """
    import sys
    from pathlib import Path
    from lightweight_decoder.files import whole_file
    with whole_file(Path(sys.argv[1])) as partial:
        partial.write_text("new")
"""


def test_standard_output_is_written_through(tmp_path):
    process = run_python(WRITE, "/dev/stdout", stdout=subprocess.PIPE)
    assert process.communicate(timeout=60)[0] == "new"
    with (tmp_path / "f").open("w") as file:
        run_python(WRITE, "/dev/stdout", stdout=file).wait(60)
    assert (tmp_path / "f").read_text() == "new"
    assert names(tmp_path) == ["f"]


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write to all")
def test_a_file_that_may_not_be_written_to_is_kept(tmp_path):
    (tmp_path / "f").write_text("old")
    (tmp_path / "f").chmod(0o444)
    with pytest.raises(InputDataError, match="may not be written to"):
        write(tmp_path / "f")
    assert (tmp_path / "f").read_text() == "old"


def test_the_longest_name_that_a_file_can_have(tmp_path):
    write(tmp_path / ("ä" * 127))
    assert names(tmp_path) == ["ä" * 127]


def test_an_interrupt_leaves_nothing(tmp_path):
    code = """
        import sys, time
        from pathlib import Path
        from lightweight_decoder.files import whole_file
        with whole_file(Path(sys.argv[1])) as partial:
            partial.write_text("ne")
            print("half", flush=True)
            time.sleep(60)
    """
    with run_python(code, tmp_path / "f", stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == "half\n"
        process.send_signal(signal.SIGINT)
    assert process.returncode != 0
    assert names(tmp_path) == []


def test_everything_is_on_the_disk_before_it_is_in_its_place(tmp_path, monkeypatch):
    events = []
    fsync, replace = os.fsync, Path.replace

    def noted_fsync(descriptor):
        kind = "folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file"
        events.append(kind)
        fsync(descriptor)

    def noted_replace(path, target):
        events.append("replaced")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(Path, "replace", noted_replace)
    write(tmp_path / "f")
    assert events == ["file", "replaced", "folder"]


def test_the_environment_names_the_cache_folder(monkeypatch):
    monkeypatch.setenv("LIGHTWEIGHT_DECODER_CACHE", "/somewhere/else")
    assert user_cache_dir() == Path("/somewhere/else")
    monkeypatch.setenv("LIGHTWEIGHT_DECODER_CACHE", "")
    assert user_cache_dir().name == "lightweight-decoder"
