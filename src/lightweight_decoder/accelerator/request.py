"""What a caller asks for, checked for sense before anything is looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lightweight_decoder.accelerator.plan import Asked
from lightweight_decoder.accelerator.precision import parse_precision
from lightweight_decoder.errors import AcceleratorError, ConfigError

OnUnusable = Literal["auto", "fallback", "raise", "force"]
Devices = int | str | Sequence[int | str]

_ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "rocm", "mps")
_NO_LIGHTNING_ACCELERATOR = {
    "xpu": "Lightning has no accelerator for Intel GPUs (it has cpu, cuda, mps and tpu)",
    "tpu": "this package's kernels were never tried on a TPU",
}


@dataclass(frozen=True)
class Request:
    """A request in one form.

    Attributes:
        asked: The same as it was written.
        accelerator: ``"auto"``, ``"gpu"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
        count: How many devices; None for all, or where ``selected`` names them.
        selected: Indices and UUIDs (or beginnings of them) of particular devices, else None.
        precision: One of :data:`~lightweight_decoder.accelerator.precision.PRECISIONS`.
        strategy: A Lightning strategy.
        mode: What to do where a device that was asked for cannot be used.
    """

    asked: Asked
    accelerator: Literal["auto", "gpu", "cpu", "cuda", "mps"]
    count: int | None
    selected: tuple[int | str, ...] | None
    precision: str
    strategy: str
    mode: Literal["fallback", "raise", "force"]


def parse_request(
    accelerator: str, devices: Devices, precision: str | int, strategy: str, on_unusable: str
) -> Request:
    """Check every value of a request.

    Raises:
        ConfigError: If a value is none of those that exist.
        AcceleratorError: If the accelerator exists but not for this package (xpu, tpu).
    """
    name = accelerator.strip().lower()
    if name in _NO_LIGHTNING_ACCELERATOR:
        advice, found = "Use accelerator=cpu.", repr(accelerator)
        raise AcceleratorError.unexpected(
            "accelerator", None, found, summary=_NO_LIGHTNING_ACCELERATOR[name], advice=advice
        )
    _require_one_of("accelerator", name, _ACCELERATORS)
    _require_one_of("accelerator.on_unusable", on_unusable, ("auto", "fallback", "raise", "force"))
    count, selected = _parse_devices(devices)
    if name == "cpu" and selected is not None:
        expected, problem = "a number of processes or 'auto'", "the CPU has no device indices"
        raise ConfigError.unexpected("devices", expected, repr(devices), summary=problem)
    # One device is what every configuration asks for; two or more, or particular ones, is a wish
    # that a silent fallback would disappoint.
    explicit = name != "auto" or selected is not None or (count or 1) > 1
    mode = ("raise" if explicit else "fallback") if on_unusable == "auto" else on_unusable
    return Request(
        asked=Asked(
            accelerator=accelerator,
            devices=devices if isinstance(devices, int | str) else list(devices),
            precision=str(precision),
            strategy=strategy,
            on_unusable=on_unusable,
        ),
        accelerator="cuda" if name == "rocm" else name,  # type: ignore[arg-type] # checked above
        count=count,
        selected=selected,
        precision=parse_precision(precision),
        strategy=strategy,
        mode=mode,  # type: ignore[arg-type] # checked above
    )


def _require_one_of(key: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        expected = f"one of {', '.join(allowed)}"
        raise ConfigError.unexpected(key, expected, repr(value), summary="there is no such value")


def _parse_devices(devices: Devices) -> tuple[int | None, tuple[int | str, ...] | None]:
    """Return a count (None for all) or particular devices, in the forms that Lightning accepts."""
    if isinstance(devices, str):
        text = devices.strip()
        if text in {"auto", "-1"}:
            return None, None
        if text.isdecimal():
            return _count(int(text), devices), None
        elements: Sequence[int | str] = [part.strip() for part in text.split(",") if part.strip()]
    elif isinstance(devices, int):
        if devices == -1:
            return None, None
        return _count(devices, devices), None
    else:
        elements = devices
    selected = tuple(_one_device(element, devices) for element in elements)
    if not selected:
        raise _bad_devices("no device is named", devices)
    for place, element in enumerate(selected):
        if element in selected[:place]:
            raise _bad_devices(f"device {element} is named twice", devices)
    return None, selected


def _count(number: int, devices: Devices) -> int:
    if isinstance(devices, bool) or number < 1:
        raise _bad_devices("there is no such number of devices", devices)
    return number


def _one_device(element: int | str, devices: Devices) -> int | str:
    """Return an index, or a UUID as nvidia-smi -L prints it."""
    if isinstance(element, str) and element.startswith(("GPU-", "MIG-")):
        return element
    text = str(element).strip()
    if not isinstance(element, bool) and text.isdecimal():
        return int(text)
    raise _bad_devices(f"{element!r} is no device", devices)


def _bad_devices(summary: str, devices: Devices) -> ConfigError:
    expected = "'auto', a number of devices, or different indices or UUIDs such as [0, 1]"
    return ConfigError.unexpected("devices", expected, repr(devices), summary=summary)
