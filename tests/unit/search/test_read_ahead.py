"""Mapped vectors: read before they are needed, and held once for all processes."""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from lightweight_decoder.bank import PhraseBank
from lightweight_decoder.search import vector_blocks as module
from lightweight_decoder.search.vector_blocks import device_blocks, read_ahead

on_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="madvise, /proc")

_SEARCHING = """
import json, sys
from pathlib import Path
import torch
from lightweight_decoder.bank import PhraseBank
from lightweight_decoder.search import ExactSearch

torch.set_num_threads(1)
bank = PhraseBank.open(sys.argv[1])
search = ExactSearch(bank, max_block_bytes=2**20, quantized=False)
search.search(torch.ones(1, bank.dim), 3)
sizes, inside = {}, False
for line in Path("/proc/self/smaps").read_text().splitlines():
    name, *rest = line.split()
    if "-" in name and not name.endswith(":"):
        inside = line.endswith("vectors.npy")
    elif inside and rest[-1] == "kB":
        sizes[name[:-1]] = sizes.get(name[:-1], 0) + int(rest[0]) * 1024
print(json.dumps(sizes), flush=True)
input()
"""


@pytest.fixture
def advised(monkeypatch):
    """The ranges of bytes that the system is told about, where nothing is in memory."""
    ranges = []
    system = module._System(lambda *_: 0, lambda *advice: ranges.append(advice))
    monkeypatch.setattr(module, "_system", lambda: system)
    return ranges


@on_linux
def test_names_every_page_of_the_rows_once(advised):
    rows = torch.zeros(3_000, 100)[7:]
    read_ahead(rows)
    starts, sizes, advice = zip(*advised, strict=True)
    assert starts[0] <= rows.data_ptr() < starts[0] + mmap.PAGESIZE
    assert all(start % mmap.PAGESIZE == 0 for start in starts)
    ends = [start + size for start, size in zip(starts, sizes, strict=True)]
    assert ends[:-1] == list(starts[1:])
    assert ends[-1] == rows.data_ptr() + rows.nbytes
    assert set(advice) == {mmap.MADV_WILLNEED}


@on_linux
@pytest.mark.parametrize("missing", [[], [0], [40, 41], [31, 32, 99]])
def test_names_only_what_is_not_in_memory(missing, advised, monkeypatch):
    page, window = mmap.PAGESIZE, 2**17

    def mincore(_first, size, vector):
        pages = (ctypes.c_uint8 * (size // page)).from_address(vector)
        pages[:] = [0xFE | (number not in missing) for number in range(len(pages))]
        return 0

    system = module._system()._replace(mincore=mincore)
    monkeypatch.setattr(module, "_system", lambda: system)
    rows = torch.from_numpy(np.frombuffer(mmap.mmap(-1, 100 * page), np.float32).reshape(10, -1))
    read_ahead(rows)
    windows = [start // window for start, _, _ in advised_from(rows, advised)]
    assert windows == sorted({number * page // window for number in missing})


def advised_from(rows, advised):
    """What was asked for, counted from the rows."""
    return [(start - rows.data_ptr(), size, advice) for start, size, advice in advised]


@on_linux
def test_a_file_is_asked_for_while_it_is_not_in_memory(tmp_path, monkeypatch):
    path, size = tmp_path / "rows", 64 * mmap.PAGESIZE
    path.write_bytes(bytes(size))
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    rows = torch.from_numpy(np.memmap(path, np.float32, mode="r+").reshape(4, -1))
    system, asked = module._system(), []
    pages = np.zeros(64, np.uint8)
    system.mincore(rows.data_ptr(), size, pages.ctypes.data)
    if pages.any():
        pytest.skip("the file system is in memory")
    stand_in = system._replace(madvise=lambda *advice: asked.append(advice))
    monkeypatch.setattr(module, "_system", lambda: stand_in)
    read_ahead(rows)
    half, soon = size // 2, mmap.MADV_WILLNEED
    assert advised_from(rows, asked) == [(0, half, soon), (half, half, soon)]

    rows.sum()
    read_ahead(rows)
    assert len(asked) == 2


@on_linux
def test_what_is_in_memory_is_not_asked_for(monkeypatch):
    system = module._system()._replace(madvise=lambda *_: pytest.fail("asked for"))
    monkeypatch.setattr(module, "_system", lambda: system)
    read_ahead(torch.ones(3_000, 100))


@on_linux
def test_the_next_block_is_named_while_one_is_used(advised):
    vectors = torch.zeros(10, 2_000)
    told = []
    for start, _ in device_blocks(vectors, torch.device("cpu"), 4):
        told.append((start, sum(size for _, size, _ in advised)))
        advised.clear()
    page = mmap.PAGESIZE
    assert [start for start, _ in told] == [0, 4, 8]
    for (_, size), rows in zip(told, (4, 2, 0), strict=True):
        assert rows * 8_000 <= size <= rows * 8_000 + (page if rows else 0)


@pytest.mark.parametrize("rows", [torch.zeros(0, 4), torch.zeros(5, 4), torch.zeros(2, 4).half()])
def test_memory_of_no_file_is_left_alone(rows):
    before = rows.clone()
    read_ahead(rows)
    assert torch.equal(rows, before)


def test_other_systems_do_without(monkeypatch):
    monkeypatch.setattr(module.sys, "platform", "win32")
    module._system.cache_clear()
    try:
        assert module._system() is None
        read_ahead(torch.zeros(5, 4))
    finally:
        module._system.cache_clear()


@pytest.mark.slow
@on_linux
def test_processes_share_the_vectors_of_a_bank(tmp_path):
    rows = np.random.default_rng(0).standard_normal((40_000, 64)).astype(np.float32)
    PhraseBank.build(tmp_path / "bank", [str(i) for i in range(len(rows))], rows)
    command = [sys.executable, "-c", _SEARCHING, str(tmp_path / "bank")]
    processes = []
    try:
        for _ in range(2):
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            processes.append(process)
            assert process.stdout is not None
            sizes = json.loads(process.stdout.readline())
            assert sizes["Rss"] >= rows.nbytes
            assert sizes["Private_Dirty"] < 2**16
            assert sizes["Anonymous"] < 2**16
        assert sizes["Shared_Clean"] >= rows.nbytes  # the first process still has the map
    finally:
        for process in processes:
            process.communicate("\n")
