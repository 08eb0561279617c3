"""Which NVIDIA GPUs the machine has and how full they are, asked of the driver's NVML library.

NVML does not initialize CUDA, so a process that asked stays free to fork. It is asked only after a
probe found the driver healthy, and in a thread of its own, since a wedged driver may never answer.
"""

from __future__ import annotations

import contextlib
import threading

from lightweight_decoder.accelerator.machine import Gpu

_PATIENCE_S = 5.0


def list_gpus() -> tuple[Gpu, ...]:
    """Return the GPUs in PCI order; empty if NVML is missing, fails or does not answer.

    ``CUDA_VISIBLE_DEVICES`` has no say here.
    """
    found: list[Gpu] = []
    thread = threading.Thread(target=_collect, args=(found,), daemon=True)
    thread.start()
    thread.join(_PATIENCE_S)
    return () if thread.is_alive() else tuple(found)


def _collect(found: list[Gpu]) -> None:
    """Append every GPU, or nothing."""
    try:
        import pynvml  # noqa: PLC0415 - a machine without a GPU must not wait for it
    except ImportError:
        return

    def describe(handle: object) -> Gpu:
        free = None
        with contextlib.suppress(pynvml.NVMLError):  # the GPU shares the CPU's memory
            free = int(pynvml.nvmlDeviceGetMemoryInfo(handle).free)
        return Gpu(pynvml.nvmlDeviceGetUUID(handle), pynvml.nvmlDeviceGetName(handle), free)

    with contextlib.suppress(pynvml.NVMLError):
        pynvml.nvmlInit()
        try:
            handles = map(pynvml.nvmlDeviceGetHandleByIndex, range(pynvml.nvmlDeviceGetCount()))
            found.extend([describe(handle) for handle in handles])
        finally:
            pynvml.nvmlShutdown()
