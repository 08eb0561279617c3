from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightweight_decoder.accelerator.rules import judge

SHARED_CASES = [
    folder / "shared/data/accelerators/cases.json"
    for folder in Path(__file__).resolve().parents
    if (folder / "shared/data/accelerators/cases.json").exists()
]

CU121 = "sm_50 sm_60 sm_70 sm_75 sm_80 sm_86 sm_90"
CU128 = "sm_70 sm_75 sm_80 sm_86 sm_90 sm_100 sm_120"
CU130 = "sm_75 sm_80 sm_86 sm_90 sm_100 sm_120"
SBSA = "sm_80 sm_90 sm_100 sm_110 sm_120"
ROCM62 = "gfx900 gfx906 gfx908 gfx90a gfx1030 gfx1100 gfx942"

# (list, capability, answer); CUDA documents these under "binary compatibility".
BINARIES = [
    (CU121, (12, 0), "no"),
    (CU128, (12, 0), "yes"),
    (CU128, (12, 1), "yes"),
    (CU130, (7, 0), "no"),
    ("sm_75", (7, 0), "no"),
    ("sm_86", (8, 0), "no"),
    ("sm_80", (8, 9), "yes"),
    ("sm_103", (10, 0), "no"),
    ("sm_121", (12, 0), "no"),
    ("sm_88 sm_107", (10, 7), "yes"),
    ("sm_100 sm_120", (11, 0), "no"),
]
# Suffix a pins the chip, suffix f the family; compute_ is PTX.
SUFFIXES_AND_PTX = [
    ("sm_90a", (9, 0), "yes"),
    ("sm_90a", (10, 0), "no"),
    ("sm_100a", (10, 3), "no"),
    ("sm_100f", (10, 3), "yes"),
    ("sm_103f", (10, 0), "no"),
    ("sm_101f", (10, 3), "no"),
    ("sm_120f", (12, 1), "yes"),
    ("compute_90", (10, 0), "yes"),
    ("compute_90", (8, 9), "no"),
    ("compute_100", (11, 0), "yes"),
    ("compute_120", (11, 0), "no"),
    ("compute_120", (12, 1), "yes"),
    ("compute_90a", (10, 0), "no"),
    ("compute_100f", (12, 0), "no"),
    ("compute_101", (10, 3), "yes"),
]


@pytest.mark.parametrize(("listed", "capability", "answer"), [*BINARIES, *SUFFIXES_AND_PTX])
def test_nvidia(listed, capability, answer):
    assert judge(listed.split(), capability=capability).answer == answer


@pytest.mark.parametrize(
    ("listed", "capability", "cuda", "answer"),
    [
        ("sm_87", (8, 7), None, "yes"),
        ("sm_87", (8, 9), None, "no"),
        ("sm_72", (7, 5), "12.6", "no"),
        ("sm_70", (7, 2), None, "no"),
        ("compute_80", (8, 7), "12.6", "yes"),
        (SBSA, (8, 7), "12.6", "no"),
        (SBSA, (8, 7), "13.0", "unknown"),
        (SBSA, (8, 7), "13.1", "unknown"),
        (SBSA, (8, 7), "13.2", "yes"),
        ("sm_90 sm_110", (8, 7), "13.0", "no"),
        ("sm_101", (11, 0), None, "yes"),
        ("sm_110", (10, 1), None, "yes"),
        ("sm_100", (10, 1), None, "no"),
    ],
)
def test_jetson(listed, capability, cuda, answer):
    assert judge(listed.split(), capability=capability, cuda_version=cuda).answer == answer


@pytest.mark.parametrize(
    ("listed", "cuda", "driver", "answer", "cause"),
    [
        ("sm_90", "12.8", "12.0", "yes", None),  # one driver serves its whole CUDA major
        ("sm_90", "13.0", "12.8", "no", "driver"),
        ("sm_90", "12.8", "13.0", "yes", None),
        ("sm_90", "10.2", "10.1", "no", "driver"),  # not so before CUDA 11
        ("compute_80", "12.8", "12.4", "no", "driver"),  # PTX needs its own compiler's driver
        ("compute_80", "12.8", "12.8", "yes", None),
        ("compute_80", "12.8", None, "yes", None),
        ("sm_90 compute_80", "12.8", "12.4", "yes", None),
        ("sm_80", "12.8", "12.8", "no", "kernels"),
    ],
)
def test_driver(listed, cuda, driver, answer, cause):
    verdict = judge(
        listed.split(), capability=(9, 0), cuda_version=cuda, driver_cuda_version=driver
    )

    assert (verdict.answer, verdict.cause) == (answer, cause)


def test_only_ptx_is_compiled_at_load():
    assert judge(["sm_80", "compute_80"], capability=(9, 0)).compiled_at_load
    assert not judge(["sm_80", "compute_80"], capability=(8, 6)).compiled_at_load


@pytest.mark.parametrize(
    ("listed", "device", "answer"),
    [
        (ROCM62, "gfx90a:sramecc+:xnack-", "yes"),
        (ROCM62, "gfx1102", "no"),
        (ROCM62, "gfx1031", "no"),
        (ROCM62, "gfx950:sramecc+:xnack-", "no"),
        ("gfx90a:xnack+", "gfx90a:sramecc+:xnack-", "no"),
        ("gfx90a:xnack-", "gfx90a:sramecc+:xnack-", "yes"),
        ("gfx90a:xnack+ gfx90a:xnack-", "gfx90a:sramecc+:xnack+", "yes"),
        ("gfx90a:xnack+", "gfx90a", "unknown"),
        ("gfx9-generic", "gfx906:sramecc+:xnack-", "yes"),
        ("gfx9-generic", "gfx90a:sramecc+:xnack-", "no"),
        ("gfx9-4-generic", "gfx942:sramecc+:xnack-", "yes"),
        ("gfx10-1-generic", "gfx1012", "yes"),
        ("gfx10-3-generic", "gfx1036", "yes"),
        ("gfx11-generic", "gfx1151", "yes"),
        ("gfx12-generic", "gfx1201", "yes"),
        ("gfx12-generic", "gfx1100", "no"),
        ("gfx13-generic", "gfx1300", "unknown"),
        ("amdgcnspirv", "gfx1100", "unknown"),
        ("gfx1030 gfx1034", "gfx1034", "unknown"),  # patientx-cfz/comfyui-rocm#71
    ],
)
def test_amd(listed, device, answer):
    # torch reports a capability there too; it must not count.
    assert judge(listed.split(), gcn_arch=device, capability=(9, 0)).answer == answer


@pytest.mark.parametrize(
    ("listed", "facts"),
    [
        ([], {"capability": (9, 0)}),
        (["sm_90"], {}),
        (["sm_150x"], {"capability": (15, 0)}),
        (["sm_80", "lto_80"], {"capability": (9, 0)}),
        (["sm_"], {"capability": (9, 0)}),
    ],
)
def test_unknown_is_not_no(listed, facts):
    assert judge(listed, **facts).answer == "unknown"


def test_reason_names_list_and_device():
    verdict = judge(CU121.split(), capability=(12, 0))

    assert verdict.reason == (
        f"the build has kernels for {CU121}, none of which run on compute capability 12.0"
    )


entries = st.lists(st.one_of(st.text(max_size=12), st.from_regex(r"(sm|compute|gfx)_?\w{1,6}")))
versions = st.one_of(st.none(), st.text(max_size=6), st.sampled_from(["12.8", "13.0", "9", "x.y"]))


@given(entries, st.tuples(st.integers(0, 20), st.integers(0, 9)), versions, versions)
def test_any_entry_gets_an_answer(listed, capability, cuda, driver):
    facts = {"cuda_version": cuda, "driver_cuda_version": driver}

    assert judge(listed, capability=capability, **facts).answer in {"yes", "no", "unknown"}
    assert judge(listed, gcn_arch="gfx90a:xnack-", **facts).answer in {"yes", "no", "unknown"}


@given(entries, st.tuples(st.integers(3, 20), st.integers(0, 9)))
def test_an_exact_binary_is_always_enough(listed, capability):
    exact = f"sm_{capability[0]}{capability[1]}"

    assert judge([*listed, exact], capability=capability).answer == "yes"


@pytest.mark.skipif(not SHARED_CASES, reason="the shared cases are not here")
def test_shared_cases():
    cases = json.loads(SHARED_CASES[0].read_text())
    answers = {
        case["case"]: judge(
            case["arch_list"],
            capability=tuple(case["capability"]) if case["capability"] else None,
            gcn_arch=case["gcn_arch"],
            cuda_version=case["cuda_version"],
            driver_cuda_version=case["driver_cuda_version"],
        ).answer
        for case in cases
    }

    assert answers == {case["case"]: case["expect"] for case in cases}


def test_importing_the_package_does_not_import_torch():
    program = "import sys, lightweight_decoder.accelerator; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
