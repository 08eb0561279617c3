from __future__ import annotations

import getpass
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from lightweight_decoder.accelerator import doctor
from lightweight_decoder.accelerator.machine import Machine
from lightweight_decoder.accelerator.plan import DeviceReport
from lightweight_decoder.errors import ConfigError

ROOT = Path(__file__).resolve().parents[3]
V100 = DeviceReport(
    "no_kernels",
    "the build has none",
    "Install cu126.",
    index=0,
    name="V100",
    capability=(7, 0),
    total_memory_bytes=32 << 30,
    probe_ms=812.4,
)
H100 = replace(V100, verdict="usable", index=1, name="H100", precision_support={"bf16": True})


@pytest.fixture
def machine(monkeypatch):
    """A machine with two cards; the doctor's own probe is replaced."""
    machine = Machine(
        "2.14.1+cu130",
        "13.0",
        arch_list=("sm_90",),
        driver_loads=True,
        variables={"LD_LIBRARY_PATH": "/home/ann/cuda", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"},
        system="Linux x86_64",
    )
    calls = []

    def probe(*_arguments):
        calls.append(1)
        return (V100, H100)

    monkeypatch.setattr("lightweight_decoder.accelerator.probe.list_gpus", tuple)
    monkeypatch.setattr("lightweight_decoder.accelerator.survey.list_gpus", tuple)
    examine = doctor.examine

    def examine_machine(*arguments, **options):
        return examine(*arguments, **options, look=lambda: machine, probe=probe)

    monkeypatch.setattr(doctor, "examine", examine_machine)
    return calls


def test_the_table(machine, capsys):
    status = doctor.run_doctor(cache=False)
    text = " ".join(capsys.readouterr().out.split())

    assert status == 0
    for part in ("V100 7.0 32 GiB", "no_kernels", "Install cu126.", "812 ms", "bf16", "sm_90"):
        assert part in text
    assert "accelerator=auto would choose: cuda, devices [1]" in text
    assert "ann" not in text
    assert len(machine) == 1


def test_json(machine, capsys):
    assert doctor.run_doctor(format="json", cache=False) == 0
    found = json.loads(capsys.readouterr().out)

    assert [device["verdict"] for device in found["devices"]] == ["no_kernels", "usable"]
    assert found["auto"]["devices"] == [1]
    assert found["facts"]["variables"] == {
        "LD_LIBRARY_PATH": "(set)",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    }
    assert found["problem"] is None


def test_what_would_fail_is_the_exit_status(machine, capsys):
    assert doctor.run_doctor(accelerator="cuda", devices=[0], cache=False) == 1
    assert "the build has none" in " ".join(capsys.readouterr().out.split())
    assert doctor.run_doctor(accelerator="cuda", devices=[1], cache=False) == 0


def test_unknown_values_are_named():
    with pytest.raises(ConfigError, match=r"format: .*table or json, found 'xml'"):
        doctor.run_doctor(format="xml")


def run_script(*overrides):
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "doctor.py"), *overrides],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )


def test_the_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    finished = run_script("accelerator=cuda", "devices=[0]", "format=json", "cache=false")

    assert finished.returncode == 1
    assert json.loads(finished.stdout)["plan"] is None
    assert getpass.getuser() not in finished.stdout
    assert str(ROOT) not in finished.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) in ([], ["cache"])


def test_the_command_names_bad_values():
    finished = run_script("precision=fp7")

    assert finished.returncode == 1
    assert "found 'fp7'" in finished.stderr
    assert "Traceback" not in finished.stderr
