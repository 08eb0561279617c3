from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
from types import SimpleNamespace

import pynvml
import pytest
import torch

from lightweight_decoder.accelerator import machine


@pytest.fixture
def library(monkeypatch):
    """Replaces every shared library with an object."""

    def load(functions):
        monkeypatch.setattr(ctypes, "CDLL", lambda _name: functions)

    return load


def no_library(_name):
    raise OSError("cannot open shared object file")


@pytest.mark.parametrize(("number", "version"), [(13000, "13.0"), (12040, "12.4"), (9020, "9.2")])
def test_driver_version(library, number, version):
    def answer(pointer):
        pointer._obj.value = number
        return 0

    library(SimpleNamespace(cuDriverGetVersion=answer))
    found = machine.look_at_machine()

    assert (found.driver_cuda_version, found.driver_loads) == (version, True)
    assert found.driver_present


@pytest.mark.parametrize(
    "broken", [SimpleNamespace(), SimpleNamespace(cuDriverGetVersion=lambda _pointer: 3)]
)
def test_a_library_that_does_not_answer_is_no_driver(library, broken):
    library(broken)

    assert machine.look_at_machine().driver_cuda_version is None


def test_the_build_is_read_without_a_device(monkeypatch, tmp_path):
    monkeypatch.setattr(ctypes, "CDLL", no_library)
    libraries = tmp_path / "lib"
    libraries.mkdir()
    for name, written_ns in (("libtorch.so", 2_000), ("libtorch_python.so", 7_000), ("a", 9_000)):
        (libraries / name).touch()
        os.utime(libraries / name, ns=(0, written_ns))
    monkeypatch.setattr(torch, "__file__", str(tmp_path / "__init__.py"))
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setenv("CUDA_FORCE_PTX_JIT", "1")
    monkeypatch.setenv("HSA_OVERRIDE_GFX_VERSION_0", "10.3.0")
    found = machine.look_at_machine()

    assert found.installed_ns == 7_000
    assert found.cuda_version == "13.0"
    assert found.torch_version == torch.__version__
    assert found.variables["CUDA_FORCE_PTX_JIT"] == "1"
    assert found.variables["HSA_OVERRIDE_GFX_VERSION_0"] == "10.3.0"


def test_looking_leaves_the_process_free_to_fork():
    program = (
        "import torch; from lightweight_decoder.accelerator.machine import look_at_machine;"
        " asked = []; torch._C._cuda_getArchFlags = lambda: asked.append(1);"
        " look_at_machine(); assert not asked and not torch.cuda.is_initialized()"
    )

    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_nvidia_gpus_come_from_the_kernel_drivers_list(tmp_path, monkeypatch):
    for bus, letter in (("0000:17:00.0", "a"), ("0000:65:00.0", "b")):
        folder = tmp_path / bus
        folder.mkdir()
        (folder / "information").write_text(
            f"Model: \t\t NVIDIA {letter.upper()}\nIRQ:   \t\t 7\nGPU UUID: \t GPU-{letter}\n"
        )
    (tmp_path / "0000:99:00.0").mkdir()
    monkeypatch.setattr(machine, "_NVIDIA_PROC", tmp_path)

    assert machine.look_at_machine().gpus == (
        machine.Gpu("GPU-a", "NVIDIA A"),
        machine.Gpu("GPU-b", "NVIDIA B"),
    )


def test_amd_gpus_are_nodes_with_a_graphics_version(tmp_path, monkeypatch):
    for number, text in enumerate(
        [
            "cpu_cores_count 64\ngfx_target_version 0\n",
            "simd_count 208\ngfx_target_version 90010\nunique_id 17\n",
        ]
    ):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "properties").write_text(text)
    monkeypatch.setattr(machine, "_KFD_NODES", tmp_path)
    monkeypatch.setattr(torch.version, "hip", "6.4")

    assert machine.look_at_machine().gpus == (machine.Gpu("GPU-11", None),)


@pytest.fixture
def nvml_of(monkeypatch):
    """Replaces the driver's library by one with two GPUs, the second with unified memory."""

    def replace_by(failing=None):
        def answer(name, value):
            def function(*_arguments):
                if name == failing:
                    raise pynvml.NVMLError(pynvml.NVML_ERROR_UNKNOWN)
                return value(*_arguments) if callable(value) else value

            monkeypatch.setattr(pynvml, name, function)

        def memory(handle):
            if handle == 1:
                raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
            return SimpleNamespace(free=5 << 30)

        answer("nvmlInit", None)
        answer("nvmlShutdown", None)
        answer("nvmlDeviceGetCount", 2)
        answer("nvmlDeviceGetHandleByIndex", lambda index: index)
        answer("nvmlDeviceGetUUID", lambda handle: f"GPU-{handle}")
        answer("nvmlDeviceGetName", lambda handle: f"NVIDIA {handle}")
        answer("nvmlDeviceGetMemoryInfo", memory)

    return replace_by


def test_nvml(nvml_of):
    nvml_of()

    assert machine.list_gpus() == (
        machine.Gpu("GPU-0", "NVIDIA 0", 5 << 30),
        machine.Gpu("GPU-1", "NVIDIA 1", None),
    )


@pytest.mark.parametrize(
    "failing",
    ["nvmlInit", "nvmlDeviceGetCount", "nvmlDeviceGetHandleByIndex", "nvmlDeviceGetUUID"],
)
def test_nvml_that_fails_lists_nothing(nvml_of, failing):
    nvml_of(failing)

    assert machine.list_gpus() == ()


def test_nvml_that_is_missing_lists_nothing(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)

    assert machine.list_gpus() == ()


def test_nvml_that_never_answers_lists_nothing(nvml_of, monkeypatch):
    nvml_of()
    woken = threading.Event()
    monkeypatch.setattr(pynvml, "nvmlInit", woken.wait)
    monkeypatch.setattr(machine, "_NVML_PATIENCE_S", 0.1)

    assert machine.list_gpus() == ()
    woken.set()
