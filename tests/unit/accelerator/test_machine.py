from __future__ import annotations

import ctypes
import importlib.util
from types import SimpleNamespace

import pytest
import torch

from lightweight_decoder.accelerator import machine, nvml


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
    library = tmp_path / "lib" / "libtorch_python.so"
    library.parent.mkdir()
    library.write_bytes(b"\x7fELF\0sm_80\0sm_\0sm_90 compute_90\0gfx1\0sm_90 compute_90 x\0")
    spec = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: spec)
    monkeypatch.setenv("LIGHTWEIGHT_DECODER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setenv("CUDA_FORCE_PTX_JIT", "1")
    monkeypatch.setenv("HSA_OVERRIDE_GFX_VERSION_0", "10.3.0")
    found = machine.look_at_machine()

    assert found.arch_list == ("sm_90", "compute_90")
    assert found.cuda_version == "13.0"
    assert found.torch_version == torch.__version__
    assert found.variables["CUDA_FORCE_PTX_JIT"] == "1"
    assert found.variables["HSA_OVERRIDE_GFX_VERSION_0"] == "10.3.0"


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


def nvml_library(codes=None):
    """A made-up NVML with two GPUs, the second with unified memory."""
    codes = codes or {}

    def answer(name, work=None):
        def function(*arguments):
            if work:
                work(*arguments)
            return codes.get(name, 0)

        return function

    def set_count(pointer):
        pointer._obj.value = 2

    def set_handle(index, pointer):
        pointer._obj.value = index + 1

    def set_text(prefix):
        def write(handle, buffer, _size):
            buffer.value = f"{prefix}{handle.value}".encode()

        return write

    def memory(handle, pointer):
        pointer._obj.free = 5 << 30
        return 0 if handle.value == 1 else 3

    return SimpleNamespace(
        nvmlInit_v2=answer("init"),
        nvmlShutdown=answer("shutdown"),
        nvmlDeviceGetCount_v2=answer("count", set_count),
        nvmlDeviceGetHandleByIndex_v2=answer("handle", set_handle),
        nvmlDeviceGetUUID=answer("uuid", set_text("GPU-")),
        nvmlDeviceGetName=answer("name", set_text("NVIDIA ")),
        nvmlDeviceGetMemoryInfo=memory,
    )


def test_nvml(library):
    library(nvml_library())

    assert nvml.list_gpus() == (
        nvml.NvmlGpu("GPU-1", "NVIDIA 1", 5 << 30),
        nvml.NvmlGpu("GPU-2", "NVIDIA 2", None),
    )


@pytest.mark.parametrize("failing", ["init", "count", "handle", "uuid"])
def test_nvml_that_fails_lists_nothing(library, failing):
    library(nvml_library({failing: 999}))

    assert nvml.list_gpus() == ()


def test_nvml_that_is_missing_or_silent_lists_nothing(library, monkeypatch):
    library(SimpleNamespace())
    assert nvml.list_gpus() == ()
    monkeypatch.setattr(ctypes, "CDLL", no_library)
    assert nvml.list_gpus() == ()
