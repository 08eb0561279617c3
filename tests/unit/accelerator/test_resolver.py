"""Plans from made-up machines and probes: nobody here has ROCm, MPS, Jetson or mixed cards."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from dataclasses import replace
from functools import partial

import pytest

from lightweight_decoder.accelerator import precision, probe, resolver, survey
from lightweight_decoder.accelerator.machine import Machine
from lightweight_decoder.accelerator.plan import DeviceReport
from lightweight_decoder.accelerator.resolver import decide, forget_verdicts, resolve_accelerator
from lightweight_decoder.errors import AcceleratorError, ConfigError

CUDA = Machine("2.14.1+cu130", "13.0", driver_loads=True, device_files=True)
NATIVE = {"fp16": True, "bf16": True, "tf32": True, "fp8": True}

GOOD = DeviceReport(
    "usable", "works", index=0, uuid="GPU-aa", name="H100", precision_support=NATIVE
)
GOOD_1 = replace(GOOD, index=1, uuid="GPU-ab")
T4 = replace(GOOD, index=1, uuid="GPU-b", name="T4", precision_support={"bf16": False})
V100 = DeviceReport("no_kernels", "no sm_70", "Install cu126.", index=0, uuid="GPU-c", name="V100")
FULL = DeviceReport("out_of_memory", "full", "End it.", index=1, uuid="GPU-d")
HIDDEN = DeviceReport("hidden", "CUDA_VISIBLE_DEVICES='0' shows only GPU 0", uuid="GPU-e")
OLD_DRIVER = DeviceReport("driver_too_old", "too old", "Install 580.", name="RTX 5090")
APPLE = DeviceReport("usable", "works", backend="mps", index=0, precision_support={"bf16": True})


@pytest.fixture(autouse=True)
def cpu_without_bf16(monkeypatch):
    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: False)
    monkeypatch.setattr(probe, "list_gpus", tuple)
    monkeypatch.setattr(survey, "list_gpus", tuple)


@pytest.fixture
def resolve(monkeypatch):
    def resolve_with(*reports, machine=CUDA, cache=False, **request):
        found = {"look": lambda: machine, "probe": lambda _machine, _backend: reports}
        monkeypatch.setattr(resolver, "decide", partial(decide, **found))
        return resolve_accelerator(**request, cache=cache)

    return resolve_with


def warnings_of(caplog):
    return [record.message for record in caplog.records if record.levelno == logging.WARNING]


def test_auto_takes_what_is_usable_in_torchs_order(resolve, caplog):
    plan = resolve(GOOD, GOOD_1)

    assert (plan.accelerator, plan.devices, plan.precision) == ("cuda", [0, 1], "32-true")
    assert (plan.reasons, warnings_of(caplog)) == ((), [])
    assert plan.source == "probe"


def test_a_mixed_machine_leaves_the_unusable_out(resolve, caplog):
    plan = resolve(V100, T4, accelerator="gpu")

    assert plan.devices == [1]
    assert plan.reasons == ("V100 (cuda:0): no sm_70",)
    assert plan.advice == ("Install cu126.",)
    assert len(warnings_of(caplog)) == 1


def test_auto_falls_back_to_the_cpu_with_one_warning(resolve, caplog):
    plan = resolve(V100, precision="16-mixed", strategy="ddp", devices=1)

    assert plan.trainer_arguments() == {
        "accelerator": "cpu",
        "devices": 1,
        "precision": "32-true",
        "strategy": "auto",
    }
    (warning,) = warnings_of(caplog)
    assert warning == (
        "Running on cpu with precision 32-true: V100 (cuda:0): no sm_70; fp16 is not native on the"
        " CPU, so precision 16-mixed became 32-true; strategy ddp became auto. Install cu126."
    )
    assert (plan.asked.precision, plan.asked.strategy) == ("16-mixed", "ddp")


def test_other_ranks_do_not_repeat_the_warning(resolve, caplog, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    resolve(V100)

    assert warnings_of(caplog) == []


@pytest.mark.parametrize("accelerator", ["gpu", "cuda", "rocm"])
def test_an_explicit_accelerator_raises_with_the_reason(resolve, accelerator):
    with pytest.raises(
        AcceleratorError, match=rf"accelerator={accelerator}.*V100 \(cuda:0\): no sm_70.*cu126"
    ):
        resolve(V100, accelerator=accelerator)


def test_an_explicit_accelerator_may_fall_back(resolve):
    plan = resolve(V100, accelerator="gpu", on_unusable="fallback")

    assert (plan.accelerator, plan.on_unusable) == ("cpu", "fallback")


def test_auto_may_raise(resolve):
    with pytest.raises(AcceleratorError, match="no sm_70"):
        resolve(V100, on_unusable="raise")


def test_force_takes_the_devices_whatever_their_verdict(resolve, caplog):
    assert resolve(V100, T4, on_unusable="force").devices == [0, 1]
    assert resolve(V100, T4, on_unusable="force", devices=[0]).devices == [0]
    assert resolve(OLD_DRIVER, on_unusable="force").devices == [0]
    assert all("no sm_70" in text or "too old" in text for text in warnings_of(caplog))


@pytest.mark.parametrize(
    ("devices", "chosen"),
    [
        (1, [0]),
        (2, [0, 1]),
        ("2", [0, 1]),
        (-1, [0, 1]),
        ([1], [1]),
        ("1,0", [1, 0]),
        ("GPU-aa", [0]),
        ("GPU-AB", [1]),
        (["GPU-ab", 0], [1, 0]),
    ],
)
def test_devices(resolve, devices, chosen):
    assert resolve(GOOD, GOOD_1, devices=devices).devices == chosen


def test_one_device_is_the_first_that_works(resolve):
    assert resolve(V100, T4, devices=1).devices == [1]


@pytest.mark.parametrize(
    ("devices", "problem"),
    [
        ([7], "no devices are called 7; the indices here are: 0, 1"),
        ("GPU-none", "no devices are called GPU-none; the indices here are: 0, 1"),
        ("GPU-a", "2 devices are called GPU-a"),
        (3, "3 devices were asked for and 2 can be used"),
    ],
)
def test_devices_that_are_not_there(resolve, devices, problem):
    with pytest.raises(AcceleratorError, match=problem):
        resolve(GOOD, GOOD_1, devices=devices)


def test_a_named_device_that_is_full_raises_but_not_if_another_was_named(resolve):
    with pytest.raises(AcceleratorError, match=r"cuda:1: full.*End it\."):
        resolve(GOOD, FULL, devices=[0, 1])
    assert resolve(GOOD, FULL, devices=[0]).devices == [0]


def test_a_named_device_that_is_full_is_left_out_on_fallback(resolve):
    plan = resolve(GOOD, FULL, devices=[0, 1], on_unusable="fallback")

    assert (plan.devices, plan.reasons) == ([0], ("cuda:1: full",))


def test_a_hidden_device_is_reported_and_no_news(resolve, caplog):
    plan = resolve(GOOD, HIDDEN)

    assert plan.devices == [0]
    assert [report.verdict for report in plan.reports] == ["usable", "hidden"]
    assert warnings_of(caplog) == []
    with pytest.raises(AcceleratorError, match="shows only GPU 0"):
        resolve(GOOD, HIDDEN, devices=["GPU-e"])


@pytest.mark.parametrize(("value", "warned"), [("", 0), ("-1", 0), ("0,0", 1), ("garbage", 1)])
def test_switching_gpus_off_on_purpose_is_no_news(resolve, caplog, value, warned):
    plan = resolve(machine=replace(CUDA, variables={"CUDA_VISIBLE_DEVICES": value}))

    assert plan.accelerator == "cpu"
    assert f"CUDA_VISIBLE_DEVICES={value!r}" in plan.reasons[0]
    assert len(warnings_of(caplog)) == warned
    with pytest.raises(AcceleratorError, match=f"CUDA_VISIBLE_DEVICES={value!r}"):
        resolve(machine=replace(CUDA, variables={"CUDA_VISIBLE_DEVICES": value}), accelerator="gpu")


def test_a_machine_without_a_gpu_is_no_news(resolve, caplog):
    plan = resolve(machine=Machine("2.14.1+cpu"))

    assert (plan.accelerator, plan.devices, plan.source) == ("cpu", 1, "none")
    assert warnings_of(caplog) == []
    with pytest.raises(AcceleratorError, match="built without CUDA and ROCm"):
        resolve(machine=Machine("2.14.1+cpu"), accelerator="cuda")
    with pytest.raises(AcceleratorError, match="built without MPS"):
        resolve(machine=Machine("2.14.1+cpu"), accelerator="mps")


def test_a_gpu_that_the_build_ignores_is_news(resolve, caplog):
    resolve(machine=Machine("2.14.1+cpu", driver_loads=True))

    assert "built without CUDA" in warnings_of(caplog)[0]


def test_precision_falls_to_what_every_chosen_device_has(resolve):
    plan = resolve(GOOD, T4, precision="bf16-mixed")

    assert (plan.devices, plan.precision) == ([0, 1], "32-true")
    assert resolve(GOOD, T4, precision="bf16", devices=[0]).precision == "bf16-mixed"


def test_apple(resolve):
    mac = Machine("2.14.1", mps_built=True)

    assert resolve(APPLE, machine=mac).trainer_arguments() == {
        "accelerator": "mps",
        "devices": 1,
        "precision": "32-true",
        "strategy": "auto",
    }
    assert resolve(APPLE, machine=mac, precision="64").accelerator == "cpu"
    with pytest.raises(AcceleratorError, match="64-bit"):
        resolve(APPLE, machine=mac, precision="64", accelerator="mps")


def test_a_failed_apple_gpu_falls_back_to_the_cpu(resolve):
    failed = DeviceReport("init_failed", "sandbox", "Leave it.", backend="mps")

    plan = resolve(failed, machine=Machine("2.14.1", mps_built=True))

    assert plan.accelerator == "cpu"
    assert plan.reasons == ("mps: sandbox", "torch 2.14.1 was built without CUDA and ROCm")


def test_a_gpu_that_the_others_fail_over_is_left_out(resolve, monkeypatch):
    broken = DeviceReport("init_failed", "error 999", "Reboot.", uuid="GPU-z", name="broken")

    plan = resolve(GOOD, GOOD_1, broken)

    assert plan.devices == [0, 1]
    assert plan.environment == {"CUDA_VISIBLE_DEVICES": "GPU-aa,GPU-ab"}
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-aa,GPU-ab"
    assert plan.reasons == ("broken (cuda): error 999",)


def test_cpu_touches_nothing(monkeypatch):
    def never(*_arguments):
        pytest.fail("accelerator=cpu must not look")

    monkeypatch.setattr(resolver, "decide", partial(decide, look=never, probe=never))
    plan = resolve_accelerator("cpu", 4, "bf16-mixed", "ddp")

    assert (plan.devices, plan.strategy, plan.source) == (4, "ddp", "none")
    assert plan.precision == "32-true"
    assert plan.reports == ()


def test_cpu_does_not_import_torch():
    program = (
        "import sys; from lightweight_decoder.accelerator import resolve_accelerator;"
        " resolve_accelerator('cpu'); sys.exit('torch' in sys.modules)"
    )

    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_requests_are_checked_before_anything_is_looked_at(monkeypatch):
    def never(*_arguments):
        pytest.fail("a bad request must not look")

    monkeypatch.setattr(resolver, "decide", never)
    with pytest.raises(ConfigError, match="fp7"):
        resolve_accelerator(precision="fp7")


def test_the_plan_is_plain_json(resolve):
    plan = resolve(replace(GOOD, capability=(9, 0)), V100)
    values = plan.to_dict()

    assert json.loads(json.dumps(values)) == values
    assert values["reports"][0]["capability"] == [9, 0]
    assert values["asked"]["accelerator"] == "auto"
    assert values["resolved_at"].endswith("+00:00")


def test_a_kernel_error_drops_the_verdict(resolve, monkeypatch):
    assert resolve(GOOD, cache=True).source == "probe"
    assert resolve(GOOD, cache=True).source == "cache"

    monkeypatch.setattr(resolver, "look_at_machine", lambda: CUDA)
    forget_verdicts()

    assert resolve(GOOD, cache=True).source == "probe"


def test_the_real_machine_has_a_plan():
    plan = resolve_accelerator()

    assert plan.accelerator in {"cpu", "cuda", "mps"}
