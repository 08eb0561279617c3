"""What CUDA_VISIBLE_DEVICES and its relatives say, read as CUDA and torch read them.

Source of the grammar: ``_parse_visible_devices`` in torch 2.13's ``torch/cuda/__init__.py``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


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
    """Read the variable that counts for this build.

    Args:
        variables: Environment variables.
        hip: Whether torch is a ROCm build, where HIP_VISIBLE_DEVICES wins over
            ROCR_VISIBLE_DEVICES, and that over CUDA_VISIBLE_DEVICES.
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
        return _of_names(setting, elements)
    return _of_ordinals(setting, elements)


def _of_names(setting: str, elements: list[str]) -> Visibility:
    """UUIDs or unique beginnings of UUIDs."""
    twice = _first_repeated(elements)
    if twice is not None:
        return _nothing(setting, f"names {twice} twice, which hides every GPU")
    return Visibility(setting, reason=f"{setting} shows only the GPUs it names")


def _of_ordinals(setting: str, elements: list[str]) -> Visibility:
    """Numbers, read up to the first that is none; text after a number is ignored."""
    ordinals: list[int] = []
    for element in elements:
        match = re.match(r"[+-]?\d+", element)
        if match is None or int(match[0]) < 0:
            break
        ordinals.append(int(match[0]))
    twice = _first_repeated(ordinals)
    if twice is not None:
        return _nothing(setting, f"names GPU {twice} twice, which hides every GPU")
    if not ordinals:
        return _nothing(setting, "names no GPU, so it hides every GPU")
    listed = " and ".join(map(str, ordinals))
    return Visibility(setting, reason=f"{setting} shows only GPU {listed} of the machine")


def _nothing(setting: str, why: str) -> Visibility:
    return Visibility(setting, hides_all=True, reason=f"{setting} {why}")


def _first_repeated(elements: Sequence[object]) -> object | None:
    """Return the first element that stands in the list twice."""
    return next((item for place, item in enumerate(elements) if item in elements[:place]), None)
