"""Which NVIDIA GPUs the machine has and how full they are, asked of the driver's NVML library.

NVML does not initialize CUDA, so a process that asked stays free to fork. It is asked only after a
probe found the driver healthy, and in a thread of its own, since a wedged driver may never answer.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from dataclasses import dataclass

_LIBRARY = {"win32": "nvml.dll"}.get(sys.platform, "libnvidia-ml.so.1")
_TEXT_BYTES = 96
_PATIENCE_S = 5.0


@dataclass(frozen=True)
class NvmlGpu:
    """One GPU of the machine; ``CUDA_VISIBLE_DEVICES`` has no say here."""

    uuid: str
    name: str
    free_memory_bytes: int | None  # None where the GPU shares the CPU's memory


class _Memory(ctypes.Structure):
    """NVML's ``nvmlMemory_t``."""

    _fields_ = (
        ("total", ctypes.c_ulonglong),
        ("free", ctypes.c_ulonglong),
        ("used", ctypes.c_ulonglong),
    )


class _NvmlError(Exception):
    """NVML answered with an error number."""


def list_gpus() -> tuple[NvmlGpu, ...]:
    """Return the GPUs in PCI order; empty if NVML is missing, fails or does not answer."""
    found: list[NvmlGpu] = []
    thread = threading.Thread(target=_collect, args=(found,), daemon=True)
    thread.start()
    thread.join(_PATIENCE_S)
    return () if thread.is_alive() else tuple(found)


def _collect(found: list[NvmlGpu]) -> None:
    """Append every GPU, or nothing."""
    try:
        nvml = ctypes.CDLL(_LIBRARY)
        _check(nvml.nvmlInit_v2())
        try:
            count = ctypes.c_uint()
            _check(nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)))
            found.extend([_describe(nvml, index) for index in range(count.value)])
        finally:
            nvml.nvmlShutdown()
    except (OSError, AttributeError, _NvmlError):
        return


def _describe(nvml: ctypes.CDLL, index: int) -> NvmlGpu:
    """Return the facts of one GPU."""
    handle, memory = ctypes.c_void_p(), _Memory()
    uuid, name = (ctypes.create_string_buffer(_TEXT_BYTES) for _ in range(2))
    _check(nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(handle)))
    _check(nvml.nvmlDeviceGetUUID(handle, uuid, _TEXT_BYTES))
    _check(nvml.nvmlDeviceGetName(handle, name, _TEXT_BYTES))
    has_memory = nvml.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory)) == 0
    free = memory.free if has_memory else None
    return NvmlGpu(uuid.value.decode(), name.value.decode(), free)


def _check(code: int) -> None:
    """Raise for NVML's error numbers."""
    if code:
        raise _NvmlError(code)
