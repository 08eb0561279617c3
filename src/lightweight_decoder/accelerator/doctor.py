"""A report on the machine's accelerators that can be pasted whole: no user names, no paths."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from lightweight_decoder.accelerator.machine import look_at_machine
from lightweight_decoder.accelerator.probe import probe_devices, read_arch_list
from lightweight_decoder.accelerator.request import Devices, parse_request
from lightweight_decoder.accelerator.resolver import decide
from lightweight_decoder.display import cell
from lightweight_decoder.errors import AcceleratorError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

    from lightweight_decoder.accelerator.machine import Machine
    from lightweight_decoder.accelerator.plan import AcceleratorPlan, DeviceReport, GpuBackend
    from lightweight_decoder.accelerator.survey import Probe

_MACHINE_FACTS = ("torch_version", "cuda_version", "hip_version", "system")
_PATH_VARIABLES = frozenset({"LD_LIBRARY_PATH"})
_NARROWEST_TABLE = 110


@dataclass(frozen=True)
class Examination:
    """What the doctor found: build and system, every device that was looked at, and two plans.

    ``auto`` is what ``accelerator=auto`` would choose, ``plan`` what was asked; None if that would
    fail, and then ``problem`` says why.
    """

    facts: dict[str, Any]
    reports: tuple[DeviceReport, ...]
    auto: AcceleratorPlan
    plan: AcceleratorPlan | None
    problem: str

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "facts": self.facts,
            "devices": [report.to_dict() for report in self.reports],
            "auto": self.auto.to_dict(),
            "plan": self.plan.to_dict() if self.plan else None,
            "problem": self.problem or None,
        }


def run_doctor(
    *,
    accelerator: str = "auto",
    devices: Devices = "auto",
    precision: str | int = "32-true",
    format: str = "table",  # noqa: A002 - the name on the command line
    cache: bool = True,
) -> int:
    """Examine the machine and print what was found.

    Args:
        accelerator: What to try; its failure is the exit status.
        devices: As for :func:`~lightweight_decoder.accelerator.resolve_accelerator`.
        precision: As for :func:`~lightweight_decoder.accelerator.resolve_accelerator`.
        format: ``"table"`` for people, ``"json"`` for machines.
        cache: Whether verdicts of an earlier run may be used.

    Returns:
        Exit status: 0 if what was asked for works, 1 if it does not.

    Raises:
        ConfigError: If a value is none of those that exist.
    """
    from rich.console import Console  # noqa: PLC0415 - only the doctor draws tables

    if format not in {"table", "json"}:
        raise ConfigError.unexpected("format", "table or json", repr(format))
    found = examine(accelerator, devices, precision, use_cache=cache)
    console = Console()
    if format == "json":
        console.out(json.dumps(found.to_dict(), indent=2), highlight=False)
    else:
        console.width = max(console.width, _NARROWEST_TABLE)
        _print_table(console, found)
    return 1 if found.problem else 0


def examine(
    accelerator: str = "auto",
    devices: Devices = "auto",
    precision: str | int = "32-true",
    *,
    use_cache: bool = True,
    look: Callable[[], Machine] = look_at_machine,
    probe: Probe = probe_devices,
) -> Examination:
    """Look at every device, and find the plans for ``auto`` and for what was asked."""
    request = parse_request(accelerator, devices, precision, "auto", "auto")
    machine = look()
    probed: dict[str, tuple[DeviceReport, ...]] = {}

    def probe_once(machine: Machine, backend: GpuBackend) -> tuple[DeviceReport, ...]:
        if backend not in probed:
            probed[backend] = probe(machine, backend)
        return probed[backend]

    auto, _ = decide(
        parse_request("auto", "auto", precision, "auto", "fallback"),
        use_cache=use_cache,
        look=lambda: machine,
        probe=probe_once,
    )
    plan, problem = None, ""
    try:
        plan, _ = decide(request, use_cache=use_cache, look=lambda: machine, probe=probe_once)
    except AcceleratorError as error:
        problem = str(error)
    return Examination(
        facts=_facts(machine), reports=auto.reports, auto=auto, plan=plan, problem=problem
    )


def _facts(machine: Machine) -> dict[str, Any]:
    """Return what a reader of a bug report asks for first."""
    known = asdict(machine)
    has_kernels = machine.cuda_version or machine.hip_version
    return {
        **{name: known[name] for name in _MACHINE_FACTS},
        "arch_list": machine.arch_list or (read_arch_list() if has_kernels else ()),
        "driver_cuda_version": machine.driver_cuda_version,
        "python_version": platform.python_version(),
        "variables": {
            name: "(set)" if name in _PATH_VARIABLES else value
            for name, value in machine.variables.items()
        },
    }


def _print_table(console: Console, found: Examination) -> None:
    """Return the facts, a row for each device, and the plan."""
    from rich.table import Table  # noqa: PLC0415

    for name, value in found.facts.items():
        if value:
            listed = " ".join(value) if isinstance(value, tuple) else value
            console.print(cell(f"{name}: {listed}"))
    table = Table("device", "verdict", "reason", "advice", "native", "probe", show_lines=True)
    for report in found.reports:
        table.add_row(
            cell(_label(report)),
            report.verdict,
            cell(report.reason),
            cell(report.advice),
            " ".join(name for name, native in report.precision_support.items() if native),
            f"{report.probe_ms:.0f} ms" if report.probe_ms is not None else "",
        )
    if found.reports:
        console.print(table)
    console.print(cell(f"accelerator=auto would choose: {_summary(found.auto)}"))
    if found.problem:
        console.print(cell(f"What was asked would fail: {found.problem}"))
    elif found.plan and found.plan.asked.accelerator != "auto":
        console.print(cell(f"What was asked would choose: {_summary(found.plan)}"))


def _label(report: DeviceReport) -> str:
    """Index, name, architecture and memory of a device, as far as they are known."""
    place = report.backend if report.index is None else f"{report.backend}:{report.index}"
    arch = report.gcn_arch or (report.capability and "{}.{}".format(*report.capability))
    memory = report.total_memory_bytes and f"{report.total_memory_bytes / 2**30:.0f} GiB"
    return " ".join(part for part in (place, report.name, arch, memory) if part)


def _summary(plan: AcceleratorPlan) -> str:
    """Return a plan in one line."""
    verdicts = {"none": "nothing probed", "probe": f"probed in {plan.probe_ms:.0f} ms"}
    line = (
        f"{plan.accelerator}, devices {plan.devices}, precision {plan.precision}"
        f" ({verdicts.get(plan.source, f'from the {plan.source}')},"
        f" decided in {plan.resolve_ms:.0f} ms)"
    )
    return f"{line}: {'; '.join(plan.reasons)}" if plan.reasons else line
