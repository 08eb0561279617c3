from __future__ import annotations

from typing import get_args

import pytest
import torch
from lightning.fabric.plugins.precision.precision import (
    _PRECISION_INPUT_INT,
    _PRECISION_INPUT_STR,
    _PRECISION_INPUT_STR_ALIAS,
)

from lightweight_decoder.accelerator import precision
from lightweight_decoder.accelerator.plan import DeviceReport
from lightweight_decoder.accelerator.precision import (
    PRECISIONS,
    choose_precision,
    parse_precision,
)
from lightweight_decoder.errors import ConfigError

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


def test_every_precision_of_lightning_is_known_or_refused():
    known = {"16-mixed", "bf16-mixed", "bf16-true", "32-true", "64-true"}
    refused = []
    for written in (*get_args(_PRECISION_INPUT_INT), *get_args(_PRECISION_INPUT_STR)):
        try:
            assert parse_precision(written) in known
        except ConfigError:
            refused.append(written)
    for written in get_args(_PRECISION_INPUT_STR_ALIAS):
        assert parse_precision(written) in known

    assert sorted(refused) == ["16-true", "transformer-engine", "transformer-engine-float16"]
    assert set(PRECISIONS) == known


@pytest.mark.parametrize("name", ["16-true", "transformer-engine", "transformer-engine-float16"])
def test_a_refusal_names_what_works(name):
    with pytest.raises(ConfigError, match=rf"precision: .*bf16-true, 64-true.*found '{name}'"):
        parse_precision(name)


@pytest.mark.parametrize(
    ("dtype", "trains"),
    [(torch.float16, False), (torch.bfloat16, True), (torch.float32, True), (torch.float64, True)],
)
def test_a_usual_gradient_moves_a_weight_by_the_learning_rate_but_in_float16(dtype, trains):
    weight = torch.nn.Parameter(torch.zeros(1, dtype=dtype))
    weight.grad = torch.full_like(weight, 1e-3)
    torch.optim.AdamW([weight], lr=1e-2).step()

    assert (abs(float(weight.detach()) + 1e-2) < 1e-4) is trains
