"""Recognizing formats, refusing what could run code, and options that do not fit."""

from __future__ import annotations

import os
import pickle
import sys
import zipfile

import numpy as np
import pytest
import torch

from lightweight_decoder.errors import InputDataError, MissingDependencyError
from lightweight_decoder.vectors import open_embeddings


class Trap:
    """Creates a file when unpickled."""

    def __init__(self, victim):
        self.victim = victim

    def __reduce__(self):
        return (os.mkdir, (str(self.victim),))


def save_pickle(path, trap):
    path.write_bytes(pickle.dumps(trap))


def save_npy(path, trap):
    np.save(path, np.array([[trap]], dtype=object), allow_pickle=True)


def save_npz(path, trap):
    np.savez(path, vectors=np.array([[trap]], dtype=object))


def save_npz_texts(path, trap):
    np.savez(path, vectors=np.ones((1, 2), np.float32), text=np.array([trap], dtype=object))


def save_pt(path, trap):
    torch.save({"vectors": torch.ones(1, 2), "text": trap}, path)


def save_old_pt(path, trap):
    torch.save({"vectors": trap}, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize(
    "save", [save_pickle, save_npy, save_npz, save_npz_texts, save_pt, save_old_pt]
)
@pytest.mark.parametrize("text_column", [None, "text"])
def test_objects_are_never_unpickled(tmp_path, save, text_column):
    victim = tmp_path / "victim"
    path = tmp_path / ("a.npz" if "npz" in save.__name__ else "a.npy")
    save(path, Trap(victim))
    options = {} if save in {save_npy, save_pickle, save_old_pt} else {"text_column": text_column}
    if save is save_npz_texts and text_column is None:
        assert not open_embeddings(path).has_texts
    else:
        with pytest.raises(InputDataError):
            list(open_embeddings(path, **options).blocks())
    assert not victim.exists()
    pickle.loads(pickle.dumps(Trap(victim)))  # noqa: S301 - shows that the trap does work
    assert victim.exists()


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "0 bytes"),
        (pickle.dumps({"a": 1}), "pickle"),
        (b"FEA1" + b"\0" * 40, "Feather version 1"),
        (b"\xba\x16\x4f\x2f" + b"\0" * 40, "fastText model"),
        (b"BZh91AY&SY", "bzip2"),
        (b"\0\1\2\3" * 9, "bytes"),
        (b"once upon a time\n", "once upon a time"),
        (b"\x1f\x8b\x08\0", "Truncated"),
    ],
)
def test_unknown_content_is_refused(tmp_path, content, found):
    path = tmp_path / "a.xyz"
    path.write_bytes(content)
    with pytest.raises(InputDataError, match=found):
        open_embeddings(path)


def test_zip_without_arrays_is_refused(tmp_path):
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "nothing")
    with pytest.raises(InputDataError, match="a zip archive without arrays"):
        open_embeddings(path)


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(InputDataError, match=r"no such file.*found nothing"):
        open_embeddings(tmp_path / "a.npy")


def test_device_is_refused():
    with pytest.raises(InputDataError, match=r"no such file.*found something else"):
        open_embeddings("/dev/zero")


def test_symlink_loop_is_refused(tmp_path):
    loop = tmp_path / "loop.npy"
    loop.symlink_to(loop)
    with pytest.raises(InputDataError, match=r"loop\.npy"):
        open_embeddings(loop)


def test_symlink_loop_in_folder_is_refused(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path)
    with pytest.raises(InputDataError, match="loop: there is no such file"):
        open_embeddings(tmp_path)


def test_option_of_another_format_is_refused(tmp_path, vectors):
    path = tmp_path / "a.npy"
    np.save(path, vectors)
    with pytest.raises(InputDataError, match="takes no text_column") as caught:
        open_embeddings(path, text_column="text")
    assert caught.value.advice == "Leave text_column out."


def test_block_rows_below_one_is_refused(tmp_path, vectors):
    path = tmp_path / "a.npy"
    np.save(path, vectors)
    with pytest.raises(InputDataError, match="block_rows >= 1"):
        list(open_embeddings(path).blocks(0))


@pytest.mark.parametrize("library", ["h5py", "datasets"])
def test_missing_library_is_named(tmp_path, monkeypatch, library):
    path = tmp_path / "a"
    if library == "h5py":
        path.write_bytes(b"\x89HDF\r\n\x1a\n" + b"\0" * 100)
    else:
        path.mkdir()
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingDependencyError, match=r"lightweight-decoder\[(hdf5|datasets)\]"):
        open_embeddings(path if library == "h5py" else f"hf:{path}")


@pytest.mark.parametrize("value", [1e-30, 1e25])
def test_numbers_whose_squares_are_not_float32_are_fine(tmp_path, read_all, value):
    path = tmp_path / "a.npy"
    np.save(path, np.full((2, 3), value, dtype=np.float32))
    np.testing.assert_array_equal(read_all(open_embeddings(path))[0], np.float32(value))


def test_float64_beyond_float32_keeps_its_direction(tmp_path, read_all):
    path = tmp_path / "a.npy"
    np.save(path, np.array([[1.0, 2.0], [3e200, -4e200], [3e-200, 4e-200]]))
    rows = read_all(open_embeddings(path))[0].astype(np.float64)
    assert rows[0].tolist() == [1, 2]
    unit = rows[1:] / np.linalg.norm(rows[1:], axis=1, keepdims=True)
    np.testing.assert_allclose(unit, [[0.6, -0.8], [0.6, 0.8]], rtol=1e-7)
