from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightweight_decoder.accelerator.request import parse_request
from lightweight_decoder.errors import AcceleratorError, ConfigError


def parse(accelerator="auto", devices="auto", precision="32-true", on_unusable="auto"):
    return parse_request(accelerator, devices, precision, "auto", on_unusable)


@pytest.mark.parametrize(
    ("devices", "count", "selected"),
    [
        ("auto", None, None),
        (-1, None, None),
        ("-1", None, None),
        (2, 2, None),
        ("2", 2, None),
        ([0, 2], None, (0, 2)),
        ((1,), None, (1,)),
        ("0,2", None, (0, 2)),
        ("1,", None, (1,)),
        (["1", "0"], None, (1, 0)),
        ("GPU-5f1c, GPU-77", None, ("GPU-5f1c", "GPU-77")),
    ],
)
def test_forms_of_devices(devices, count, selected):
    request = parse(devices=devices)

    assert (request.count, request.selected) == (count, selected)


@pytest.mark.parametrize(
    ("devices", "problem"),
    [
        ("1,1", r"device 1 is named twice.*found '1,1'"),
        ([0, "0"], "device 0 is named twice"),
        (0, "no such number of devices.*found 0"),
        (-3, "no such number of devices.*found -3"),
        (True, "no such number of devices.*found True"),
        ([], r"no device is named.*found \[\]"),
        (",", "no device is named"),
        ([-1], "-1 is no device"),
        ([True], "True is no device"),
        ("cuda:0", "'cuda:0' is no device"),
        ("GPU-1,GPU-1", "GPU-1 is named twice"),
    ],
)
def test_devices_that_make_no_sense_are_named(devices, problem):
    with pytest.raises(ConfigError, match=f"devices: .*{problem}"):
        parse(devices=devices)


@pytest.mark.parametrize(
    ("written", "precision"),
    [(16, "16-mixed"), ("bf16", "bf16-mixed"), (64, "64-true"), ("bf16-true", "bf16-true")],
)
def test_precision_has_lightnings_names(written, precision):
    assert parse(precision=written).precision == precision


def test_unknown_precision_is_named_with_those_that_exist():
    with pytest.raises(ConfigError, match=r"precision: .*32-true, 16-mixed, .*found 'fp7'"):
        parse(precision="fp7")


def test_unknown_names_are_refused():
    with pytest.raises(ConfigError, match=r"accelerator: .*one of auto, cpu, .*found 'gpus'"):
        parse("gpus")
    with pytest.raises(ConfigError, match=r"accelerator.on_unusable: .*found 'ignore'"):
        parse(on_unusable="ignore")


@pytest.mark.parametrize(("name", "reason"), [("xpu", "Intel GPUs"), ("TPU", "TPU")])
def test_accelerators_that_lightning_or_we_lack(name, reason):
    with pytest.raises(AcceleratorError, match=f"{reason}.*accelerator=cpu"):
        parse(name)


def test_cpu_has_no_indices():
    with pytest.raises(ConfigError, match=r"the CPU has no device indices.*found \[0\]"):
        parse("cpu", devices=[0])


@pytest.mark.parametrize(
    ("accelerator", "devices", "mode"),
    [
        ("auto", "auto", "fallback"),
        ("auto", 1, "fallback"),
        ("auto", 2, "raise"),
        ("auto", [0], "raise"),
        ("gpu", "auto", "raise"),
        ("rocm", "auto", "raise"),
    ],
)
def test_what_auto_means_for_on_unusable(accelerator, devices, mode):
    assert parse(accelerator, devices).mode == mode
    assert parse(accelerator, devices, on_unusable="force").mode == "force"


def test_asked_keeps_what_was_written():
    asked = parse("rocm", (0, 1), 16).asked

    assert (asked.accelerator, asked.devices, asked.precision) == ("rocm", [0, 1], "16")


@given(st.one_of(st.text(), st.integers(), st.lists(st.one_of(st.text(), st.integers()))))
def test_any_devices_parse_or_are_refused(devices):
    try:
        request = parse(devices=devices)
    except ConfigError as error:
        assert error.where == "devices"  # noqa: PT017 - both ways are right
    else:
        assert request.count is None or request.count > 0
        assert request.selected is None or len(set(request.selected)) == len(request.selected)
