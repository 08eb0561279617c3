from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

from lightweight_decoder.encoder import encoder_precision
from lightweight_decoder.encoder.encoder_precision import check_precision, resolve_precision
from lightweight_decoder.errors import ConfigError


@pytest.mark.parametrize("asked", ["float32", "bfloat16"])
@pytest.mark.parametrize("device", ["cpu", "cuda", "mps"])
def test_what_is_asked_for_stays(asked, device):
    assert resolve_precision(asked, device=device) == asked


@pytest.mark.parametrize(("native", "chosen"), [(True, "bfloat16"), (False, "float32")])
def test_auto_follows_the_processor(native, chosen, monkeypatch):
    monkeypatch.setattr(encoder_precision, "cpu_has_bf16", lambda: native)
    assert resolve_precision("auto", device="cpu") == chosen


@pytest.mark.parametrize(("native", "chosen"), [(True, "bfloat16"), (False, "float32")])
def test_auto_asks_the_gpu_that_is_used(native, chosen, monkeypatch):
    asked = []
    monkeypatch.setattr(torch.cuda, "device", lambda device: asked.append(device) or nullcontext())
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda *, including_emulation: native | including_emulation
    )
    assert resolve_precision("auto", device="cuda:1") == chosen
    assert asked == ["cuda:1"]


def test_auto_is_float32_elsewhere(monkeypatch):
    monkeypatch.setattr(encoder_precision, "cpu_has_bf16", lambda: True)
    assert resolve_precision("auto", device="mps") == "float32"


@pytest.mark.parametrize("asked", ["float16", "bf16", "", None])
def test_another_word_is_refused(asked):
    expected = rf"precision: .*expected float32 or bfloat16 or auto, found {asked!r}\. Leave"
    with pytest.raises(ConfigError, match=expected):
        check_precision(asked)
