"""What to install, from lists that were read off wheels on a known day. Never part of a verdict.

Lists of wheels age, so every sentence names its date. A wheel is recommended only if the rules say
yes for its list, the device and the driver at hand.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lightweight_decoder.accelerator.rules import judge

if TYPE_CHECKING:
    from lightweight_decoder.accelerator.machine import Machine

READ_ON = "2026-11-22"

# Oldest Linux drivers for a CUDA major:
# https://docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html
_OLDEST_DRIVERS = {"11": "450.80.02", "12": "525.60.13", "13": "580.65.06"}


@dataclass(frozen=True)
class Wheel:
    """A torch wheel and what it has kernels for."""

    name: str
    system: str
    arch_list: tuple[str, ...]
    cuda_version: str | None = None


def _cuda(name: str, machine: str, cuda_version: str, numbers: str) -> Wheel:
    entries = tuple(f"sm_{number}" for number in numbers.split())
    return Wheel(name, f"Linux {machine}", entries, cuda_version)


def _rocm(name: str, numbers: str) -> Wheel:
    return Wheel(name, "Linux x86_64", tuple(f"gfx{number}" for number in numbers.split()))


# Newest first. Read from the wheels, except cu126 (torch 2.14.1's own table) and ROCm (pytorch's
# .ci/docker, PYTORCH_ROCM_ARCH).
WHEELS = (
    _cuda("torch 2.15.0 from PyPI (CUDA 13.2)", "x86_64", "13.2", "75 80 86 90 100 120"),
    _cuda("torch 2.14.1 from PyPI (CUDA 13.0)", "x86_64", "13.0", "75 80 86 90 100 120"),
    _cuda("torch 2.14.1+cu126 (CUDA 12.6)", "x86_64", "12.6", "50 60 70 75 80 86 90"),
    _cuda("torch 2.10.0 from PyPI (CUDA 12.8)", "x86_64", "12.8", "70 75 80 86 90 100 120"),
    _cuda("torch 2.15.0 from PyPI (CUDA 13.2)", "aarch64", "13.2", "80 90 100 110 120"),
    _cuda("torch 2.14.1 from PyPI (CUDA 13.0)", "aarch64", "13.0", "80 90 100 110 120"),
    _cuda("torch 2.14.1+cu126 (CUDA 12.6)", "aarch64", "12.6", "80 90"),
    _cuda("torch 2.9.1+cu128 (CUDA 12.8)", "aarch64", "12.8", "80 90 100 120"),
    _rocm(
        "torch for ROCm 7 from download.pytorch.org",
        "900 906 908 90a 942 950 1030 1100 1101 1102 1150 1151 1200 1201",
    ),
    _rocm(
        "torch for ROCm 6.4 from download.pytorch.org",
        "900 906 908 90a 942 1030 1100 1101 1102 1200 1201",
    ),
)


def wheel_advice(
    machine: Machine,
    *,
    capability: tuple[int, int] | None = None,
    gcn_arch: str | None = None,
) -> str:
    """Say which wheel has kernels for a device, as of :data:`READ_ON`.

    Args:
        machine: The installed build, driver and system.
        capability: Compute capability of an NVIDIA device.
        gcn_arch: Architecture of an AMD device.
    """
    device = gcn_arch or (
        f"compute capability {capability[0]}.{capability[1]}" if capability else ""
    )
    candidates = [wheel for wheel in WHEELS if wheel.system == machine.system]
    if not device or not candidates:
        return (
            "Install a torch build whose torch.cuda.get_arch_list() covers the device; no wheel for"
            f" {machine.system or 'this system'} was looked at on {READ_ON}."
        )
    fitting = [
        wheel
        for wheel in candidates
        if judge(wheel.arch_list, capability=capability, gcn_arch=gcn_arch).answer == "yes"
    ]
    if not fitting:
        return (
            f"No torch wheel from 2.8 on that was looked at on {READ_ON} has kernels for {device}:"
            " run with accelerator=cpu, or build torch for it."
        )
    for wheel in fitting:
        served = judge(
            wheel.arch_list,
            capability=capability,
            gcn_arch=gcn_arch,
            cuda_version=wheel.cuda_version,
            driver_cuda_version=machine.driver_cuda_version,
        )
        if served.answer == "yes":
            return f"Install {wheel.name}, which had kernels for {device} on {READ_ON}."
    wheel = fitting[0]
    return (
        f"Install {wheel.name}, which had kernels for {device} on {READ_ON}, and a driver for it"
        f" ({_driver_for(wheel.cuda_version)})."
    )


def driver_advice(machine: Machine) -> str:
    """Say which driver the installed build needs, and which build the installed driver serves."""
    if not machine.cuda_version:
        return "Install a newer driver."
    advice = (
        f"torch {machine.torch_version} was built with CUDA {machine.cuda_version}, the driver"
        f" supports {machine.driver_cuda_version or 'less'}: install"
        f" {_driver_for(machine.cuda_version)}"
    )
    older = next((wheel for wheel in WHEELS if _served(wheel, machine)), None)
    return f"{advice}, or {older.name} (as of {READ_ON})." if older else f"{advice}."


def _served(wheel: Wheel, machine: Machine) -> bool:
    """Whether the installed driver runs a wheel's binaries, whatever the device."""
    if wheel.system != machine.system or not wheel.cuda_version or not machine.driver_cuda_version:
        return False
    any_device = judge(
        ["sm_90"],
        capability=(9, 0),
        cuda_version=wheel.cuda_version,
        driver_cuda_version=machine.driver_cuda_version,
    )
    return any_device.answer == "yes"


def _driver_for(cuda_version: str | None) -> str:
    """Return the oldest driver for a CUDA version, as a phrase."""
    major = (cuda_version or "").partition(".")[0]
    oldest = _OLDEST_DRIVERS.get(major)
    return f"driver {oldest} or newer" if oldest else f"a driver for CUDA {cuda_version}"
