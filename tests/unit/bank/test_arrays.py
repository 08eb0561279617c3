"""Mapping arrays: larger ones than memory, and no way back to the file."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import psutil
import pytest

from lightweight_decoder.bank.arrays import map_array

OVERCOMMIT = Path("/proc/sys/vm/overcommit_memory")


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
