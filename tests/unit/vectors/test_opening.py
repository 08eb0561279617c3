"""Recognizing formats, refusing what could run code, options that do not fit, and folders."""

from __future__ import annotations

import os
import pickle
import sys
import zipfile

import numpy as np
import pyarrow as pa
import pytest
import torch

from lightweight_decoder.errors import InputDataError, MissingDependencyError
from lightweight_decoder.vectors import open_embeddings
from lightweight_decoder.vectors.opening import open_tables


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


def test_a_workbook_is_told_from_other_archives(tmp_path):
    path = tmp_path / "a.xlsx"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")
    for opened in (open_embeddings, open_tables):
        with pytest.raises(InputDataError, match="a workbook; save its sheet as CSV"):
            opened(path)


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


def test_missing_library_is_named(tmp_path, monkeypatch):
    path = tmp_path / "a"
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + b"\0" * 100)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(MissingDependencyError, match=r"lightweight-decoder\[hdf5\]"):
        open_embeddings(path)


def test_damage_is_spoken_of_only_where_there_is_some(tmp_path, vectors, monkeypatch):
    path = tmp_path / "a.npz"
    np.savez(path, vectors=vectors)
    for error, is_damage in (
        (ValueError("bad"), True),
        (EOFError(), True),
        (OSError("bad magic"), True),
        (TypeError("missing argument"), False),
        (NotImplementedError("that compression method is not supported"), False),
        (pa.ArrowNotImplementedError("no kernel"), False),
        (PermissionError(13, "Permission denied"), False),
    ):
        monkeypatch.setattr("zipfile.ZipFile", raising(error))
        with pytest.raises(InputDataError, match="cannot be read") as caught:
            open_embeddings(path)
        assert ("damaged or cut off" in str(caught.value)) == is_damage, error


def raising(error):
    def fail(*_):
        raise error

    return fail


@pytest.mark.parametrize("value", [1e-30, 1e25])
def test_numbers_whose_squares_are_not_float32_are_fine(tmp_path, read_all, value):
    path = tmp_path / "a.npy"
    np.save(path, np.full((2, 3), value, dtype=np.float32))
    np.testing.assert_array_equal(read_all(open_embeddings(path))[0], np.float32(value))


@pytest.mark.parametrize("scale", [1e200, 1e-200, 1e39, 1e-42, 3e38])
def test_float64_beyond_float32_keeps_its_direction(tmp_path, read_all, vectors, scale):
    path = tmp_path / "a.npy"
    stored = vectors.astype(np.float64)
    stored[3] *= scale
    np.save(path, stored)
    read = read_all(open_embeddings(path))[0].astype(np.float64)
    others = np.arange(7) != 3
    np.testing.assert_array_equal(read[others], vectors[others])
    unit = vectors[3].astype(np.float64) / np.linalg.norm(vectors[3].astype(np.float64))
    np.testing.assert_allclose(read[3] / np.linalg.norm(read[3]), unit, rtol=1e-6)


def test_float64_that_is_not_finite_is_a_bad_row(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.array([[1.0, 2.0], [1e300, np.inf]]))
    with pytest.raises(InputDataError, match=r"row 1.*found inf in column"):
        list(open_embeddings(path).blocks())


def packed_bits(rows, *, seed=0):
    """Signs of vectors whose directions are biased and correlated, eight in a byte."""
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((64, 384)) / 8
    signs = rng.standard_normal((rows, 64)) @ mixing + rng.standard_normal(384) / 2 > 0
    return np.packbits(signs, axis=1)


@pytest.mark.parametrize("seed", range(5))
def test_packed_bits_are_refused(tmp_path, seed):
    bits = packed_bits(50, seed=seed)
    np.save(tmp_path / "signed.npy", (bits.astype(np.int16) - 128).astype(np.int8))
    np.save(tmp_path / "unsigned.npy", bits)
    with pytest.raises(InputDataError, match=r"signed\.npy: .*int8 that look like packed bits"):
        list(open_embeddings(tmp_path / "signed.npy").blocks())
    with pytest.raises(InputDataError, match=r"unsigned\.npy: .*uint8.*numpy\.unpackbits"):
        open_embeddings(tmp_path / "unsigned.npy")


@pytest.mark.parametrize("rows", [3, 20, 1000])
@pytest.mark.parametrize("seed", range(5))
def test_vectors_quantized_to_int8_are_no_packed_bits(tmp_path, read_all, rows, seed):
    # as sentence-transformers does: from the least to the largest of each column
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((rows, 384)).astype(np.float32)
    calibration = rng.standard_normal((100, 384))
    start, step = calibration.min(axis=0), np.ptp(calibration, axis=0) / 255
    stored = np.clip((vectors - start) / step - 128, -128, 127).astype(np.int8)
    np.save(tmp_path / "a.npy", stored)
    np.testing.assert_array_equal(read_all(open_embeddings(tmp_path / "a.npy"))[0], stored)


def test_int8_of_sentence_transformers_is_scaled_by_the_ranges_beside_it(
    tmp_path, read_all, caplog
):
    quantize = pytest.importorskip("sentence_transformers.util").quantize_embeddings
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((500, 48)).astype(np.float32) * rng.uniform(0.1, 3, 48)
    vectors[:, 7] = 0.25  # a column without a range
    ranges = np.stack([vectors.min(axis=0), vectors.max(axis=0)]).astype(np.float32)
    folder = tmp_path / "shards"
    folder.mkdir()
    stored = quantize(vectors, precision="int8", ranges=ranges)
    for name, rows in (("a", slice(0, 200)), ("b", slice(200, 500))):
        np.save(folder / f"{name}.npy", stored[rows])
        np.save(folder / f"{name}.ranges.npy", ranges)
    read, _ = read_all(open_embeddings(folder))
    assert (np.abs(read - vectors) <= np.ptp(ranges, axis=0) / 255 * 0.51 + 1e-6).all()
    assert not [record for record in caplog.records if record.levelname == "WARNING"]

    (folder / "a.ranges.npy").unlink()
    read, _ = read_all(open_embeddings(folder / "a.npy"))
    np.testing.assert_array_equal(read, stored[:200])
    assert "a.npy: int8 numbers are read as they are" in caplog.text
    assert "as a.ranges.npy" in caplog.text


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        (np.zeros((2, 3)), r"a\.ranges\.npy: .*\(2, 4\) finite numbers.*found shape \(2, 3\)"),
        (np.array([[0.0] * 4, [1, 1, -1, 1]]), r"a\.ranges\.npy: .*\(2, 4\) finite.*found others"),
        (np.array([[0.0] * 4, [1, 1, np.nan, 1]]), r"a\.ranges\.npy: .*\(2, 4\) finite"),
        (np.array([[0.0] * 4, [1, 1, np.inf, 1]]), r"a\.ranges\.npy: .*\(2, 4\) finite"),
        (np.array([["a"] * 4] * 2), r"a\.ranges\.npy: cannot be read"),
        (np.array([[None] * 4] * 2), r"a\.ranges\.npy: cannot be read"),
    ],
)
def test_ranges_that_are_none_are_refused(tmp_path, ranges, message):
    np.save(tmp_path / "a.npy", np.ones((3, 4), dtype=np.int8))
    np.save(tmp_path / "a.ranges.npy", ranges)
    with pytest.raises(InputDataError, match=message):
        open_embeddings(tmp_path / "a.npy")


@pytest.fixture
def shards(tmp_path, vectors):
    """Return a folder of three shards, whose alphabetical order is not their order."""
    for name, rows in (("part-1", slice(0, 3)), ("part-2", slice(3, 4)), ("part-10", slice(4, 7))):
        np.save(tmp_path / f"{name}.npy", vectors[rows])
    return tmp_path


def test_shards_are_read_in_the_order_of_their_numbers(shards, read_all, vectors):
    (shards / "_SUCCESS").write_text("")
    reader = open_embeddings(shards)
    assert (reader.num_rows, reader.dim, reader.dtype) == (7, 5, "float32")
    for block_rows in (None, 2):
        np.testing.assert_array_equal(read_all(reader, block_rows=block_rows)[0], vectors)


def test_every_format_can_be_sharded(tmp_path, read_all, file_format, vectors, texts):
    for shard, rows in enumerate((slice(0, 3), slice(3, 7))):
        path = tmp_path / f"{shard}-{file_format.file_name}"
        file_format.write(path, vectors[rows], texts[rows])
    reader = open_embeddings(tmp_path)
    assert reader.num_rows == (7 if file_format.num_rows_known else None)
    read_vectors, read_texts = read_all(reader)
    np.testing.assert_array_equal(read_vectors, vectors)
    assert read_texts == (texts if file_format.has_texts else None)


def test_one_bad_shard_is_named(shards):
    path = shards / "part-2.npy"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputDataError, match=r"part-2\.npy: the array is cut off"):
        open_embeddings(shards)


def test_bad_row_is_named_within_its_shard(shards):
    np.save(shards / "part-10.npy", np.full((3, 5), np.nan, np.float32))
    with pytest.raises(InputDataError, match=r"part-10\.npy, row 0"):
        list(open_embeddings(shards).blocks())


@pytest.mark.parametrize(
    ("rows", "what"), [(np.ones((2, 4), np.float32), "width"), (np.ones((2, 5)), "dtype")]
)
def test_shards_that_differ_are_refused(shards, rows, what):
    np.save(shards / "part-3.npy", rows)
    with pytest.raises(InputDataError, match=rf"part-3\.npy: the shards differ in their {what}"):
        open_embeddings(shards)


def test_shards_of_two_formats_are_refused(shards, vectors):
    np.savez(shards / "part-3.npz", vectors)
    with pytest.raises(InputDataError, match=r"differ in their format.*expected NpyReader"):
        open_embeddings(shards)


def test_empty_folder_is_refused(tmp_path):
    with pytest.raises(InputDataError, match="expected files of one format, found none"):
        open_embeddings(tmp_path)
