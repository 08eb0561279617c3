"""From a request to a plan: where to run, on which devices, how, and why."""

from __future__ import annotations

import logging
import os
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from lightweight_decoder.accelerator.machine import look_at_machine
from lightweight_decoder.accelerator.plan import AcceleratorPlan
from lightweight_decoder.accelerator.precision import choose_precision
from lightweight_decoder.accelerator.probe import probe_devices
from lightweight_decoder.accelerator.request import Devices, OnUnusable, parse_request
from lightweight_decoder.accelerator.survey import Survey, survey
from lightweight_decoder.accelerator.verdict_cache import drop, machine_key
from lightweight_decoder.errors import AcceleratorError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from lightweight_decoder.accelerator.machine import Machine
    from lightweight_decoder.accelerator.plan import Backend, DeviceReport, GpuBackend
    from lightweight_decoder.accelerator.request import Request
    from lightweight_decoder.accelerator.survey import Probe

log = logging.getLogger(__name__)

_GPU_BACKENDS: tuple[GpuBackend, ...] = ("mps", "cuda")  # in Lightning's order


@dataclass(frozen=True)
class _Choice:
    """What a plan runs with, why it differs from what was asked, and whether to warn of it."""

    accelerator: Backend
    devices: int | list[int]
    precision: str
    strategy: str
    reasons: tuple[str, ...] = ()
    advice: tuple[str, ...] = ()
    needs_attention: bool = False


def resolve_accelerator(
    accelerator: str = "auto",
    devices: Devices = "auto",
    precision: str | int = "32-true",
    strategy: str = "auto",
    *,
    on_unusable: OnUnusable = "auto",
    cache: bool = True,
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

    Returns:
        The plan. Its reasons are also logged, as one warning, if they need attention.

    Raises:
        ConfigError: If a value is none of those that exist.
        AcceleratorError: If what was asked for cannot be used and may not be replaced.
    """
    request = parse_request(accelerator, devices, precision, strategy, on_unusable)
    plan, needs_attention = decide(request, use_cache=cache)
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
    """Return the plan for a request, and whether a person should be warned of what it says."""
    began = time.monotonic()
    surveys: list[Survey] = []
    if request.accelerator == "cpu":
        choice = _choose_cpu(request, surveys)
    else:
        machine = look()
        choice = _first_choice(
            request,
            _backends(request, machine),
            lambda backend: survey(machine, backend, use_cache=use_cache, probe=probe),
            surveys,
        )
    return _plan(request, choice, surveys, began), choice.needs_attention


def forget_verdicts() -> None:
    """Drop what is stored about this machine: a kernel failed in spite of its verdict."""
    machine = look_at_machine()
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
) -> _Choice:
    """Return the first backend that gives what was asked, at last the CPU; list its surveys."""
    problems = []
    for backend in backends:
        surveys.append(look_into(backend))
        choice = _choose_gpu(request, surveys[-1])
        if isinstance(choice, _Choice):
            return choice
        problems.append(choice)
    if request.mode == "fallback":
        return _choose_cpu(request, surveys)
    raise AcceleratorError(
        "what was asked for cannot be used here",
        where=f"accelerator={request.asked.accelerator}, devices={request.asked.devices}",
        found="; ".join(problems),
        advice=" ".join(
            [
                *_advice_for(report for found in surveys for report in found.reports),
                "Or use accelerator=cpu, or accelerator.on_unusable=fallback.",
            ]
        ),
    )


def _plan(
    request: Request, choice: _Choice, surveys: Sequence[Survey], began: float
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


def _choose_cpu(request: Request, surveys: Sequence[Survey]) -> _Choice:
    """Return the CPU, as asked for (no surveys) or as the last resort."""
    wanted = request.accelerator == "cpu"
    precision, changed = choose_precision(request.precision, "cpu")
    refusals = [_choose_gpu(request, survey) for survey in surveys]
    reasons = [refusal for refusal in refusals if isinstance(refusal, str)]
    if changed:
        reasons.append(changed)
    if not wanted and request.strategy != "auto":
        reasons.append(f"strategy {request.strategy} became auto")
    return _Choice(
        accelerator="cpu",
        devices=(request.count or 1) if wanted else 1,
        precision=precision,
        strategy=request.strategy if wanted else "auto",
        reasons=tuple(reasons),
        advice=_advice_for(report for survey in surveys for report in survey.reports),
        # A machine without a GPU, or with its GPUs switched off on purpose, is no news.
        needs_attention=bool(changed)
        or any(survey.reports and not survey.deliberate for survey in surveys),
    )


def _choose_gpu(request: Request, survey: Survey) -> _Choice | str:
    """Return the devices of one backend that give what was asked, or why there are none."""
    if not survey.reports:
        return survey.absent
    reports = _indexed(survey.reports) if request.mode == "force" else survey.reports
    chosen, missing = _choose_devices(request, reports)
    if not chosen or (missing and request.mode == "raise"):
        return "; ".join(missing)
    if survey.backend == "mps" and request.precision == "64-true" and request.mode != "force":
        return "Apple GPUs have no 64-bit floats"
    precision, changed = choose_precision(request.precision, survey.backend, chosen)
    unusable = [
        report
        for report in reports
        if not report.usable
        and (report in chosen or (request.selected is None and report.verdict != "hidden"))
    ]
    notes = tuple(dict.fromkeys([*missing, *map(_describe, unusable), *filter(None, [changed])]))
    return _Choice(
        accelerator=survey.backend,
        devices=1 if survey.backend == "mps" else [report.index or 0 for report in chosen],
        precision=precision,
        strategy=request.strategy,
        reasons=notes,
        advice=_advice_for(unusable),
        needs_attention=bool(notes),
    )


def _describe(report: DeviceReport) -> str:
    """Return a device and what is wrong with it, in one sentence."""
    place = report.backend if report.index is None else f"{report.backend}:{report.index}"
    return f"{f'{report.name} ({place})' if report.name else place}: {report.reason}"


def _advice_for(reports: Iterable[DeviceReport]) -> tuple[str, ...]:
    """Return the advice on all devices, each piece once."""
    return tuple(dict.fromkeys(report.advice for report in reports if report.advice))


def _indexed(reports: Sequence[DeviceReport]) -> Sequence[DeviceReport]:
    """Devices of a backend that failed before it could number them, numbered in their order."""
    if any(report.index is not None for report in reports):
        return reports
    seen = [report for report in reports if report.verdict != "hidden"]
    return [replace(report, index=index) for index, report in enumerate(seen)]


def _choose_devices(
    request: Request, reports: Sequence[DeviceReport]
) -> tuple[list[DeviceReport], list[str]]:
    """Return the devices to use, and what stands against giving all that was asked."""
    force = request.mode == "force"
    if request.selected is not None:
        return _choose_named(request.selected, reports, force=force)
    able = [report for report in reports if report.index is not None and (report.usable or force)]
    if not able:
        return [], [_describe(report) for report in reports]
    if request.count is None or request.count <= len(able):
        return able[: request.count], []
    shortage = f"{request.count} devices were asked for and {len(able)} can be used"
    return able, [shortage, *(_describe(report) for report in reports if not report.usable)]


def _choose_named(
    names: Sequence[int | str], reports: Sequence[DeviceReport], *, force: bool
) -> tuple[list[DeviceReport], list[str]]:
    """Return the devices that were named, in the order they were named."""
    chosen: list[DeviceReport] = []
    missing: list[str] = []
    for name in names:
        found = [report for report in reports if _is_named(report, name)]
        if len(found) != 1:
            indices = ", ".join(str(one.index) for one in reports if one.index is not None)
            problem = f"{len(found) or 'no'} devices are called {name}"
            missing.append(f"{problem}; the indices here are: {indices or 'none'}")
        elif found[0].usable or (force and found[0].index is not None):
            chosen.append(found[0])
        else:
            missing.append(_describe(found[0]))
    return chosen, missing


def _is_named(report: DeviceReport, name: int | str) -> bool:
    """Whether an index, or the beginning of a UUID, means this device."""
    if isinstance(name, int):
        return report.index == name
    return report.uuid is not None and report.uuid.lower().startswith(name.lower())
