from __future__ import annotations

import pytest
import torch

from lightweight_decoder.accelerator import precision
from lightweight_decoder.accelerator.plan import DeviceReport
from lightweight_decoder.accelerator.precision import choose_precision

T4 = DeviceReport("usable", "", name="T4", precision_support={"fp16": True, "bf16": False})
H100 = DeviceReport("usable", "", name="H100", precision_support={"fp16": True, "bf16": True})


@pytest.mark.parametrize(
    ("asked", "reports", "chosen"),
    [
        ("32-true", [T4], "32-true"),
        ("64-true", [T4], "64-true"),
        ("16-mixed", [T4, H100], "16-mixed"),
        ("bf16-mixed", [H100], "bf16-mixed"),
        ("bf16-mixed", [H100, T4], "32-true"),
        ("bf16-true", [T4], "32-true"),
        ("16-mixed", [DeviceReport("hung", "", index=0)], "16-mixed"),
    ],
)
def test_cuda(asked, reports, chosen):
    found, reason = choose_precision(asked, "cuda", reports)

    assert found == chosen
    assert bool(reason) == (asked != chosen)


def test_the_reason_names_the_device():
    _, reason = choose_precision("bf16-mixed", "cuda", [H100, T4])

    assert reason == "bf16 is not native on T4, so precision bf16-mixed became 32-true"


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("asked", ["32-true", "64-true", "16-mixed", "bf16-true"])
def test_cpu(asked, native, monkeypatch):
    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: native)
    stays = asked in {"32-true", "64-true"} or (asked == "bf16-true" and native)

    assert choose_precision(asked, "cpu")[0] == (asked if stays else "32-true")


@pytest.mark.parametrize(
    ("capabilities", "native"), [({"avx2": True}, False), ({"bf16": True}, True)]
)
def test_cpu_capabilities(capabilities, native, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)

    assert precision.cpu_has_bf16() is native


def test_cpu_capabilities_of_older_torch(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)

    assert precision.cpu_has_bf16() is True


def test_apple_gpus_have_no_64_bit_floats():
    assert choose_precision("64-true", "mps")[0] == "32-true"
