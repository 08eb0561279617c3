from __future__ import annotations

import csv
import logging
import time
from types import SimpleNamespace

import pytest
import torch

from lightweight_decoder.training import monitoring
from lightweight_decoder.training.monitoring import TrainingMonitor
from lightweight_decoder.training.run import fit_and_test
from lightweight_decoder.training.tracking import open_trackers

MIB = 1024**2


class Clock:
    """A clock that is moved by hand."""

    def __init__(self):
        self.now = 100.0

    def perf_counter(self):
        return self.now


class Fit:
    """A fit as the monitor sees it: five queries a step, logged every second step."""

    def __init__(self, monkeypatch, *, device="cpu"):
        self.clock = Clock()
        monkeypatch.setattr(monitoring, "time", self.clock)
        self.monitor = TrainingMonitor()
        self.memory = 1000 * MIB
        held = SimpleNamespace(memory_info=lambda: SimpleNamespace(rss=self.memory))
        self.monitor._process = held
        self.logged = []
        self.trainer = SimpleNamespace(
            global_step=0, log_every_n_steps=2, current_epoch=0, callback_metrics={}
        )
        self.module = SimpleNamespace(device=torch.device(device), log_dict=self.logged.append)

    def step(self, *, wait_s=0.0, step_s=0.1):
        self.clock.now += wait_s
        self.monitor.on_train_batch_start(self.trainer, self.module, None, 0)
        self.clock.now += step_s
        self.trainer.global_step += 1
        batch = SimpleNamespace(queries=torch.zeros(5, 3))
        self.monitor.on_train_batch_end(self.trainer, self.module, None, batch, 0)

    def validate(self, **metrics):
        self.trainer.callback_metrics |= {
            f"val/{system}/mrr": torch.tensor(value) for system, value in metrics.items()
        }
        self.monitor.on_validation_start(self.trainer, self.module)
        self.clock.now += 30
        self.monitor.on_validation_end(self.trainer, self.module)


@pytest.fixture
def fit(monkeypatch):
    fit = Fit(monkeypatch)
    fit.monitor.on_train_epoch_start(fit.trainer, fit.module)
    return fit


def test_figures_of_the_steps_since_the_last_time(fit, caplog):
    fit.step(wait_s=7, step_s=0.1)  # what comes before the first step is no waiting
    fit.step(wait_s=0.1, step_s=0.2)
    fit.step(wait_s=0.05, step_s=0.15)
    fit.step(wait_s=0.05, step_s=0.15)

    first, second = fit.logged
    assert first["train/samples_per_s"] == pytest.approx(10 / 0.4)
    assert first["train/data_wait_share"] == pytest.approx(0.1 / 0.4)
    assert second["train/samples_per_s"] == pytest.approx(10 / 0.4)
    assert second["train/data_wait_share"] == pytest.approx(0.1 / 0.4)
    assert second["system/process_memory_bytes"] == 1000 * MIB
    assert not any("gpu" in name for name in second)
    assert not caplog.records


def test_nothing_is_logged_where_lightning_logs_nothing(fit):
    fit.trainer.log_every_n_steps = 0
    for _ in range(5):
        fit.step()

    assert fit.logged == []


def test_batches_of_one_step_are_logged_together(fit):
    for step in (0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4):
        fit.trainer.global_step = step - 1  # fit.step() takes one more
        fit.step()

    assert [figures["train/samples_per_s"] for figures in fit.logged] == pytest.approx(
        [30 / 0.6] * 2
    )


def test_validation_and_mining_are_no_waiting(fit):
    fit.step()
    fit.validate(decoder=0.5)
    fit.step()
    fit.clock.now += 50
    fit.monitor.on_train_epoch_start(fit.trainer, fit.module)
    fit.step()
    fit.step()
    assert [figures["train/data_wait_share"] for figures in fit.logged] == [0, 0]


def test_waiting_for_data_is_told_once(fit, caplog):
    for _ in range(4):
        fit.step(wait_s=0.3, step_s=0.1)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    message = record.getMessage()
    # The first step's wait is not known.
    assert "waits for data 60% of the time: 150 ms before a step of 100 ms, over 2" in message
    assert "batches.num_workers" in message


def test_steps_too_short_to_judge(fit, caplog):
    for _ in range(10):
        fit.step(wait_s=0.003, step_s=0.001)
    assert fit.logged[-1]["train/data_wait_share"] > 0.5
    assert not caplog.records


def test_growing_memory_is_told_once(fit, caplog):
    for _ in range(20):
        fit.memory += 50 * MIB
        fit.step()
    (record,) = caplog.records
    # Nine measurements, every second step: 1,100 MiB at the first, 100 more at each of the others.
    assert "8 times in a row, from 1,100 to 1,900 MiB, 50.00 MiB a step" in record.getMessage()
    assert "detach" in record.getMessage()


@pytest.mark.parametrize("rises", [[1] * 20, [100, 100, 100, 100, 100, -1] * 5])
def test_warming_up_is_no_leak(fit, caplog, rises):
    for rise in rises:
        fit.memory += rise * MIB
        fit.step()
        fit.step()
    assert not caplog.records


def test_validation_below_plain_search_is_told_once(fit, caplog):
    fit.validate(decoder=0.30, baseline=0.25)
    del fit.trainer.callback_metrics["val/baseline/mrr"]  # it is validated once
    fit.trainer.current_epoch = 1
    fit.validate(decoder=0.2)
    fit.validate(decoder=0.1)
    (record,) = caplog.records
    assert "val/decoder/mrr 0.2000, plain search 0.2500, after epoch 2" in record.getMessage()
    assert "training.lr" in record.getMessage()


def test_without_a_baseline_nothing_is_compared(fit, caplog):
    fit.validate(decoder=0.0)
    assert not caplog.records


def test_a_gpu_is_asked_until_its_driver_does_not_answer(monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    fit = Fit(monkeypatch, device="cuda")
    answers = [31]

    def utilization(device):
        if not answers:
            raise ModuleNotFoundError("nvidia-ml-py does not seem to be installed")
        return answers.pop()

    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 64 * MIB)
    monkeypatch.setattr(torch.cuda, "utilization", utilization)
    for _ in range(6):
        fit.step()
    first, *others = fit.logged
    assert first["system/gpu_utilization"] == pytest.approx(0.31)
    assert first["system/gpu_memory_bytes"] == 64 * MIB
    assert all("system/gpu_utilization" not in figures for figures in others)
    assert len(caplog.records) == 1


def test_a_run_logs_what_it_costs(make_run, tmp_path):
    with open_trackers(tmp_path, None) as trackers:
        run = make_run(tmp_path, max_epochs=2, trackers=trackers)
        started = time.perf_counter()
        metrics = fit_and_test(run.trainer, run.module, run.data)
        took_s = time.perf_counter() - started
    with (tmp_path / "csv" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    steps = [row for row in rows if row["train/samples_per_s"]]
    assert len(steps) == 10  # 160 queries in batches of 32, twice
    assert all(float(row["train/samples_per_s"]) > 32 / took_s for row in steps)
    assert all(0 <= float(row["train/data_wait_share"]) <= 1 for row in steps)
    assert all(float(row["system/process_memory_bytes"]) > 10 * MIB for row in steps)
    validated = [row for row in rows if row["val/baseline/mrr"]]
    assert len(validated) == 1  # plain search does not change
    assert not {name for name in metrics if not name.startswith("test/")}
