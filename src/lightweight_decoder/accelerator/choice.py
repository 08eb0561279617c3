"""From a request and the verdicts on a backend to the devices, precision and strategy to use."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lightweight_decoder.accelerator.precision import choose_precision

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from lightweight_decoder.accelerator.plan import Backend, DeviceReport
    from lightweight_decoder.accelerator.request import Request
    from lightweight_decoder.accelerator.survey import Survey


@dataclass(frozen=True)
class Choice:
    """What a plan runs with, why it differs from what was asked, and whether to warn of it."""

    accelerator: Backend
    devices: int | list[int]
    precision: str
    strategy: str
    reasons: tuple[str, ...] = ()
    advice: tuple[str, ...] = ()
    needs_attention: bool = False


@dataclass(frozen=True)
class Refusal:
    """Why a backend cannot give what was asked."""

    problem: str


def choose_cpu(request: Request, surveys: Sequence[Survey]) -> Choice:
    """Return the CPU, as asked for (no surveys) or as the last resort."""
    wanted = request.accelerator == "cpu"
    precision, changed = choose_precision(request.precision, "cpu")
    refusals = [choose_gpu(request, survey) for survey in surveys]
    reasons = [refusal.problem for refusal in refusals if isinstance(refusal, Refusal)]
    if changed:
        reasons.append(changed)
    if not wanted and request.strategy != "auto":
        reasons.append(f"strategy {request.strategy} became auto")
    return Choice(
        accelerator="cpu",
        devices=(request.count or 1) if wanted else 1,
        precision=precision,
        strategy=request.strategy if wanted else "auto",
        reasons=tuple(reasons),
        advice=advice_for(report for survey in surveys for report in survey.reports),
        # A machine without a GPU, or with its GPUs switched off on purpose, is no news.
        needs_attention=bool(changed)
        or any(survey.reports and not survey.deliberate for survey in surveys),
    )


def choose_gpu(request: Request, survey: Survey) -> Choice | Refusal:
    """Return the devices of one backend that give what was asked, or why there are none."""
    if not survey.reports:
        return Refusal(survey.absent)
    reports = _indexed(survey.reports) if request.mode == "force" else survey.reports
    chosen, missing = _choose_devices(request, reports)
    if not chosen or (missing and request.mode == "raise"):
        return Refusal("; ".join(missing))
    if survey.backend == "mps" and request.precision == "64-true" and request.mode != "force":
        return Refusal("Apple GPUs have no 64-bit floats")
    precision, changed = choose_precision(request.precision, survey.backend, chosen)
    unusable = [
        report
        for report in reports
        if not report.usable
        and (report in chosen or (request.selected is None and report.verdict != "hidden"))
    ]
    notes = tuple(dict.fromkeys([*missing, *map(describe, unusable), *filter(None, [changed])]))
    return Choice(
        accelerator=survey.backend,
        devices=1 if survey.backend == "mps" else [report.index or 0 for report in chosen],
        precision=precision,
        strategy=request.strategy,
        reasons=notes,
        advice=advice_for(unusable),
        needs_attention=bool(notes),
    )


def describe(report: DeviceReport) -> str:
    """Return a device and what is wrong with it, in one sentence."""
    place = report.backend if report.index is None else f"{report.backend}:{report.index}"
    return f"{f'{report.name} ({place})' if report.name else place}: {report.reason}"


def advice_for(reports: Iterable[DeviceReport]) -> tuple[str, ...]:
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
        return [], [describe(report) for report in reports]
    if request.count is None or request.count <= len(able):
        return able[: request.count], []
    shortage = f"{request.count} devices were asked for and {len(able)} can be used"
    return able, [shortage, *(describe(report) for report in reports if not report.usable)]


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
            missing.append(describe(found[0]))
    return chosen, missing


def _is_named(report: DeviceReport, name: int | str) -> bool:
    """Whether an index, or the beginning of a UUID, means this device."""
    if isinstance(name, int):
        return report.index == name
    return report.uuid is not None and report.uuid.lower().startswith(name.lower())
