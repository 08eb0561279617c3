"""The resolver on real hardware; scripts/benchmarks/accelerator_gpu.py checks much more."""

from __future__ import annotations

import os

import pytest
import torch

from lightweight_decoder.accelerator import resolve_accelerator

pytestmark = pytest.mark.gpu


def test_the_probe_proves_the_device_and_leaves_this_process_alone():
    plan = resolve_accelerator("cuda", cache=False)

    assert plan.reports[0].usable
    assert plan.devices[0] == 0
    assert torch.cuda.is_initialized() is False
    child = os.fork()
    if child == 0:
        right = float((torch.ones(8, device="cuda") * 2).sum()) == 16.0
        os._exit(0 if right else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_a_build_without_kernels_is_noticed(monkeypatch):
    if any(entry.startswith("compute_") for entry in torch.cuda.get_arch_list()):
        pytest.skip("this build has PTX, which the driver can compile")
    monkeypatch.setenv("CUDA_FORCE_PTX_JIT", "1")
    plan = resolve_accelerator()

    assert plan.accelerator == "cpu"
    assert {report.verdict for report in plan.reports} == {"no_kernels"}
