"""Mapped files: larger than memory, never written to, checked by block, watched while open."""

from __future__ import annotations

import os
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from lightweight_decoder.bank import (
    BankRows,
    FileInfo,
    PhraseBank,
    hashed_file,
    phrase_bank,
    stored_file,
    write_bank,
)
from lightweight_decoder.bank.stored_file import StoredFile, array_in
from lightweight_decoder.decoder.phrase_bank_decoder import PhraseBankDecoder
from lightweight_decoder.errors import BankError

OVERCOMMIT = Path("/proc/sys/vm/overcommit_memory")
BLOCK = 1_000


def map_array(path, shape, dtype):
    return array_in(StoredFile.map(path, FileInfo(path.stat().st_size, "0" * 64)), shape, dtype)


def write_sparse(path, shape, dtype):
    """Write a header, and a hole for the data."""
    with path.open("wb") as file:
        description = {"shape": shape, "fortran_order": False, "descr": np.dtype(dtype).str}
        np.lib.format.write_array_header_1_0(file, description)
        file.truncate(file.tell() + int(np.prod(shape)) * np.dtype(dtype).itemsize)


@pytest.mark.skipif(
    sys.platform != "linux" or OVERCOMMIT.read_text().strip() == "2",
    reason="the system sets memory aside for every map",
)
def test_an_array_larger_than_memory_is_mapped(tmp_path):
    memory = psutil.virtual_memory().total + psutil.swap_memory().total
    shape = (2 * memory // 768, 384)
    write_sparse(tmp_path / "v.npy", shape, np.float16)
    array = map_array(tmp_path / "v.npy", shape, np.float16)
    assert array.shape == shape
    assert not array[-1].any()


def test_writing_to_a_map_does_not_reach_the_file(tmp_path):
    np.save(tmp_path / "v.npy", np.arange(6.0).reshape(2, 3))
    array = map_array(tmp_path / "v.npy", (2, 3), np.float64)
    array[0, 0] = 7
    np.testing.assert_array_equal(np.load(tmp_path / "v.npy"), np.arange(6.0).reshape(2, 3))
    np.testing.assert_array_equal(array, [[7, 1, 2], [3, 4, 5]])


NUM_ROWS = 400


@pytest.fixture
def large(tmp_path, monkeypatch):
    """A bank of many blocks that is too large to be checked when it is opened, a day old."""
    monkeypatch.setattr(hashed_file, "BLOCK_BYTES", BLOCK)
    monkeypatch.setattr(phrase_bank, "CHECKSUM_LIMIT_BYTES", 100)
    monkeypatch.setattr(stored_file, "_SETTLED_S", 0)
    monkeypatch.setenv("LIGHTWEIGHT_DECODER_CACHE", str(tmp_path / "cache"))
    vectors = np.random.default_rng(0).normal(size=(NUM_ROWS, 16)).astype(np.float32)
    texts = [f"phrase {i}" for i in range(NUM_ROWS)]
    bank = PhraseBank.build(tmp_path / "large", texts, vectors)
    assert list((tmp_path / "cache").glob("checked/*")) == []
    return bank


def alter(path, place):
    """Change one byte, and leave size and time as they were."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(place)
        (byte,) = file.read(1)
        file.seek(place)
        file.write(bytes([byte ^ 1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def read(bank):
    """Read everything, as decoding does."""
    PhraseBankDecoder(bank).decode(np.ones((2, bank.dim)))
    bank.texts(range(bank.num_phrases))


@pytest.mark.parametrize("name", ["vectors.npy", "owners.npy", "phrases.arrow"])
def test_the_sums_are_those_of_the_files(large, name):
    info, content = large.manifest.files[name], (large.path / name).read_bytes()
    blocks = [content[start : start + BLOCK] for start in range(0, len(content), BLOCK)]
    assert info.blocks.bytes == BLOCK
    assert info.blocks.crc32 == "".join(f"{zlib.crc32(block):08x}" for block in blocks)


@pytest.mark.parametrize("total", [None, 3, 7, 100])
@pytest.mark.parametrize("block", [128, 200, 10**6])
def test_sums_are_right_whether_the_header_was_or_not(tmp_path, monkeypatch, total, block):
    monkeypatch.setattr(hashed_file, "BLOCK_BYTES", block)
    rows = [BankRows(list("abcdefg"), np.arange(1, 36).reshape(7, 5))]
    write_bank(tmp_path / "bank", rows, total=total)
    PhraseBank.open(tmp_path / "bank").verify()
    PhraseBank.from_texts(rows[0].texts, rows[0].vectors).verify()


@pytest.mark.parametrize("name", ["vectors.npy", "owners.npy", "phrases.arrow"])
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 1])
@pytest.mark.parametrize("was_read", [False, True])
def test_every_altered_byte_is_found_when_it_is_read(large, name, part, was_read):
    if was_read:
        read(PhraseBank.open(large.path))
    place = int(part * ((large.path / name).stat().st_size - 1))
    alter(large.path / name, place)
    first = place // BLOCK * BLOCK
    message = rf"{name}, bytes {first} to \d+: .*expected crc32 \w{{8}}, found crc32 \w{{8}}"
    with pytest.raises(BankError, match=message):
        read(PhraseBank.open(large.path))


def test_texts_are_checked_by_the_part_that_is_read(tmp_path, monkeypatch, large):
    num_phrases = 3 * 16_384
    texts = [f"phrase {i}" for i in range(num_phrases)]
    PhraseBank.build(tmp_path / "texts", texts, np.ones((num_phrases, 1)))
    size = (tmp_path / "texts" / "phrases.arrow").stat().st_size
    alter(tmp_path / "texts" / "phrases.arrow", size // 2)
    bank = PhraseBank.open(tmp_path / "texts")
    assert bank.texts([0, num_phrases - 1]) == ["phrase 0", f"phrase {num_phrases - 1}"]
    for _ in range(2):  # it stays wrong
        with pytest.raises(BankError, match=r"phrases\.arrow, bytes"):
            bank.texts([num_phrases // 2])


def test_what_was_right_is_not_summed_again_until_the_file_changes(large, monkeypatch):
    summed = []
    crc32 = zlib.crc32

    def noted(data, start=0):
        summed.append(len(data))
        return crc32(data, start)

    monkeypatch.setattr(stored_file.zlib, "crc32", noted)
    read(PhraseBank.open(large.path))
    assert sum(summed) == sum(info.bytes for info in large.manifest.files.values())
    summed.clear()
    read(PhraseBank.open(large.path))
    assert summed == []
    os.utime(large.path / "vectors.npy")
    read(PhraseBank.open(large.path))
    assert sum(summed) == large.manifest.files["vectors.npy"].bytes


def test_a_file_that_changed_just_now_is_not_remembered(large, monkeypatch, tmp_path):
    monkeypatch.setattr(stored_file, "_SETTLED_S", 60)
    read(PhraseBank.open(large.path))
    assert list((tmp_path / "cache").glob("checked/*")) == []


@pytest.mark.parametrize("content", ["", "[", "{}", "[1, 2]"])
def test_a_damaged_memory_is_no_memory(large, tmp_path, content):
    read(PhraseBank.open(large.path))
    for memo in (tmp_path / "cache").glob("checked/*"):
        memo.write_text(content)
    alter(large.path / "vectors.npy", 5_000)
    with pytest.raises(BankError, match=r"vectors\.npy, bytes 5000 to 5999"):
        read(PhraseBank.open(large.path))


def test_nothing_is_needed_where_nothing_can_be_remembered(large, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("LIGHTWEIGHT_DECODER_CACHE", str(tmp_path / "file"))
    for _ in range(2):
        read(PhraseBank.open(large.path))


@pytest.mark.parametrize("name", ["vectors.npy", "owners.npy", "phrases.arrow"])
@pytest.mark.parametrize("size", ["small", "large"])
def test_a_file_cut_while_the_bank_is_open_is_no_crash(bank, large, name, size):
    opened = PhraseBank.open({"small": bank, "large": large}[size].path)
    decoder = PhraseBankDecoder(opened)
    decoder.decode(np.ones((1, opened.dim)))
    os.truncate(opened.path / name, 10)
    message = rf"{name}: the file does not match .*found 10 bytes: it was cut while it was open"
    with pytest.raises(BankError, match=message):
        decoder.decode(np.ones((1, opened.dim)))
    if name == "vectors.npy":
        with pytest.raises(BankError, match=message):
            opened.gather(torch.tensor([0]))


def test_a_bank_of_a_second_ago_is_read_all_the_same(large):
    assert time.time() - (large.path / "vectors.npy").stat().st_mtime < 60
    read(large)
