"""The cheapest proof: what needs no probe, and who shares one."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

from lightweight_decoder.accelerator import survey
from lightweight_decoder.accelerator.machine import Gpu, Machine
from lightweight_decoder.accelerator.plan import DeviceReport
from lightweight_decoder.files import CACHE_VARIABLE

MACHINE = Machine("2.14.1+cu130", "13.0", driver_loads=True, device_files=True)
USABLE = DeviceReport("usable", "works", index=0, uuid="GPU-a")
GIB = 1 << 30


@pytest.fixture
def probes(monkeypatch):
    """A fake probe; its calls are counted."""
    monkeypatch.setattr(survey, "list_gpus", tuple)
    calls = []

    def probe(machine, backend):
        calls.append(backend)
        return (USABLE,)

    probe.calls = calls
    return probe


def never(machine, backend):
    pytest.fail("nothing had to be probed")


@pytest.mark.parametrize(
    ("machine", "absent"),
    [
        (Machine("2.14.1+cpu"), "torch 2.14.1+cpu was built without CUDA and ROCm"),
        (Machine("2.14.1+cu130", "13.0"), "there is no NVIDIA GPU here, or no driver for it"),
        (Machine("2.9+rocm6.4", hip_version="6.4"), "there is no AMD GPU here"),
        (Machine("2.9+xpu", xpu_built=True), "for which Lightning has no accelerator"),
    ],
)
def test_machines_with_nothing_to_probe(machine, absent):
    found = survey.survey(machine, "cuda", probe=never)

    assert found.reports == ()
    assert absent in found.absent


def test_a_build_without_mps():
    assert "without MPS" in survey.survey(Machine("2.14.1"), "mps", probe=never).absent


@pytest.mark.parametrize(
    ("machine", "verdict", "reason"),
    [
        (Machine("2.14.1+cpu", driver_loads=True), "not_built", "built without CUDA"),
        (Machine("2.14.1", "13.0", device_files=True), "init_failed", "libcuda cannot be loaded"),
        (
            Machine("2.9", hip_version="6.4", device_files=True, device_access=False),
            "init_failed",
            "/dev/kfd",
        ),
        (
            Machine("2.14.1", "13.0", driver_loads=True, variables={"CUDA_VISIBLE_DEVICES": "0,0"}),
            "hidden",
            "CUDA_VISIBLE_DEVICES='0,0'",
        ),
    ],
)
def test_verdicts_without_a_probe(machine, verdict, reason):
    (report,) = survey.survey(machine, "cuda", probe=never).reports

    assert report.verdict == verdict
    assert reason in report.reason
    assert report.advice


def test_each_gpu_of_the_machine_is_named():
    gpus = (Gpu("GPU-a", "A"), Gpu("GPU-b", "B"))
    machine = Machine(
        "2.14.1", "13.0", driver_loads=True, gpus=gpus, variables={"CUDA_VISIBLE_DEVICES": ""}
    )

    found = survey.survey(machine, "cuda", probe=never)

    assert [(report.uuid, report.name) for report in found.reports] == [
        ("GPU-a", "A"),
        ("GPU-b", "B"),
    ]
    assert found.deliberate


def test_the_second_survey_is_cached(probes):
    assert survey.survey(MACHINE, "cuda", probe=probes).source == "probe"
    again = survey.survey(MACHINE, "cuda", probe=never)

    assert (again.source, again.reports) == ("cache", (USABLE,))


def test_without_cache_every_survey_probes(probes, own_cache):
    for _ in range(2):
        found = survey.survey(MACHINE, "cuda", use_cache=False, probe=probes)
        assert found.source == "probe"

    assert len(probes.calls) == 2
    assert not list(own_cache.glob("*.json"))


@pytest.mark.parametrize(
    ("gpus", "source"),
    [
        ((), "cache"),
        ((Gpu("GPU-a", "A", 60 * GIB),), "cache"),
        ((Gpu("GPU-a", "A", None),), "cache"),
        ((Gpu("GPU-a", "A", GIB // 4),), "probe"),
        ((Gpu("GPU-b", "B", 60 * GIB),), "probe"),
    ],
    ids=["no NVML", "free", "shared memory", "full", "another GPU"],
)
def test_a_cached_verdict_must_still_be_true(probes, monkeypatch, gpus, source):
    survey.survey(MACHINE, "cuda", probe=probes)
    monkeypatch.setattr(survey, "list_gpus", lambda: gpus)

    assert survey.survey(MACHINE, "cuda", probe=probes).source == source


def test_children_take_the_parents_verdict(probes, monkeypatch):
    survey.survey(MACHINE, "cuda", use_cache=False, probe=probes)
    monkeypatch.setattr("os.getpid", lambda: -1)

    found = survey.survey(MACHINE, "cuda", use_cache=False, probe=never)

    assert (found.source, found.reports) == ("parent", (USABLE,))


def test_a_child_that_sees_other_devices_asks_for_itself(probes, monkeypatch):
    survey.survey(MACHINE, "cuda", probe=probes)
    monkeypatch.setattr("os.getpid", lambda: -1)
    other = Machine(
        "2.14.1+cu130", "13.0", driver_loads=True, variables={"CUDA_VISIBLE_DEVICES": "1"}
    )

    assert survey.survey(other, "cuda", probe=probes).source == "probe"


RANK = """
    import os, sys, time
    from lightweight_decoder.accelerator.machine import Machine
    from lightweight_decoder.accelerator.plan import DeviceReport
    from lightweight_decoder.accelerator.survey import survey
    verdict = sys.argv[1]
    def probe(machine, backend):
        time.sleep(1)
        with open(sys.argv[2], "a") as file:
            file.write("probed ")
        return (DeviceReport(verdict, f"said by {os.getpid()}", index=0),)
    machine = Machine("2.14.1+cu130", "13.0", driver_loads=True)
    found = survey(machine, "cuda", use_cache=sys.argv[3] == "cache", probe=probe)
    print(found.reports[0].reason)
"""


@pytest.mark.parametrize(
    ("verdict", "caching", "variables"),
    [
        ("usable", "cache", {}),  # two runs at once
        ("out_of_memory", "no-cache", {"LOCAL_RANK": "0", "MASTER_PORT": "29500"}),
        ("out_of_memory", "cache", {"SLURM_LOCALID": "0"}),
        ("usable", "cache", {"LOCAL_RANK": "0", "LIGHTWEIGHT_DECODER_CACHE": "/proc/no"}),
    ],
    ids=["resolvers", "torchrun", "slurm", "read-only home"],
)
def test_processes_at_once_probe_once_and_agree(tmp_path, monkeypatch, verdict, caching, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    program, probed = tmp_path / "rank.py", tmp_path / "probed"
    program.write_text(textwrap.dedent(RANK))
    ranks = [
        subprocess.Popen(
            [sys.executable, str(program), verdict, str(probed), caching],
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    answers = {rank.communicate(timeout=60)[0] for rank in ranks}

    assert probed.read_text() == "probed "
    assert len(answers) == 1


def test_a_folder_that_cannot_be_written_is_survived(probes, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "file" / "cache"))

    assert survey.survey(MACHINE, "cuda", probe=probes).reports == (USABLE,)
