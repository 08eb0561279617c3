"""Strings of any length in HDF5: what h5py gives, and nothing believed of a damaged file."""

from __future__ import annotations

import struct

import h5py
import numpy as np
import pytest

from lightweight_decoder.errors import InputDataError
from lightweight_decoder.vectors.hdf5 import Hdf5Reader

TEXTS = ["", "ä", "a phrase", "語" * 3000, "x" * 100, "last", "ä"] * 90
LAYOUTS = {
    "contiguous": {},
    "chunked": {"chunks": (100,)},
    "one-chunk": {"chunks": (1000,), "maxshape": (None,)},
    "packed": {"chunks": (64,), "compression": "gzip"},
    "lzf": {"chunks": (64,), "compression": "lzf"},
}


def write(path, texts, *, userblock=0, **layout):
    vectors = np.ones((len(texts), 2), np.float32)
    with h5py.File(path, "w", userblock_size=userblock) as file:
        file["vectors"] = vectors
        data = np.array(texts, dtype=object)
        file.create_dataset("text", data=data, dtype=h5py.string_dtype(), **layout)
    return path


def read(path, block_rows):
    return [text for block in Hdf5Reader(path).blocks(block_rows) for text in block.texts]


@pytest.mark.parametrize("block_rows", [37, 10**4])
@pytest.mark.parametrize("userblock", [0, 1024])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_texts_are_what_h5py_reads(tmp_path, layout, userblock, block_rows):
    path = write(tmp_path / "a.h5", TEXTS, userblock=userblock, **layout)
    with h5py.File(path) as file:
        assert file["text"].asstr()[:].tolist() == TEXTS
    assert read(path, block_rows) == TEXTS


def test_rows_written_out_of_order(tmp_path):
    path = write(tmp_path / "a.h5", ["old"] * 500, chunks=(50,))
    with h5py.File(path, "r+") as file:
        for row in np.random.default_rng(0).permutation(500):
            file["text"][row] = f"row {row} " * (row % 40)
    assert read(path, 33) == [f"row {row} " * (row % 40) for row in range(500)]


@pytest.mark.parametrize("version", ["earliest", "latest"])
def test_file_format_versions(tmp_path, version):
    with h5py.File(tmp_path / "a.h5", "w", libver=version) as file:
        file["vectors"] = np.ones((3, 2), np.float32)
        file["text"] = ["a", "bc", "ä"]
    assert read(tmp_path / "a.h5", None) == ["a", "bc", "ä"]


def damaged(path, texts, change):
    """Write texts, and change the bytes of the file, whose references start where it is told."""
    write(path, texts)
    with h5py.File(path) as file:
        references = file["text"].id.get_offset()
    content = bytearray(path.read_bytes())
    change(content, references, content.index(b"GCOL"))
    path.write_bytes(content)
    return path


def overstate_length(content, references, _heap):
    struct.pack_into("<I", content, references, 2**32 - 1)


def overstate_lengths_a_little(content, references, _heap):
    struct.pack_into("<I", content, references, 10)


def point_elsewhere(content, references, _heap):
    struct.pack_into("<Q", content, references + 4, 2**63)


def point_at_no_object(content, references, _heap):
    struct.pack_into("<I", content, references + 12, 77)


def empty_heap_objects(content, _references, heap):
    content[heap + 16 : heap + 4096] = bytes(4080)


def endless_heap(content, _references, heap):
    struct.pack_into("<Q", content, heap + 8, 2**62)


def endless_object(content, _references, heap):
    struct.pack_into("<Q", content, heap + 24, 2**64 - 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (overstate_length, r"row 0: the texts cannot be in this file: .*found 4294967297 bytes"),
        (overstate_lengths_a_little, r"row 0: a text is not where .*expected 10 .*found 1 bytes"),
        (point_elsewhere, r"row 0: a text is not where its row says: .*found 0 bytes"),
        (point_at_no_object, r"row 0: a text is not where its row says: .*found 0 bytes"),
        (empty_heap_objects, r"row 0: a text is not where its row says: .*found 0 bytes"),
        (endless_heap, r"row 0: a text is not where its row says: .*found 0 bytes"),
        (endless_object, r"row 0: a text is not where its row says: .*found 0 bytes"),
    ],
)
def test_damaged_texts_are_refused(tmp_path, change, message):
    path = damaged(tmp_path / "a.h5", ["a", "bc"], change)
    with pytest.raises(InputDataError, match=message):
        read(path, None)


def test_compact_layout_is_refused(tmp_path):
    plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plan.set_layout(h5py.h5d.COMPACT)
    text = h5py.h5t.py_create(h5py.string_dtype(), logical=True)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["vectors"] = np.ones((2, 2), np.float32)
        h5py.h5d.create(file.id, b"text", text, h5py.h5s.create_simple((2,)), plan)
        file["text"][:] = ["a", "b"]
    with pytest.raises(InputDataError, match="found /text, stored compactly"):
        read(tmp_path / "a.h5", None)
