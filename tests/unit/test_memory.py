"""The memory budget: what it counts, what it refuses, and what it says."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest

from lightweight_decoder.errors import BankError, ConfigError, MemoryBudgetError
from lightweight_decoder.memory import (
    memory_budget,
    move_limit,
    peak_memory_bytes,
    require_memory,
)

TOLD = {"work": "decoding", "advice": "do less."}
ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")


def test_what_is_needed_is_told_part_by_part():
    needed = {"vectors": 3 * 2**30, "lists": 2**29}
    message = (
        r"^max_memory_gb: decoding takes more memory than it may: expected at most 3\.25 GiB above"
        r" .*, found needs at least 3\.5 GiB \(3 for vectors, 0\.5 for lists\)\."
        r" Raise max_memory_gb, or do less\.$"
    )
    with pytest.raises(MemoryBudgetError, match=message):
        require_memory(3.25, needed, **TOLD)


@pytest.mark.parametrize("gib", [3.5, 4, None])
def test_what_fits_is_not_refused(gib):
    require_memory(gib, {"vectors": 3 * 2**30, "lists": 2**29}, **TOLD)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (MemoryError(), "refused: MemoryError"),
        (MemoryError("Unable to allocate 300. MiB"), r"refused: Unable to allocate 300\. MiB"),
        (pa.ArrowMemoryError("malloc of size 9 failed"), "refused: malloc of size 9 failed"),
        (
            RuntimeError(
                "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate"
                " memory: you tried to allocate 9 bytes. Error code 12 (Cannot allocate memory)"
            ),
            "refused: DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes",
        ),
        (
            RuntimeError("unable to mmap 9 bytes from file <v.pt>: Cannot allocate memory (12)"),
            "refused: unable to mmap 9 bytes",
        ),
        (RuntimeError("std::bad_alloc"), r"refused: std::bad_alloc"),
        (RuntimeError("can't start new thread"), "refused: can't start new thread"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), r"refused: \[Errno 12\] Cannot"),
    ],
)
def test_whoever_runs_out_of_memory_the_error_is_ours(error, told):
    with pytest.raises(MemoryBudgetError, match=told), memory_budget(64, **TOLD):
        raise error


def test_an_error_of_ours_that_memory_caused_is_told_as_such():
    with pytest.raises(MemoryBudgetError, match="refused: 300 MiB"), memory_budget(64, **TOLD):
        raise BankError("cannot be read") from MemoryError("300 MiB")


@pytest.mark.parametrize(
    "error",
    [
        ConfigError("wrong"),
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        MemoryBudgetError("refused before"),
        KeyboardInterrupt(),
    ],
)
def test_other_errors_pass_as_they_are(error):
    with pytest.raises(type(error)) as raised, memory_budget(64, **TOLD):
        raise error
    assert raised.value is error


def test_without_a_budget_nothing_is_limited_or_renamed():
    with pytest.raises(MemoryError, match="as it was"), memory_budget(None, **TOLD):
        raise MemoryError("as it was")


@ON_LINUX
def test_the_limit_is_gone_after_the_block_and_moves_only_in_it():
    import resource

    before = resource.getrlimit(resource.RLIMIT_DATA)
    move_limit(4096)
    assert resource.getrlimit(resource.RLIMIT_DATA) == before
    with memory_budget(64, **TOLD):
        inside, hard = resource.getrlimit(resource.RLIMIT_DATA)
        assert (inside >= 64 * 2**30, hard) == (True, before[1])
        move_limit(4096)
        assert resource.getrlimit(resource.RLIMIT_DATA)[0] == inside + 4096
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


@ON_LINUX
def test_a_gpu_has_no_such_limit():
    import resource

    before = resource.getrlimit(resource.RLIMIT_DATA)
    with memory_budget(64, device="cuda:0", **TOLD):
        assert resource.getrlimit(resource.RLIMIT_DATA) == before


def test_peak_memory_grows_with_what_is_held():
    before = peak_memory_bytes()
    held = np.ones(before + 50_000_000, dtype=np.uint8)

    assert peak_memory_bytes() >= held.nbytes


AS_ON_WINDOWS = """
import builtins, importlib, pkgutil
from types import SimpleNamespace

POSIX_ONLY = {"resource", "fcntl", "pwd", "grp", "termios", "tty", "pty", "posix"}
real_import = builtins.__import__

def import_module(name, globals=None, *rest, **named):
    if name in POSIX_ONLY and (globals or {}).get("__name__", "").startswith("lightweight_decoder"):
        raise ModuleNotFoundError(f"No module named {name!r}")
    return real_import(name, globals, *rest, **named)

builtins.__import__ = import_module
import lightweight_decoder
for module in pkgutil.walk_packages(lightweight_decoder.__path__, "lightweight_decoder."):
    importlib.import_module(module.name)

import psutil
psutil.Process = lambda: SimpleNamespace(memory_info=lambda: SimpleNamespace(peak_wset=123))
from lightweight_decoder.memory import memory_budget, move_limit, peak_memory_bytes
with memory_budget(1, work="this", advice="do less."):
    move_limit(4096)
assert peak_memory_bytes() == 123
"""


@pytest.mark.slow
def test_every_module_can_be_imported_on_windows():
    subprocess.run([sys.executable, "-c", AS_ON_WINDOWS], check=True)


ALLOCATIONS = {
    "numpy": "np.ones(SIZE, dtype=np.uint8)",
    "torch": "torch.ones(SIZE, dtype=torch.uint8)",
    "pyarrow": "pa.allocate_buffer(SIZE)",
    "python": "bytearray(SIZE)",
    "mapped, then numpy": "(mapped(), np.ones(SIZE, dtype=np.uint8))",
    "unmapped, then numpy": "[mapped().sum(), np.ones(SIZE, dtype=np.uint8)][1]",
    "little by little": "[bytearray(2**20) for _ in range(2**9)]",
}
"""What holds 512 MiB."""

ALLOCATE = """
import sys
from pathlib import Path

import numpy as np, pyarrow as pa, torch
from lightweight_decoder.bank import FileInfo
from lightweight_decoder.bank.stored_file import StoredFile, array_in
from lightweight_decoder.errors import MemoryBudgetError
from lightweight_decoder.memory import memory_budget

SIZE = 2**29

def mapped():
    path = Path(sys.argv[1])
    return array_in(StoredFile.map(path, FileInfo(path.stat().st_size, "")), (SIZE,), np.uint8)

def outcome(gib, allocation):
    try:
        with memory_budget(gib, work="this", advice="do less."):
            eval(allocation)
    except MemoryBudgetError:
        return "refused"
    return "done"

for allocation in sys.argv[2:]:
    print(outcome(0.25, allocation), outcome(0.625, allocation))
print(outcome(0.125, "mapped().sum()"))
"""


@pytest.mark.slow
@ON_LINUX
def test_512_mib_are_refused_to_256_and_given_to_640_and_mapped_files_do_not_count(tmp_path):
    path = tmp_path / "v.npy"
    np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(2**29,)).flush()
    done = subprocess.run(
        [sys.executable, "-c", ALLOCATE, path, *ALLOCATIONS.values()],
        capture_output=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        text=True,
        check=False,
    )

    *outcomes, of_map_alone = done.stdout.splitlines()
    assert dict(zip(ALLOCATIONS, outcomes, strict=True)) == dict.fromkeys(
        ALLOCATIONS, "refused done"
    )
    assert of_map_alone == "done"
