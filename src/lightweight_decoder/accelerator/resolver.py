"""From a request to a plan: where to run, on which devices, how, and why."""

from __future__ import annotations

import logging
import os
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from lightweight_decoder.accelerator.choice import (
    Choice,
    advice_for,
    choose_cpu,
    choose_gpu,
)
from lightweight_decoder.accelerator.machine import look_at_machine
from lightweight_decoder.accelerator.plan import AcceleratorPlan
from lightweight_decoder.accelerator.probe import probe_devices
from lightweight_decoder.accelerator.request import Devices, OnUnusable, parse_request
from lightweight_decoder.accelerator.survey import Survey, machine_key, survey
from lightweight_decoder.accelerator.verdict_cache import drop
from lightweight_decoder.errors import AcceleratorError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lightweight_decoder.accelerator.machine import Machine
    from lightweight_decoder.accelerator.plan import GpuBackend
    from lightweight_decoder.accelerator.request import Request
    from lightweight_decoder.accelerator.survey import Probe

log = logging.getLogger(__name__)

_GPU_BACKENDS: tuple[GpuBackend, ...] = ("mps", "cuda")  # in Lightning's order


def resolve_accelerator(
    accelerator: str = "auto",
    devices: Devices = "auto",
    precision: str | int = "32-true",
    strategy: str = "auto",
    *,
    on_unusable: OnUnusable = "auto",
    cache: bool = True,
    look: Callable[[], Machine] = look_at_machine,
    probe: Probe = probe_devices,
) -> AcceleratorPlan:
    """Decide where to run, by running kernels on each device in a process of its own.

    This process never initializes CUDA and stays free to fork. ``accelerator="cpu"`` returns at
    once and touches nothing. If a broken GPU keeps CUDA from starting on the healthy ones, this
    sets ``CUDA_VISIBLE_DEVICES`` to leave it out, and the plan says so.

    Args:
        accelerator: ``"auto"``, ``"cpu"``, ``"gpu"``, ``"cuda"``, ``"rocm"`` (CUDA's name in ROCm
            builds) or ``"mps"``.
        devices: ``"auto"`` or -1 for all usable devices, a number of devices, or particular ones by
            index in torch's order or by UUID (``[0, 2]``, ``"0,2"``, ``"GPU-5f1c"``).
        precision: One of Lightning's names. What is not native where the plan runs becomes 32-true.
        strategy: A Lightning strategy; ``"auto"`` after a fallback to the CPU.
        on_unusable: ``"fallback"`` takes what is usable, at last the CPU; ``"raise"`` raises;
            ``"force"`` takes the devices whatever their verdict; ``"auto"`` falls back, unless an
            accelerator, particular devices or several devices were asked for.
        cache: Whether a verdict of an earlier run may be used and this one kept.
        look: Reads the facts about build and machine.
        probe: Proves the devices of a backend.

    Returns:
        The plan. Its reasons are also logged, as one warning, if they need attention.

    Raises:
        ConfigError: If a value is none of those that exist.
        AcceleratorError: If what was asked for cannot be used and may not be replaced.
    """
    request = parse_request(accelerator, devices, precision, strategy, on_unusable)
    plan, needs_attention = decide(request, use_cache=cache, look=look, probe=probe)
    os.environ.update(plan.environment)
    _tell(plan, needs_attention=needs_attention)
    return plan


def decide(
    request: Request,
    *,
    use_cache: bool = True,
    look: Callable[[], Machine] = look_at_machine,
    probe: Probe = probe_devices,
) -> tuple[AcceleratorPlan, bool]:
    """Return the plan for a request, and whether a person should be warned of what it says.

    Raises:
        AcceleratorError: If what was asked for cannot be used and may not be replaced.
    """
    began = time.monotonic()
    surveys: list[Survey] = []
    if request.accelerator == "cpu":
        choice = choose_cpu(request, surveys)
    else:
        machine = look()
        choice = _first_choice(
            request,
            _backends(request, machine),
            lambda backend: survey(machine, backend, use_cache=use_cache, probe=probe),
            surveys,
        )
    return _plan(request, choice, surveys, began), choice.needs_attention


def forget_verdicts(*, look: Callable[[], Machine] = look_at_machine) -> None:
    """Drop what is stored about this machine: a kernel failed in spite of its verdict."""
    machine = look()
    for backend in _GPU_BACKENDS:
        drop(machine_key(machine, backend))


def _backends(request: Request, machine: Machine) -> Sequence[GpuBackend]:
    """Return the backends to try; a build without MPS need not be asked for it by name."""
    if request.accelerator == "mps":
        return ("mps",)
    if request.accelerator == "cuda" or not machine.mps_built:
        return ("cuda",)
    return _GPU_BACKENDS


def _first_choice(
    request: Request,
    backends: Sequence[GpuBackend],
    look_into: Callable[[GpuBackend], Survey],
    surveys: list[Survey],
) -> Choice:
    """Return the first backend that gives what was asked, at last the CPU; list its surveys.

    Raises:
        AcceleratorError: If no backend does and the CPU will not do.
    """
    problems = []
    for backend in backends:
        surveys.append(look_into(backend))
        choice = choose_gpu(request, surveys[-1])
        if isinstance(choice, Choice):
            return choice
        problems.append(choice.problem)
    if request.mode == "fallback":
        return choose_cpu(request, surveys)
    raise AcceleratorError(
        "what was asked for cannot be used here",
        where=f"accelerator={request.asked.accelerator}, devices={request.asked.devices}",
        found="; ".join(problems),
        advice=" ".join(
            [
                *advice_for(report for found in surveys for report in found.reports),
                "Or use accelerator=cpu, or accelerator.on_unusable=fallback.",
            ]
        ),
    )


def _plan(
    request: Request, choice: Choice, surveys: Sequence[Survey], began: float
) -> AcceleratorPlan:
    """Return the record of a choice and of how it came about."""
    sources = [found.source for found in surveys if found.source != "none"]
    return AcceleratorPlan(
        asked=request.asked,
        accelerator=choice.accelerator,
        devices=choice.devices,
        precision=choice.precision,
        strategy=choice.strategy,
        on_unusable=request.mode,
        environment=_leaving_out(surveys) if choice.accelerator == "cuda" else {},
        reports=tuple(report for found in surveys for report in found.reports),
        reasons=choice.reasons,
        advice=choice.advice,
        source=sources[-1] if sources else "none",
        resolve_ms=round((time.monotonic() - began) * 1000, 1),
        probe_ms=sum(found.probe_ms for found in surveys),
        resolved_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _leaving_out(surveys: Sequence[Survey]) -> dict[str, str]:
    """Return what shows CUDA the numbered GPUs only, if there are others that it fails over."""
    reports = surveys[-1].reports
    numbered = [str(report.uuid) for report in reports if report.index is not None]
    failed = any(report.index is None and report.verdict != "hidden" for report in reports)
    return {"CUDA_VISIBLE_DEVICES": ",".join(numbered)} if numbered and failed else {}


def _tell(plan: AcceleratorPlan, *, needs_attention: bool) -> None:
    """Log the plan once a node, as a warning if it is not what a person would expect."""
    where = plan.accelerator if plan.accelerator != "cuda" else f"cuda {plan.devices}"
    message = f"Running on {where} with precision {plan.precision}"
    if plan.reasons:
        message += f": {'; '.join(plan.reasons)}. {' '.join(plan.advice)}".rstrip()
    first_rank = os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0")) == "0"
    if needs_attention and first_rank:
        log.warning("%s", message)
    else:
        log.info("%s", message)
