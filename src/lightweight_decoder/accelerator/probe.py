"""Prove each device in a fresh process of its own, so that none can harm this one or another.

The parent never initializes CUDA: it would make every later fork fail. A scout lists the devices
and proves the first one; each further device has its own process, all at once.
"""

from __future__ import annotations

import json
import os
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightweight_decoder.accelerator.child_process import ChildOutcome, run_child
from lightweight_decoder.accelerator.cuda_errors import NO_DEVICE
from lightweight_decoder.accelerator.diagnosis import diagnose, explain, identify, judge_report
from lightweight_decoder.accelerator.machine import Gpu, list_gpus, read_visibility
from lightweight_decoder.accelerator.plan import DeviceReport

if TYPE_CHECKING:
    from lightweight_decoder.accelerator.machine import Machine
    from lightweight_decoder.accelerator.plan import GpuBackend

TIME_LIMIT_S = 60.0
COMPILING_TIME_LIMIT_S = 900.0  # the driver compiles PTX kernel by kernel, minutes in all
_CHILD_PROGRAM = Path(__file__).with_name("probe_child.py")
_MOST_CHILDREN = 16
_ERRORS_OF_THE_DRIVER = frozenset({100, 802, 803, 804})  # no single GPU is at fault
_MOST_DEVICES = 64  # torch's own limit


def probe_devices(
    machine: Machine,
    backend: GpuBackend,
    *,
    time_limit_s: float = TIME_LIMIT_S,
    program: Path = _CHILD_PROGRAM,
) -> tuple[DeviceReport, ...]:
    """Run real kernels on every device of a backend and report on each.

    Each device has ``time_limit_s``; builds whose code the driver must compile first get 15
    minutes. Reports are in torch's own order, then hidden devices, and never empty. If the backend
    fails as a whole, there is one for each GPU that the operating system lists, without index. If
    it fails because of some GPUs, the others are indexed as if ``CUDA_VISIBLE_DEVICES`` named them.
    """
    prober = _Prober(machine, backend, time_limit_s, program)
    reports = prober.probe(_environment())
    if _may_hide_healthy_ones(reports, machine):
        return prober.probe_one_by_one()
    return (*reports, *_hidden(reports, machine, backend))


def read_arch_list() -> tuple[str, ...]:
    """Ask a child what the installed torch has kernels for; nothing where it has no list."""
    outcome = run_child(
        _command(_CHILD_PROGRAM, "build", 0, announcing=True),
        environment=_environment(),
        time_limit_s=TIME_LIMIT_S,
    )
    return _arch_list(outcome.messages[0]) if outcome.messages else ()


@dataclass(frozen=True)
class _Prober:
    """What all children of one probe have in common."""

    machine: Machine
    backend: GpuBackend
    time_limit_s: float
    program: Path

    def probe(self, environment: dict[str, str]) -> tuple[DeviceReport, ...]:
        """Report on every device that an environment shows."""
        machine = self.machine
        devices: dict[int, DeviceReport] = {}
        workers: dict[int, Future[ChildOutcome]] = {}

        def meet(message: dict[str, Any]) -> float | None:
            nonlocal machine
            if message["kind"] == "build":
                machine = replace(machine, arch_list=_arch_list(message))
            report = _introduced(message, machine, self.backend)
            if report is None or report.index is None or report.index in devices:
                return None
            devices[report.index] = report
            limit_s = _limit_s(report, machine, self.time_limit_s)
            if report.index == 0:
                return limit_s
            workers[report.index] = pool.submit(
                run_child,
                _command(self.program, self.backend, report.index),
                environment=environment,
                time_limit_s=limit_s,
            )
            return None

        with ThreadPoolExecutor(_MOST_CHILDREN) as pool:
            scout = run_child(
                _command(self.program, self.backend, 0, announcing=True),
                environment=environment,
                time_limit_s=self.time_limit_s,
                on_message=meet,
            )
            outcomes = {0: scout} | {index: worker.result() for index, worker in workers.items()}
        if not devices:
            return _whole_backend(scout, machine, self.backend)
        return tuple(
            diagnose(devices[index], outcomes[index], machine) for index in sorted(devices)
        )

    def probe_one_by_one(self) -> tuple[DeviceReport, ...]:
        """Report on GPUs that are each shown alone, the usable ones first and numbered."""

        def alone(gpu: Gpu) -> DeviceReport:
            prober = replace(self, machine=replace(self.machine, gpus=(gpu,)))
            report = prober.probe({**_environment(), "CUDA_VISIBLE_DEVICES": str(gpu.uuid)})[0]
            return replace(report, index=None, uuid=gpu.uuid, name=gpu.name or report.name)

        with ThreadPoolExecutor(_MOST_CHILDREN) as pool:
            reports = list(pool.map(alone, self.machine.gpus))
        usable = [report for report in reports if report.usable]
        failed = [report for report in reports if not report.usable]
        return (*(replace(one, index=index) for index, one in enumerate(usable)), *failed)


def _command(program: Path, backend: str, index: int, *, announcing: bool = False) -> list[str]:
    """Return a child's command line; isolated, so that no file beside it shadows a module."""
    paths = json.dumps([path for path in sys.path if path])
    return [sys.executable, "-I", str(program), backend, str(index), str(int(announcing)), paths]


def _environment() -> dict[str, str]:
    """Return this environment without what makes torch count devices instead of asking them."""
    environment = dict(os.environ)
    # Set by Lightning: with it, is_available() is True whatever the state of the driver.
    environment.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)
    return environment


def _may_hide_healthy_ones(reports: tuple[DeviceReport, ...], machine: Machine) -> bool:
    """Whether a backend failed as a whole although some of its GPUs may work alone."""
    first = reports[0]
    return (
        first.index is None
        and machine.cuda_version is not None
        and first.verdict in {"init_failed", "crashed", "hung", "unknown"}
        and first.error_code not in _ERRORS_OF_THE_DRIVER
        and len(machine.gpus) > 1
        and all(gpu.uuid for gpu in machine.gpus)
        and not read_visibility(machine.variables).setting
    )


def _arch_list(message: dict[str, Any]) -> tuple[str, ...]:
    """Return the architectures in a record on the build; none where it is no such record."""
    listed = message.get("arch_list")
    return tuple(filter(str.isascii, map(str, listed))) if isinstance(listed, list) else ()


def _introduced(
    message: dict[str, Any], machine: Machine, backend: GpuBackend
) -> DeviceReport | None:
    """Return the device that a record introduces; None for other records and for nonsense."""
    if message["kind"] != "device":
        return None
    try:
        report = identify(message, machine, backend)
    except (IndexError, KeyError, TypeError, ValueError):
        return None
    return report if report.index in range(_MOST_DEVICES) else None


def _limit_s(report: DeviceReport, machine: Machine, time_limit_s: float) -> float:
    """Longer where the driver must compile each kernel before it runs."""
    forced = machine.variables.get("CUDA_FORCE_PTX_JIT") == "1" and any(
        entry.startswith("compute_") for entry in machine.arch_list
    )
    compiling = forced or judge_report(report, machine).compiled_at_load
    return max(time_limit_s, COMPILING_TIME_LIMIT_S) if compiling else time_limit_s


def _whole_backend(
    scout: ChildOutcome, machine: Machine, backend: GpuBackend
) -> tuple[DeviceReport, ...]:
    """One verdict for all GPUs, as the backend failed before it could tell them apart."""
    verdict = DeviceReport(
        verdict="unknown",
        reason="",
        backend=backend,
        driver_cuda_version=machine.driver_cuda_version if backend == "cuda" else None,
    )
    verdict = diagnose(verdict, scout, machine)
    if any(message["kind"] == "backend" for message in scout.messages):
        verdict = explain(verdict, NO_DEVICE, machine)
    if backend != "cuda":
        return (verdict,)
    verdict = _blame_visibility(verdict, machine)
    gpus = machine.gpus or (Gpu(None, None),)
    return tuple(replace(verdict, uuid=gpu.uuid, name=gpu.name) for gpu in gpus)


def _blame_visibility(verdict: DeviceReport, machine: Machine) -> DeviceReport:
    """Name the variable that restricts what CUDA may see, where it can be what went wrong."""
    visibility = read_visibility(machine.variables, hip=machine.hip_version is not None)
    if visibility.setting is None:
        return verdict
    if verdict.error_code != NO_DEVICE.code:
        return replace(verdict, reason=f"{verdict.reason}, while {visibility.setting} is set")
    return replace(
        verdict,
        verdict="hidden",
        reason=f"no GPU is left: {visibility.reason}",
        advice=f"Correct or unset {visibility.setting.partition('=')[0]}.",
    )


def _hidden(
    reports: tuple[DeviceReport, ...], machine: Machine, backend: GpuBackend
) -> tuple[DeviceReport, ...]:
    """Devices that the driver lists and torch does not show."""
    if backend != "cuda" or machine.hip_version:
        return ()
    visibility = read_visibility(machine.variables)
    if visibility.setting is None:
        return ()
    shown = {report.uuid for report in reports}
    return tuple(
        DeviceReport(
            verdict="hidden",
            reason=visibility.reason,
            advice="Unset CUDA_VISIBLE_DEVICES to use it.",
            uuid=gpu.uuid,
            name=gpu.name,
            driver_cuda_version=machine.driver_cuda_version,
        )
        for gpu in list_gpus()
        if gpu.uuid not in shown
    )
