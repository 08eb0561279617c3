"""Hold our static rule and the rules that others use to a table of cases.

    python scripts/benchmarks/accelerator_rules.py ../shared/data/accelerators/cases.json

Counts firm NVIDIA cases only, as the others have no rule for AMD. Each is written from what its
project does (torch's from its ``_check_cubins`` and ``_check_capability``), entries stripped of
suffixes where the original strips them.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lightweight_decoder.accelerator import judge

if TYPE_CHECKING:
    from collections.abc import Callable

    Case = dict[str, Any]


def numbers(case: Case) -> list[int]:
    """Return the capabilities of a list's entries, without kind and suffix."""
    return [int(match[1]) for entry in case["arch_list"] if (match := re.search(r"_(\d+)", entry))]


def capability(case: Case) -> int:
    """Return the device's capability as one number."""
    return int(case["capability"][0] * 10 + case["capability"][1])


def torch_table(case: Case) -> bool:
    """Torch 2.11 to 2.13: a table of who runs what, suffixes stripped."""
    compatible = torch.cuda._code_compatible_with_device  # noqa: SLF001
    return any(compatible(capability(case), number) for number in numbers(case))


def ours(case: Case) -> bool:
    """Return the package's rule."""
    verdict = judge(
        case["arch_list"],
        capability=tuple(case["capability"]),
        cuda_version=case["cuda_version"],
        driver_cuda_version=case["driver_cuda_version"],
    )
    return verdict.answer == "yes"


RULES: dict[str, Callable[[Case], bool]] = {
    "ours": ours,
    "torch.cuda.is_available, Lightning": lambda _case: True,
    "sm_XY is in the list": lambda case: f"sm_{capability(case)}" in case["arch_list"],
    "same major (torch's cubin warning)": lambda case: any(
        number // 10 == capability(case) // 10 for number in numbers(case)
    ),
    "lowest to highest (torch 2.8 to 2.10)": lambda case: (
        min(numbers(case)) <= capability(case) <= max(numbers(case))
    ),
    "torch's table (2.11 and later)": torch_table,
}


def main() -> None:
    """Print how many cases each rule gets wrong, and which way."""
    cases = json.loads(Path(sys.argv[1]).read_text())
    firm = [case for case in cases if case["backend"] == "cuda" and case["expect"] != "unknown"]
    print(f"{len(firm)} firm cases")
    for name, rule in RULES.items():
        wrong = [case for case in firm if rule(case) != (case["expect"] == "yes")]
        false_yes = sum(case["expect"] == "no" for case in wrong)
        print(
            f"{name}: wrong {len(wrong)} (false yes {false_yes}, false no {len(wrong) - false_yes})"
        )


if __name__ == "__main__":
    main()
