"""From what a probe's child said, or failed to say, to a verdict with a reason and advice."""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lightweight_decoder.accelerator.cuda_errors import ErrorKind, classify
from lightweight_decoder.accelerator.plan import DeviceReport
from lightweight_decoder.accelerator.rules import judge

if TYPE_CHECKING:
    from lightweight_decoder.accelerator.child_process import ChildOutcome
    from lightweight_decoder.accelerator.machine import Machine
    from lightweight_decoder.accelerator.plan import Backend
    from lightweight_decoder.accelerator.rules import Verdict

# Lists of wheels age, so every sentence on them names this day. They have no part in a verdict.
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
    machine: Machine, *, capability: tuple[int, int] | None = None, gcn_arch: str | None = None
) -> str:
    """Say which wheel has kernels for a device, as of ``READ_ON``.

    The device is NVIDIA's by its compute capability, or AMD's by its architecture.
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


# Less than this left on a device after its context was made is no room for any training.
FREE_MEMORY_FLOOR_BYTES = 512 << 20
_KERNEL_LOG = "See the kernel log (dmesg) for messages of the driver."
_QUOTE_CHARACTERS = 200


def identify(message: dict[str, Any], machine: Machine, backend: Backend) -> DeviceReport:
    """Return a report with a device's identity and no verdict yet."""
    capability = message.get("capability")
    report = DeviceReport(
        verdict="unknown",
        reason="nothing was run on it",
        backend=backend,
        index=int(message["index"]),
        uuid=_text(message.get("uuid")),
        name=_text(message.get("name")),
        capability=(int(capability[0]), int(capability[1])) if capability else None,
        gcn_arch=_text(message.get("gcn_arch")),
        total_memory_bytes=_number(message.get("total_memory_bytes")),
        driver_cuda_version=machine.driver_cuda_version if backend == "cuda" else None,
    )
    return replace(report, static_answer=judge_report(report, machine).answer)


def judge_report(report: DeviceReport, machine: Machine) -> Verdict:
    """Return what the static rules say about a device."""
    return judge(
        machine.arch_list,
        capability=report.capability,
        gcn_arch=report.gcn_arch,
        cuda_version=machine.cuda_version,
        driver_cuda_version=machine.driver_cuda_version,
    )


def diagnose(report: DeviceReport, outcome: ChildOutcome, machine: Machine) -> DeviceReport:
    """Complete a report with the verdict of the device's child."""
    report = replace(report, probe_ms=round(outcome.elapsed_s * 1000, 1))
    by_kind = {message["kind"]: message for message in outcome.messages}
    stage = _text(by_kind.get("step", {}).get("name")) or "the start"
    free = _number(by_kind.get("memory", {}).get("free_memory_bytes"))
    report = replace(report, free_memory_bytes=free)
    if "error" in by_kind:
        return _failed(report, by_kind["error"], machine)
    if "wrong" in by_kind:
        reason = f"kernels ran but gave wrong values ({_text(by_kind['wrong'].get('stage'))})"
        return replace(report, verdict="wrong_values", reason=reason, advice=_KERNEL_LOG)
    if "done" in by_kind:
        return _worked(report, by_kind["done"])
    return _silent(report, outcome, stage, machine)


def _worked(report: DeviceReport, done: dict[str, Any]) -> DeviceReport:
    """Every step ran with the right values."""
    support = done.get("precision_support")
    if isinstance(support, dict):
        support = {str(name): value is True for name, value in support.items()}
        report = replace(report, precision_support=support)
    free = report.free_memory_bytes
    if free is not None and free < FREE_MEMORY_FLOOR_BYTES:
        return replace(
            report,
            verdict="out_of_memory",
            reason=f"kernels run, but only {free >> 20} MiB of its memory are free",
            advice="End the process that fills it (nvidia-smi names it), or use another device.",
        )
    return replace(report, verdict="usable", reason="every kernel ran and gave the right values")


def _failed(report: DeviceReport, error: dict[str, Any], machine: Machine) -> DeviceReport:
    """Return the child caught an exception."""
    text = f"{error.get('type')}: {error.get('text')}"
    kind = classify(text)
    if kind is not None:
        return explain(report, kind, machine)
    reason = f"it failed at the step {_text(error.get('stage'))!r}: {quote(text)}"
    return replace(report, verdict="unknown", reason=reason, advice=_KERNEL_LOG)


def _silent(
    report: DeviceReport, outcome: ChildOutcome, stage: str, machine: Machine
) -> DeviceReport:
    """Return the child ended, or had to be ended, without an answer."""
    if outcome.ended == "time":
        return replace(
            report,
            verdict="hung",
            reason=f"it did not answer within {outcome.elapsed_s:.0f} s (at {stage})",
            advice=f"{_KERNEL_LOG} A hung driver needs a reboot.",
        )
    if outcome.ended == "flood":
        reason = "the probe printed more than 1 MiB and was stopped"
        return replace(report, verdict="crashed", reason=reason, advice=_KERNEL_LOG)
    code = outcome.exit_code
    kind = classify(outcome.error_text)
    if kind is not None and code != 0:  # old ROCm aborts where CUDA raises
        return explain(report, kind, machine)
    if code is not None and code < 0:
        known = {each.value: each.name for each in signal.Signals}
        reason = f"the probe was ended by {known.get(-code, f'signal {-code}')} (at {stage})"
        return replace(report, verdict="crashed", reason=reason, advice=_KERNEL_LOG)
    reason = f"the probe ended with status {code} and no readable answer (at {stage})"
    return replace(report, verdict="unknown", reason=reason, advice=_KERNEL_LOG)


def explain(report: DeviceReport, kind: ErrorKind, machine: Machine) -> DeviceReport:
    """Return a report with the verdict, reason and advice of a known kind of error."""
    reason, advice = kind.reason, kind.advice
    if kind.verdict == "no_kernels":
        reason, advice = _explain_no_kernels(report, kind, machine)
    elif kind.code == 35:  # noqa: PLR2004 - CUDA's number
        advice = driver_advice(machine)
    return replace(report, verdict=kind.verdict, reason=reason, advice=advice, error_code=kind.code)


def _explain_no_kernels(report: DeviceReport, kind: ErrorKind, machine: Machine) -> tuple[str, str]:
    """Why a build has no kernels for a device: its list, a variable, or something else."""
    reason, advice = kind.reason, kind.advice
    static = judge_report(report, machine)
    overrides = [
        f"{name}={value}"
        for name, value in machine.variables.items()
        if name.startswith(("CUDA_FORCE", "CUDA_DISABLE", "HSA_OVERRIDE"))
    ]
    if static.answer == "no":
        reason = static.reason
    elif overrides:
        reason += f" while {' and '.join(overrides)} is set"
        return reason, advice or f"Unset {overrides[0].partition('=')[0]}."
    elif static.answer == "yes":
        reason += ", although its architecture list covers it"
    wheel = wheel_advice(machine, capability=report.capability, gcn_arch=report.gcn_arch)
    return reason, advice or wheel


def quote(text: str) -> str:
    """Return the first line of an error, short, and without anything that looks like a path."""
    line = text.strip().partition("\n")[0]
    line = re.sub(r"(?:[A-Za-z]:)?(?:[\\/][^\s'\":,;()]+)+", "<path>", line)
    return line[:_QUOTE_CHARACTERS]


def _text(value: object) -> str | None:
    """Return a text of bounded length, or None for anything else."""
    return value[:_QUOTE_CHARACTERS] if isinstance(value, str) else None


def _number(value: object) -> int | None:
    """Return a whole number, or None for anything else."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None
