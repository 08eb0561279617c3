"""The probe, with stand-in children in place of devices."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

from lightweight_decoder.accelerator import probe
from lightweight_decoder.accelerator.machine import Gpu, Machine

H100 = Machine(
    torch_version="2.14.1+cu130",
    cuda_version="13.0",
    driver_loads=True,
    driver_cuda_version="13.0",
    device_files=True,
    system="Linux x86_64",
)
GPUS = (Gpu("GPU-a", "NVIDIA A"), Gpu("GPU-b", "NVIDIA B"), Gpu("GPU-c", "NVIDIA C"))

# What every stand-in can do; a test adds what its devices do.
PRELUDE = """
import json, os, signal, sys, time
backend, index, announcing = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "1"
def say(kind, **facts):
    print(json.dumps({"kind": kind, "index": index, **facts}), flush=True)
def announce(*capabilities, archs="sm_75 sm_80 sm_86 sm_90 sm_100 sm_120"):
    if announcing:
        say("build", arch_list=archs.split())
        say("backend", count=len(capabilities))
        for number, capability in enumerate(capabilities):
            say("device", **{"index": number, "uuid": f"GPU-{number}", "name": f"GPU {number}",
                             "capability": capability, "total_memory_bytes": 80 << 30})
def work(free=70 << 30):
    say("memory", free_memory_bytes=free)
    say("step", name="matmul")
    say("done", precision_support={"fp16": True, "bf16": False})
def fail(text, type="RuntimeError"):
    say("error", stage="matmul", type=type, text=text)
"""


@pytest.fixture
def run_probe(tmp_path, monkeypatch):
    monkeypatch.setattr(probe, "list_gpus", tuple)

    def run(body, machine=H100, backend="cuda", time_limit_s=20.0):
        program = tmp_path / "child.py"
        program.write_text(PRELUDE + textwrap.dedent(body))
        return probe.probe_devices(machine, backend, time_limit_s=time_limit_s, program=program)

    return run


def test_a_healthy_device(run_probe):
    (report,) = run_probe("announce((9, 0)); work()")

    assert report.usable
    assert (report.index, report.uuid, report.name) == (0, "GPU-0", "GPU 0")
    assert (report.capability, report.static_answer) == ((9, 0), "yes")
    assert (report.total_memory_bytes, report.free_memory_bytes) == (80 << 30, 70 << 30)
    assert report.precision_support == {"fp16": True, "bf16": False}
    assert report.driver_cuda_version == "13.0"
    assert report.probe_ms is not None
    assert report.probe_ms > 0


def test_a_bad_device_never_hides_a_healthy_one(run_probe):
    reports = run_probe(
        """
        announce((9, 0), (9, 0), (9, 0), (7, 0), (9, 0), (9, 0))
        if index == 0:
            os.kill(os.getpid(), signal.SIGSEGV)
        elif index == 1:
            say("step", name="top_k")
            time.sleep(600)
        elif index == 2:
            work()
        elif index == 3:
            fail("CUDA error: no kernel image is available for execution on the device")
        elif index == 4:
            say("wrong", stage="sort", difference="nan")
        elif index == 5:
            work(free=100 << 20)
        """,
        time_limit_s=4.0,
    )

    assert [report.index for report in reports] == list(range(6))
    assert [report.verdict for report in reports] == [
        "crashed",
        "hung",
        "usable",
        "no_kernels",
        "wrong_values",
        "out_of_memory",
    ]
    assert "SIGSEGV" in reports[0].reason
    assert "top_k" in reports[1].reason
    assert "none of which run on compute capability 7.0" in reports[3].reason
    assert "torch 2.14.1+cu126" in reports[3].advice
    assert "2026-11-22" in reports[3].advice
    assert "sort" in reports[4].reason
    assert "100 MiB" in reports[5].reason


@pytest.mark.parametrize(
    ("body", "verdict", "reason"),
    [
        ("os.write(1, bytes(range(256)) * 50)", "unknown", "status 0 and no readable answer"),
        ("while True: os.write(1, b'x' * 65536)", "crashed", "more than 1 MiB"),
        ("os.abort()", "crashed", "SIGABRT"),
        ("sys.exit(3)", "unknown", "status 3"),
        ("announce()", "init_failed", "finds no device"),
        ("signal.signal(15, signal.SIG_IGN); time.sleep(600)", "hung", "within 2 s"),
        ("say('device', index='x'); say('device', index=10**9)", "unknown", "no readable"),
        ("say('error', type=[], text={})", "unknown", "failed at the step"),
        ("fail('odd thing in /home/ann/lib/x.so: no')", "unknown", "odd thing in <path>: no"),
    ],
)
def test_children_without_an_answer(run_probe, body, verdict, reason):
    (report,) = run_probe(body, time_limit_s=2.0)

    assert report.verdict == verdict
    assert reason in report.reason
    assert report.index is None
    assert "ann" not in report.reason
    assert report.advice


def test_an_abort_with_a_known_message_is_what_the_message_says(run_probe):
    machine = Machine("2.1+rocm5.6", hip_version="5.6", arch_list=("gfx900", "gfx1030"))

    (report,) = run_probe(
        "os.write(2, b'hipErrorNoBinaryForGpu: Unable to find code object'); os.abort()",
        machine,
    )

    assert report.verdict == "no_kernels"


def test_a_failed_backend_is_reported_for_each_gpu_of_the_machine(run_probe):
    machine = Machine("2.14.1+cu130", "13.0", driver_cuda_version="12.4", gpus=GPUS)

    reports = run_probe("fail('The NVIDIA driver on your system is too old')", machine)

    assert [(report.name, report.verdict) for report in reports] == [
        ("NVIDIA A", "driver_too_old"),
        ("NVIDIA B", "driver_too_old"),
        ("NVIDIA C", "driver_too_old"),
    ]
    assert reports[0].advice.startswith(
        "torch 2.14.1+cu130 was built with CUDA 13.0, the driver supports 12.4:"
        " install driver 580.65.06 or newer"
    )


def test_a_gpu_that_the_others_fail_over_is_left_out(run_probe):
    machine = Machine("2.14.1+cu130", "13.0", gpus=GPUS)

    reports = run_probe(
        """
        if os.environ.get("CUDA_VISIBLE_DEVICES") in {"GPU-a", "GPU-c"}:
            announce((9, 0)); work()
        else:
            fail("CUDA unknown error")
        """,
        machine,
    )

    assert [(report.index, report.uuid, report.verdict) for report in reports] == [
        (0, "GPU-a", "usable"),
        (1, "GPU-c", "usable"),
        (None, "GPU-b", "init_failed"),
    ]


@pytest.mark.parametrize(
    ("value", "verdict", "text", "reason"),
    [
        ("7", "hidden", "No CUDA GPUs are available", "no GPU is left: CUDA_VISIBLE_DEVICES='7'"),
        ("1", "init_failed", "CUDA unknown error", "while CUDA_VISIBLE_DEVICES='1' is set"),
    ],
)
def test_what_restricts_the_view_is_named(run_probe, value, verdict, text, reason):
    machine = Machine("2.14.1+cu130", "13.0", variables={"CUDA_VISIBLE_DEVICES": value}, gpus=GPUS)

    reports = run_probe(f"fail({text!r})", machine)

    assert {report.verdict for report in reports} == {verdict}
    assert all(reason in report.reason for report in reports)


def test_hidden_devices_are_listed(run_probe, monkeypatch):
    gpus = (Gpu("GPU-0", "GPU 0", 1), Gpu("GPU-x", "NVIDIA X", 1))
    monkeypatch.setattr(probe, "list_gpus", lambda: gpus)
    machine = Machine("2.14.1+cu130", "13.0", variables={"CUDA_VISIBLE_DEVICES": "1"})

    shown, hidden = run_probe("announce((9, 0)); work()", machine)

    assert shown.usable
    assert (hidden.verdict, hidden.uuid, hidden.index) == ("hidden", "GPU-x", None)
    assert "CUDA_VISIBLE_DEVICES='1'" in hidden.reason


def test_lightnings_variable_does_not_reach_the_child(run_probe, monkeypatch):
    monkeypatch.setenv("PYTORCH_NVML_BASED_CUDA_CHECK", "1")

    (report,) = run_probe(
        "announce((9, 0))\nif 'PYTORCH_NVML_BASED_CUDA_CHECK' not in os.environ: work()"
    )

    assert report.usable


def test_compiling_builds_get_more_time(run_probe):
    machine = Machine("2.14.1", "13.0", driver_cuda_version="13.0")

    (report,) = run_probe(
        "announce((9, 0), archs='compute_80'); time.sleep(2.5); work()", machine, time_limit_s=2.0
    )

    assert report.usable


def test_a_forced_variable_is_named(run_probe):
    machine = Machine("2.11.0+cu130", "13.0", variables={"CUDA_FORCE_PTX_JIT": "1"})

    (report,) = run_probe(
        "announce((9, 0)); fail('CUDA error: no kernel image is available', 'AcceleratorError')",
        machine,
    )

    assert (report.verdict, report.error_code) == ("no_kernels", 209)
    assert "CUDA_FORCE_PTX_JIT=1" in report.reason
    assert report.advice == "Unset CUDA_FORCE_PTX_JIT."


@pytest.mark.parametrize(
    ("said", "answer"),
    [("['sm_90']", "yes"), ("['sm_120']", "no"), ("None", "unknown"), ("7", "unknown")],
)
def test_the_child_says_what_the_build_has_kernels_for(run_probe, said, answer):
    machine = Machine("2.14.1", "13.0", driver_cuda_version="13.0")

    (report,) = run_probe(
        f"""
        say("build", arch_list={said})
        say("backend", count=1)
        say("device", uuid="GPU-0", name="GPU 0", capability=(9, 0))
        work()
        """,
        machine,
    )

    assert report.static_answer == answer


def test_the_list_of_the_installed_torch():
    program = "import torch; print(getattr(torch._C, '_cuda_getArchFlags', str)() or '')"
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout

    assert probe.read_arch_list() == tuple(said.decode().split())


def test_an_apple_gpu(run_probe):
    (report,) = run_probe(
        "say('device', name='Apple GPU') if announcing else None; work(free=None)",
        Machine("2.14.1", mps_built=True),
        backend="mps",
    )

    assert (report.backend, report.verdict, report.index) == ("mps", "usable", 0)
