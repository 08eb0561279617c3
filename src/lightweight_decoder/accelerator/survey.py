"""Verdicts on every device of a backend, by the cheapest way that is still a proof."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lightweight_decoder.accelerator import verdict_cache
from lightweight_decoder.accelerator.diagnosis import FREE_MEMORY_FLOOR_BYTES, wheel_advice
from lightweight_decoder.accelerator.machine import Gpu, list_gpus, read_visibility
from lightweight_decoder.accelerator.plan import DeviceReport
from lightweight_decoder.accelerator.probe import TIME_LIMIT_S, probe_devices

if TYPE_CHECKING:
    from collections.abc import Callable

    from lightweight_decoder.accelerator.machine import Machine
    from lightweight_decoder.accelerator.plan import GpuBackend, Source

    Probe = Callable[[Machine, GpuBackend], tuple[DeviceReport, ...]]

_LOCK_PATIENCE_S = TIME_LIMIT_S + 30


@dataclass(frozen=True)
class Survey:
    """What is known about a backend: a report per device, or why there are none (``absent``).

    ``source`` says how the reports came about, ``probe_ms`` the wall-clock time of the probe (0 if
    there was none), ``deliberate`` whether a person switched all devices off by an environment
    variable.
    """

    backend: GpuBackend
    reports: tuple[DeviceReport, ...] = ()
    absent: str = ""
    source: Source = "none"
    probe_ms: float = 0.0
    deliberate: bool = False


def survey(
    machine: Machine, backend: GpuBackend, *, use_cache: bool = True, probe: Probe = probe_devices
) -> Survey:
    """Verdicts from the build and the machine alone, the parent, the cache, or a probe.

    Ranks of one launch on a node wait for the first of them and share what it found, cache or not.
    """
    known = _without_probe(machine, backend)
    if known is not None:
        return known
    key = verdict_cache.machine_key(machine, backend)
    reports = verdict_cache.handed_down(key)
    if reports is not None:
        return Survey(backend, reports, source="parent")
    launch = verdict_cache.launch_key(key)
    # Alone, a cached verdict needs no lock; ranks take turns, so that they cannot disagree on it.
    found = _cached(key, backend) if use_cache and launch is None else None
    if found is None:
        with verdict_cache.alone(key, patience_s=_LOCK_PATIENCE_S):
            if launch is not None and (reports := verdict_cache.load_launch(launch)) is not None:
                return Survey(backend, reports, source="parent")
            found = (_cached(key, backend) if use_cache else None) or _probed(
                machine, backend, probe
            )
            if use_cache and found.source == "probe":
                verdict_cache.store(key, found.reports)
            if launch is not None:
                verdict_cache.store_launch(launch, found.reports)
    verdict_cache.hand_down(key, found.reports)
    return found


def _cached(key: str, backend: GpuBackend) -> Survey | None:
    """Return the survey of an earlier run, if it is still true."""
    reports = verdict_cache.load(key)
    if reports is None or not _still_true(reports):
        return None
    return Survey(backend, reports, source="cache")


def _probed(machine: Machine, backend: GpuBackend, probe: Probe) -> Survey:
    """Return a survey by running kernels."""
    began = time.monotonic()
    reports = probe(machine, backend)
    probe_ms = round((time.monotonic() - began) * 1000, 1)
    return Survey(backend, reports, source="probe", probe_ms=probe_ms)


def _still_true(reports: tuple[DeviceReport, ...]) -> bool:
    """Whether the devices that were usable are still there and still have memory to give."""
    usable = [report.uuid for report in reports if report.usable and report.uuid]
    gpus = {gpu.uuid: gpu.free_memory_bytes for gpu in list_gpus()} if usable else {}
    if not gpus:
        return True
    # Memory is not known where the GPU shares the CPU's.
    return all(
        uuid in gpus and (gpus[uuid] or FREE_MEMORY_FLOOR_BYTES) >= FREE_MEMORY_FLOOR_BYTES
        for uuid in usable
    )


def _without_probe(machine: Machine, backend: GpuBackend) -> Survey | None:
    """Return a verdict that needs no process: nothing built, there or visible."""
    if backend == "mps":
        return (
            None
            if machine.mps_built
            else Survey(backend, absent=f"torch {machine.torch_version} was built without MPS")
        )
    if not (machine.cuda_version or machine.hip_version):
        return _not_built(machine)
    if not machine.driver_present:
        kind = "AMD" if machine.hip_version else "NVIDIA"
        return Survey(backend, absent=f"there is no {kind} GPU here, or no driver for it")
    return _unreachable(machine)


def _unreachable(machine: Machine) -> Survey | None:
    """There is a driver, but the environment or the system keeps this process from its devices."""
    visibility = read_visibility(machine.variables, hip=machine.hip_version is not None)
    if visibility.hides_all:
        advice = f"Unset {(visibility.setting or '').partition('=')[0]} to use the GPU."
        found = _all(machine, DeviceReport("hidden", visibility.reason, advice))
        return replace(found, deliberate=visibility.deliberate)
    if not machine.device_access:
        reason = "this user may not open /dev/kfd, the AMD driver's device file"
        advice = "Add the user to the groups render and video, and log in again."
        return _all(machine, DeviceReport("init_failed", reason, advice))
    if not machine.driver_loads and not machine.hip_version:
        reason = "there are device files of an NVIDIA driver, but libcuda cannot be loaded"
        advice = "Install the driver's user libraries; in a container, start it with --gpus all."
        return _all(machine, DeviceReport("init_failed", reason, advice))
    return None


def _not_built(machine: Machine) -> Survey:
    """Return the build is for CPUs (or Intel GPUs) only."""
    if machine.xpu_built:
        return Survey(
            "cuda",
            absent="this torch build is for Intel GPUs, for which Lightning has no accelerator",
        )
    reason = f"torch {machine.torch_version} was built without CUDA and ROCm"
    if not machine.driver_present:
        return Survey("cuda", absent=reason)
    return _all(machine, DeviceReport("not_built", reason, wheel_advice(machine)))


def _all(machine: Machine, report: DeviceReport) -> Survey:
    """One verdict for every GPU that the operating system lists, or for the one it must have."""
    report = replace(report, driver_cuda_version=machine.driver_cuda_version)
    gpus = machine.gpus or (Gpu(None, None),)
    return Survey("cuda", tuple(replace(report, uuid=gpu.uuid, name=gpu.name) for gpu in gpus))
