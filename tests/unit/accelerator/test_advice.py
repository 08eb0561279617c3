from __future__ import annotations

import pytest

from lightweight_decoder.accelerator.diagnosis import WHEELS, driver_advice, wheel_advice
from lightweight_decoder.accelerator.machine import Machine
from lightweight_decoder.accelerator.rules import judge


def machine(driver="13.0", system="Linux x86_64", cuda="13.0"):
    return Machine("2.14.1+cu130", cuda, driver_cuda_version=driver, system=system)


@pytest.mark.parametrize(
    ("capability", "driver", "wheel"),
    [
        ((12, 0), "13.0", "torch 2.15.0 from PyPI (CUDA 13.2)"),
        ((12, 0), "12.8", "torch 2.10.0 from PyPI (CUDA 12.8)"),
        ((7, 0), "13.0", "torch 2.14.1+cu126 (CUDA 12.6)"),
        ((6, 1), "12.4", "torch 2.14.1+cu126 (CUDA 12.6)"),
    ],
)
def test_the_newest_wheel_that_device_and_driver_run(capability, driver, wheel):
    advice = wheel_advice(machine(driver), capability=capability)

    assert advice == (
        f"Install {wheel}, which had kernels for compute capability"
        f" {capability[0]}.{capability[1]} on 2026-11-22."
    )


def test_a_driver_too_old_for_every_wheel_is_named():
    advice = wheel_advice(machine("11.8"), capability=(9, 0))

    assert advice.endswith("and a driver for it (driver 580.65.06 or newer).")


def test_no_wheel_means_the_cpu():
    assert "accelerator=cpu" in wheel_advice(machine(), capability=(3, 7))


def test_other_systems_get_no_guess():
    advice = wheel_advice(machine(system="Windows AMD64"), capability=(12, 0))

    assert "no wheel for Windows AMD64 was looked at on 2026-11-22" in advice


def test_amd():
    assert "ROCm 7" in wheel_advice(machine(), gcn_arch="gfx1151")


def test_driver_advice_names_both_ways_out():
    assert driver_advice(machine("12.4")) == (
        "torch 2.14.1+cu130 was built with CUDA 13.0, the driver supports 12.4: install driver"
        " 580.65.06 or newer, or torch 2.14.1+cu126 (CUDA 12.6) (as of 2026-11-22)."
    )


def test_every_entry_of_the_table_is_understood():
    for wheel in WHEELS:
        for entry in wheel.arch_list:
            number = entry.removeprefix("sm_")
            facts = (
                {"gcn_arch": entry}
                if entry.startswith("gfx")
                else {"capability": (int(number[:-1]), int(number[-1]))}
            )
            assert judge(wheel.arch_list, **facts).answer == "yes"
