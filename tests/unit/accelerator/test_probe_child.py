"""The child program: its steps on the CPU, and its records as a process."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from lightweight_decoder.accelerator import probe_child


@pytest.mark.parametrize("step", [*probe_child.STEPS, *probe_child.HALF_STEPS])
def test_a_step_agrees_with_itself(step):
    assert probe_child.compare(step, "cpu") == 0.0
    assert step("cpu").abs().max() > 0


def test_adamw_is_torchs_optimizer():
    weight = torch.nn.Parameter(probe_child.numbers("cpu", 64, 64))
    weight.grad = weight.detach().sign()
    torch.optim.AdamW([weight], lr=0.1, weight_decay=0.01).step()

    np.testing.assert_allclose(probe_child.adamw("cpu"), weight.detach(), rtol=1e-6)


def test_attention_by_hand():
    values = probe_child.numbers("cpu", 2, 4, 16, 32).double().numpy()
    logits = values @ values.swapaxes(-1, -2) / np.sqrt(32)
    weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)

    np.testing.assert_allclose(probe_child.attention("cpu"), weights @ values, atol=1e-5)


@pytest.mark.parametrize("garbage", [0.0, 1.03, float("nan"), float("inf")])
def test_garbage_is_seen(garbage, monkeypatch):
    right = probe_child.matmul("cpu")
    answers = iter([right, right * garbage])

    difference = probe_child.compare(lambda _device: next(answers), "cpu")

    assert not difference <= probe_child.RELATIVE_TOLERANCE


@pytest.mark.parametrize(
    ("backend", "text"), [("cuda", "not compiled with CUDA|NVIDIA driver|GPUs"), ("mps", "MPS")]
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_a_machine_without_the_backend(backend, text):
    finished = subprocess.run(
        [sys.executable, "-I", probe_child.__file__, backend, "0", "1", "[]"],
        capture_output=True,
        check=True,
        text=True,
    )

    build, record = map(json.loads, finished.stdout.splitlines())
    assert build["kind"] == "build"
    assert (record["kind"], record["stage"]) == ("error", "initialize")
    assert any(part in record["text"] for part in text.split("|"))
