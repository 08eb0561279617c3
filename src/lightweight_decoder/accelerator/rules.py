"""Static rules: can a build with this architecture list run on that device?

Nothing here imports torch or touches a device. The rules are NVIDIA's and AMD's own
(https://docs.nvidia.com/cuda/cuda-c-programming-guide/#binary-compatibility,
https://docs.nvidia.com/cuda/cuda-programming-guide/05-appendices/compute-capabilities.html,
https://llvm.org/docs/AMDGPUUsage.html#target-features); the Jetson exceptions are those of torch
2.14's ``torch/cuda/__init__.py``. A list speaks for torch's own kernels only, so a static "yes"
still has to be proved by running some.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable

Answer = Literal["yes", "no", "unknown"]
Capability = tuple[int, int]
Version = tuple[int, int]

_CUDA_ENTRY = re.compile(r"(?P<kind>sm|compute)_(?P<major>\d+)(?P<minor>\d)(?P<suffix>[af]?)")
_GFX_ENTRY = re.compile(
    r"(?P<base>gfx[0-9a-f]+(?:-[0-9a-f]+)*(?:-generic)?)(?P<features>(?::\w+[+-])*)"
)

# Tegra chips; Thor (11.0) follows the rules of the desktop.
_JETSON = frozenset({(5, 3), (6, 2), (7, 2), (8, 7)})
_JETSON_UNIFIED_SINCE: Version = (13, 2)  # from here on 7.0, 8.0 and 8.6 code runs on Jetson
_JETSON_UNCLEAR_SINCE: Version = (13, 0)  # torch says no, tests on JetPack 7.2 passed
_MINOR_COMPATIBILITY_SINCE: Version = (11, 0)  # from here on a driver serves its whole CUDA major

_GENERIC_TARGETS = {
    "gfx9-generic": ("gfx900", "gfx902", "gfx904", "gfx906", "gfx909", "gfx90c"),
    "gfx9-4-generic": ("gfx940", "gfx941", "gfx942", "gfx950"),
    "gfx10-1-generic": ("gfx1010", "gfx1011", "gfx1012", "gfx1013"),
    "gfx10-3-generic": tuple(f"gfx103{last}" for last in range(7)),
    "gfx11-generic": tuple(f"gfx11{last}" for last in ("00", "01", "02", "03", 50, 51, 52, 53)),
    "gfx12-generic": ("gfx1200", "gfx1201"),
}
# Listed by a build and still without one working kernel: patientx-cfz/comfyui-rocm#71.
_LISTED_BUT_BROKEN = frozenset({"gfx1034"})


@dataclass(frozen=True)
class Verdict:
    """What the architecture list says about one device.

    Attributes:
        answer: ``"yes"``, ``"no"`` or ``"unknown"`` (only running a kernel can tell).
        reason: One sentence for people.
        cause: For a "no": ``"kernels"`` (the build has none for the device) or ``"driver"`` (it is
            too old for the build).
        compiled_at_load: True if only PTX serves the device: the driver compiles each kernel when
            it is first used, which takes minutes for a whole torch.
    """

    answer: Answer
    reason: str
    cause: Literal["kernels", "driver"] | None = None
    compiled_at_load: bool = False


def judge(
    arch_list: Iterable[str],
    *,
    capability: Capability | None = None,
    gcn_arch: str | None = None,
    cuda_version: str | None = None,
    driver_cuda_version: str | None = None,
) -> Verdict:
    """Say whether a torch build has kernels for a device, from its architecture list alone.

    Args:
        arch_list: Entries as ``torch.cuda.get_arch_list()`` gives them, such as ``"sm_90"``,
            ``"compute_120"`` or ``"gfx90a:xnack-"``. Entries of an unknown form never raise.
        capability: Compute capability (major, minor) of an NVIDIA device.
        gcn_arch: Name of an AMD device with its features, such as ``"gfx90a:sramecc+:xnack-"``. It
            wins over ``capability``, which torch also reports (wrongly for this use) on AMD.
        cuda_version: CUDA version that torch was built with, such as ``"12.8"``.
        driver_cuda_version: Newest CUDA version that the driver supports.

    Returns:
        The verdict. "unknown" means that neither list nor versions decide.

    Example:
        >>> judge(["sm_80", "sm_90"], capability=(12, 0)).answer
        'no'
        >>> judge(["sm_80", "sm_90", "compute_90"], capability=(12, 0)).answer
        'yes'
    """
    entries = [entry.strip() for entry in arch_list if entry.strip()]
    if not entries:
        return Verdict("unknown", "the build does not say which devices it has kernels for")
    if gcn_arch:
        return _judge_amd(entries, gcn_arch)
    if capability is None:
        return Verdict("unknown", "the device does not say which kernels it can run")
    toolkit, driver = _version(cuda_version), _version(driver_cuda_version)
    oldest = toolkit and ((toolkit[0], 0) if toolkit >= _MINOR_COMPATIBILITY_SINCE else toolkit)
    if oldest and driver and driver < oldest:
        return Verdict(
            "no",
            f"the driver supports CUDA {driver_cuda_version}, torch was built with {cuda_version}",
            cause="driver",
        )
    return _judge_nvidia(entries, capability, toolkit, driver)


def _judge_nvidia(
    entries: list[str], device: Capability, toolkit: Version | None, driver: Version | None
) -> Verdict:
    """Best answer that any entry gives: binaries first, then PTX, then doubts."""
    name = f"{device[0]}.{device[1]}"
    parsed = {entry: match for entry in entries if (match := _CUDA_ENTRY.fullmatch(entry))}
    doubts = [
        f"the entry {entry} is of an unknown kind" for entry in entries if entry not in parsed
    ]
    fitting_ptx = []
    for entry, match in parsed.items():
        code, suffix = (int(match["major"]), int(match["minor"])), match["suffix"]
        if match["kind"] == "compute":
            fitting_ptx += [entry] if _ptx_covers(code, suffix, device) else []
        elif _binary_covers(code, suffix, device, toolkit):
            return Verdict("yes", f"{entry} binaries run on compute capability {name}")
        elif _jetson_in_doubt(code, suffix, device, toolkit):
            doubts.append(
                f"reports disagree whether {entry} binaries run on the Jetson chip {name}"
            )
    driver_compiles = not (toolkit and driver and driver < toolkit)
    if fitting_ptx and driver_compiles:
        reason = f"the driver compiles {fitting_ptx[-1]} code for compute capability {name}"
        return Verdict("yes", reason, compiled_at_load=True)
    if doubts:
        return Verdict("unknown", doubts[0])
    if fitting_ptx:
        reason = f"only {fitting_ptx[-1]} code fits, and the driver is older than its compiler"
        return Verdict("no", reason, cause="driver")
    return _no_kernels(entries, f"compute capability {name}")


def _binary_covers(
    code: Capability, suffix: str, device: Capability, toolkit: Version | None
) -> bool:
    """Binaries run on the same major from their own minor on; desktop and Jetson do not mix."""
    code, device = _one_thor(code), _one_thor(device)
    if suffix == "a" or code in _JETSON:
        return code == device
    if device in _JETSON and (toolkit is None or toolkit < _JETSON_UNIFIED_SINCE):
        return False
    return code[0] == device[0] and code[1] <= device[1]


def _jetson_in_doubt(
    code: Capability, suffix: str, device: Capability, toolkit: Version | None
) -> bool:
    """Whether desktop binaries meet a Jetson chip in the CUDA versions that reports disagree on."""
    return (
        device in _JETSON
        and toolkit is not None
        and _JETSON_UNCLEAR_SINCE <= toolkit < _JETSON_UNIFIED_SINCE
        and _binary_covers(code, suffix, device, _JETSON_UNIFIED_SINCE)
    )


def _ptx_covers(code: Capability, suffix: str, device: Capability) -> bool:
    """PTX runs on everything newer; suffix a pins the chip, suffix f its family."""
    if not suffix:
        return code <= device
    code, device = _one_thor(code), _one_thor(device)
    if suffix == "a":
        return code == device
    return code[0] == device[0] and code[1] <= device[1]


def _one_thor(capability: Capability) -> Capability:
    """Thor was 10.1 up to CUDA 12 and is 11.0 since CUDA 13: one chip, one number."""
    return (11, 0) if capability == (10, 1) else capability


def _version(text: str | None) -> Version | None:
    """Major and minor of a version text, or None where it has none."""
    match = re.match(r"\s*(\d+)(?:\.(\d+))?", text or "")
    return (int(match[1]), int(match[2] or 0)) if match else None


def _judge_amd(entries: list[str], gcn_arch: str) -> Verdict:
    """Best answer that any entry gives for an AMD device name."""
    base, *features = gcn_arch.strip().split(":")
    if base in _LISTED_BUT_BROKEN and base in entries:
        return Verdict("unknown", f"{base} is listed, but builds that list it were seen to fail")
    doubts: list[str] = []
    for entry in entries:
        match = _GFX_ENTRY.fullmatch(entry)
        if match is None or (
            match["base"].endswith("-generic") and match["base"] not in _GENERIC_TARGETS
        ):
            doubts.append(f"the entry {entry} is of an unknown kind")
            continue
        if base not in _GENERIC_TARGETS.get(match["base"], (match["base"],)):
            continue
        wanted = [feature for feature in match["features"].split(":") if feature]
        if all(feature in features for feature in wanted):
            return Verdict("yes", f"{entry} kernels run on {gcn_arch}")
        opposites = (feature[:-1] + "+-"[feature.endswith("+")] for feature in wanted)
        if not any(opposite in features for opposite in opposites):
            doubts.append(f"{gcn_arch} does not say whether it has what {entry} needs")
    if doubts:
        return Verdict("unknown", doubts[0])
    return _no_kernels(entries, gcn_arch)


def _no_kernels(entries: list[str], device: str) -> Verdict:
    """Return the answer when no entry fits."""
    listed = " ".join(entries)
    reason = f"the build has kernels for {listed}, none of which run on {device}"
    return Verdict("no", reason, cause="kernels")
