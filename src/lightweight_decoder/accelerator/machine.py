"""Facts about the torch build and the machine: all but ``list_gpus`` without waking a device."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import re
import sys
import threading
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


VISIBILITY_VARIABLES = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
# Variables that change which kernels run, or on what.
OVERRIDE_VARIABLES = (
    "CUDA_FORCE_PTX_JIT",
    "CUDA_FORCE_JIT",
    "CUDA_DISABLE_PTX_JIT",
    "CUDA_DISABLE_JIT",
    "CUDA_DEVICE_ORDER",
    "HSA_OVERRIDE_GFX_VERSION",
    "LD_LIBRARY_PATH",
)

_NVIDIA_PROC = Path("/proc/driver/nvidia/gpus")
_KFD = Path("/dev/kfd")
_KFD_NODES = Path("/sys/class/kfd/kfd/topology/nodes")
# The last ones are Jetson's and WSL's.
_NVIDIA_DEVICE_FILES = ("nvidia[0-9]*", "nvidiactl", "nvgpu", "nvhost-gpu", "nvmap", "dxg")
_LIBCUDA = {"win32": "nvcuda.dll"}.get(sys.platform, "libcuda.so.1")
_NVML_PATIENCE_S = 5.0


@dataclass(frozen=True)
class Gpu:
    """A GPU that the system or its driver lists, whether or not torch may use it."""

    uuid: str | None
    name: str | None
    free_memory_bytes: int | None = None  # None where nobody asked, or it is the CPU's memory


@dataclass(frozen=True)
class Machine:
    """What decides, before any device is touched, whether a probe is worth starting.

    Attributes:
        torch_version: Such as ``"2.14.1+cu130"``.
        cuda_version: CUDA version of a CUDA build, else None.
        hip_version: HIP version of a ROCm build, else None.
        mps_built: Whether the build supports Apple GPUs.
        xpu_built: Whether the build supports Intel GPUs.
        installed_ns: When this torch was installed, in nanoseconds since 1970: another build may
            have the same version.
        arch_list: What the build has kernels for; empty until the probe's child says it, as asking
            torch would mark this process ("Cannot re-initialize CUDA in forked subprocess").
        driver_loads: Whether the driver's user library can be loaded.
        driver_cuda_version: Newest CUDA version that the driver supports, such as ``"13.0"``.
        device_files: Whether the kernel driver offers device files.
        device_access: Whether this user may open them.
        gpus: What the kernel driver lists.
        variables: The visibility and override variables that are set.
        system: Operating system and CPU, such as ``"Linux x86_64"``.
    """

    torch_version: str
    cuda_version: str | None = None
    hip_version: str | None = None
    mps_built: bool = False
    xpu_built: bool = False
    installed_ns: int = 0
    arch_list: tuple[str, ...] = ()
    driver_loads: bool = False
    driver_cuda_version: str | None = None
    device_files: bool = False
    device_access: bool = True
    gpus: tuple[Gpu, ...] = ()
    variables: dict[str, str] = field(default_factory=dict)
    system: str = ""

    @property
    def driver_present(self) -> bool:
        """Whether there is any trace of a driver for NVIDIA or AMD GPUs."""
        return self.driver_loads or self.device_files


def look_at_machine() -> Machine:
    """Read the facts: milliseconds, no CUDA initialization, no NVML."""
    import torch  # noqa: PLC0415 - importing this package must stay cheap

    hip, libraries = torch.version.hip, Path(torch.__file__).parent.glob("lib/*torch*")
    driver_version = None if hip else _driver_cuda_version()
    return Machine(
        torch_version=str(torch.__version__),
        cuda_version=torch.version.cuda,
        hip_version=hip,
        mps_built=torch.backends.mps.is_built(),
        xpu_built=getattr(torch.version, "xpu", None) is not None,
        installed_ns=max((file.stat().st_mtime_ns for file in libraries), default=0),
        driver_loads=driver_version is not None,
        driver_cuda_version=driver_version,
        device_files=_KFD.exists() if hip else _has_nvidia_files(),
        device_access=os.access(_KFD, os.R_OK | os.W_OK) if hip and _KFD.exists() else True,
        gpus=_amd_gpus() if hip else _nvidia_gpus(),
        variables={
            name: value
            for name, value in sorted(os.environ.items())
            if name in (*VISIBILITY_VARIABLES, *OVERRIDE_VARIABLES)
            or name.startswith("HSA_OVERRIDE_GFX_VERSION_")
        },
        system=f"{platform.system()} {platform.machine()}",
    )


def _driver_cuda_version() -> str | None:
    """CUDA version of the installed driver; asking does not initialize it."""
    number = ctypes.c_int()
    try:
        if ctypes.CDLL(_LIBCUDA).cuDriverGetVersion(ctypes.byref(number)) != 0:
            return None
    except (OSError, AttributeError):
        return None
    return f"{number.value // 1000}.{number.value % 1000 // 10}"


def _has_nvidia_files() -> bool:
    """Whether /dev has anything of an NVIDIA driver."""
    dev = Path("/dev")
    return any(next(dev.glob(pattern), None) is not None for pattern in _NVIDIA_DEVICE_FILES)


def _nvidia_gpus() -> tuple[Gpu, ...]:
    """GPUs in the kernel driver's own list; empty where the system has no such list."""
    gpus = []
    with contextlib.suppress(OSError):
        for information in sorted(_NVIDIA_PROC.glob("*/information")):
            lines = (line.partition(":") for line in information.read_text().splitlines())
            facts = {key.strip(): value.strip() for key, _, value in lines}
            gpus.append(Gpu(uuid=facts.get("GPU UUID"), name=facts.get("Model")))
    return tuple(gpus)


def _amd_gpus() -> tuple[Gpu, ...]:
    """GPUs among the kernel driver's nodes (CPUs are nodes too, without a graphics version)."""
    gpus = []
    with contextlib.suppress(OSError):
        for properties in sorted(_KFD_NODES.glob("*/properties")):
            facts = dict(line.split(maxsplit=1) for line in properties.read_text().splitlines())
            if int(facts.get("gfx_target_version", 0)):
                unique = int(facts.get("unique_id", 0))
                gpus.append(Gpu(uuid=f"GPU-{unique:x}" if unique else None, name=None))
    return tuple(gpus)


@dataclass(frozen=True)
class Visibility:
    """Which devices the environment lets a process see.

    Attributes:
        setting: ``"CUDA_VISIBLE_DEVICES='0,1'"``, or None if nothing restricts.
        hides_all: Whether nothing is left to see.
        deliberate: Whether that is how one switches GPUs off on purpose (empty, or ``-1``).
        reason: One sentence that names the value; empty if nothing restricts.
    """

    setting: str | None = None
    hides_all: bool = False
    deliberate: bool = False
    reason: str = ""


def read_visibility(variables: Mapping[str, str], *, hip: bool = False) -> Visibility:
    """Read the variable that counts for this build, as CUDA and torch read it.

    In a ROCm build (``hip``) HIP_VISIBLE_DEVICES wins over ROCR_VISIBLE_DEVICES, and that over
    CUDA_VISIBLE_DEVICES. Source of the grammar: ``_parse_visible_devices`` in torch 2.13's
    ``torch/cuda/__init__.py``.
    """
    names = ["CUDA_VISIBLE_DEVICES"]
    if hip:
        names = ["HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", *names]
    name = next((name for name in names if name in variables), None)
    if name is None:
        return Visibility()
    value = variables[name]
    setting = f"{name}={value!r}"
    if value.strip() in {"", "-1"}:
        return Visibility(setting, True, True, f"{setting} hides every GPU")
    if value.startswith("MIG-"):
        return Visibility(setting, reason=f"{setting} shows one MIG instance of a GPU")
    elements = [element.strip() for element in value.split(",")]
    if value.startswith("GPU-"):
        listed, shown = elements, "the GPUs it names"
    else:
        numbers = _ordinals(elements)
        listed = [f"GPU {number}" for number in numbers]
        shown = f"GPU {' and '.join(map(str, numbers))} of the machine"
    twice = next((item for place, item in enumerate(listed) if item in listed[:place]), None)
    if twice is not None or not listed:
        why = "names no GPU, so it" if twice is None else f"names {twice} twice, which"
        return Visibility(setting, hides_all=True, reason=f"{setting} {why} hides every GPU")
    return Visibility(setting, reason=f"{setting} shows only {shown}")


def _ordinals(elements: Sequence[str]) -> list[int]:
    """Return the numbers up to the first element that is none; text after a number is ignored."""
    matches = (re.match(r"\+?\d+|-0+(?!\d)", element) for element in elements)
    return [int(match[0]) for match in takewhile(bool, matches) if match]


def list_gpus() -> tuple[Gpu, ...]:
    """Return NVIDIA's GPUs in PCI order, however ``CUDA_VISIBLE_DEVICES`` is set.

    NVML does not initialize CUDA, so this process stays free to fork. It is asked only after a
    probe found the driver healthy, and in a thread of its own, since a wedged driver may never
    answer; empty if it is missing, fails or does not answer.
    """
    found: list[Gpu] = []
    thread = threading.Thread(target=_collect, args=(found,), daemon=True)
    thread.start()
    thread.join(_NVML_PATIENCE_S)
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
