from __future__ import annotations

import importlib.util
import logging

import optuna
import pytest
from filelock import FileLock
from hydra.errors import HydraException
from omegaconf import OmegaConf
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from lightweight_decoder.errors import ConfigError, MissingDependencyError
from lightweight_decoder.evaluation.sweep_summary import SweepJob, write_job
from lightweight_decoder.shell.optuna_sweep import search_space, sweep

TYPED = ["data=denoise", "training.lr=interval(0.1,0.9)"]


class Launcher:
    """Jobs that end as told: with their learning rate, without a word, or by an error."""

    def __init__(self, folder):
        self.folder = folder
        self.launched = []
        self.dies_in = ()
        self.starts = True

    def launch(self, job_overrides, initial_job_idx):
        if not self.starts:
            raise RuntimeError("sbatch: not found")
        for number, overrides in enumerate(job_overrides, initial_job_idx):
            self.launched.append((number, overrides))
            (self.folder / str(number)).mkdir(exist_ok=True)
            job = SweepJob(number, tuple(overrides))
            write_job(job, self.folder / str(number))
            if number in self.dies_in:
                raise RuntimeError("out of memory")
            lr = float(job.settings["training.lr"])
            status = "finished" if lr < 0.7 else "failed"
            done = SweepJob(number, job.overrides, status, lr if lr < 0.7 else None)
            write_job(done, self.folder / str(number))


@pytest.fixture
def launcher(tmp_path):
    return Launcher(tmp_path)


def run(launcher, overrides=TYPED, *, compose=lambda _: None, **options):
    config = OmegaConf.create({"hydra": {"sweep": {"dir": str(launcher.folder)}}})
    defaults = {"n_trials": 6, "n_jobs": 1, "n_startup_trials": 5, "seed": 0}
    sweep(overrides, config=config, launcher=launcher, compose=compose, **defaults | options)


def trials(folder):
    return optuna.load_study(study_name="sweep", storage=f"sqlite:///{folder}/study.db").trials


def test_overrides_become_a_search_space():
    space, fixed = search_space(
        [
            "training.lr=tag(log, interval(1e-4, 1e-2))",
            "a=int(interval(1,5))",
            "b=range(2,9,2)",
            "c=range(0,1,0.5)",
            "d=choice(x, 'y z', 3)",
            "e=1,2",
            "+f=interval(0.5,1)",
            "g=5,6",
            "h='i j'",
            "~k",
            "g=7",
        ]
    )
    assert space == {
        "training.lr": FloatDistribution(1e-4, 1e-2, log=True),
        "a": IntDistribution(1, 5),
        "b": IntDistribution(2, 8, step=2),
        "c": CategoricalDistribution(["0.0", "0.5"]),
        "d": CategoricalDistribution(["x", "y\\ z", "3"]),
        "e": CategoricalDistribution(["1", "2"]),
        "+f": FloatDistribution(0.5, 1.0),
    }
    assert fixed == ("g=7", "h='i j'", "~k")


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("tag(log,interval(0,0.1))", "expected numbers above 0, as their logarithm is drawn"),
        ("tag(log, interval(-1e-3, 0.1))", "expected numbers above 0"),
        ("tag(log,int(interval(0,8)))", "expected numbers above 0"),
        ("tag(log,range(0,8))", "expected numbers above 0"),
        ("interval(0.1,0.001)", "expected the lower number first"),
        ("int(interval(9,2))", "expected the lower number first"),
        ("interval(0,inf)", "expected two numbers"),
        ("interval(nan,1)", "expected two numbers"),
        ("range(5,5)", "expected at least one value"),
        ("range(5,1)", "expected at least one value"),
        ("range(1,2,0)", "expected an interval, a range, or a list of values"),
        ("range(0.5,0.1)", "expected at least one value"),
        ("glob(*)", "expected an interval, a range, or a list of values"),
        ("tag(lgo,interval(1,2))", "expected no tag but log"),
        ("tag(log,choice(1,2))", r"expected tag\(log, …\) of an interval"),
        ("tag(log,range(1,9,2))", "expected steps of 1 on a logarithmic scale"),
    ],
)
def test_a_space_with_nothing_to_draw_is_refused_before_anything_starts(launcher, typed, message):
    with pytest.raises(
        ConfigError, match=rf"^training\.lr: cannot be searched .*{message}"
    ) as found:
        run(launcher, ["data=denoise", f"training.lr={typed}"])
    assert found.value.found == typed
    assert not launcher.launched
    assert not list(launcher.folder.iterdir())


def test_spaces_at_the_edge_are_searched(launcher):
    space, _ = search_space(
        [
            "a=interval(2,2)",
            "b=tag(log,range(1,9))",
            "c=range(9,2,-3)",
            "d=choice(1)",
            "e=range(3,2)",  # of no account, as another comes after it
            "e=interval(-1,0)",
        ]
    )
    assert space == {
        "a": FloatDistribution(2, 2),
        "b": IntDistribution(1, 8, log=True),
        "c": IntDistribution(3, 9, step=3),
        "d": CategoricalDistribution(["1"]),
        "e": FloatDistribution(-1, 0),
    }


@pytest.mark.parametrize(
    ("option", "value"),
    [("n_trials", 0), ("n_jobs", 0), ("n_jobs", -1), ("n_startup_trials", -1), ("seed", -1)],
)
def test_numbers_of_a_sweep_are_checked(launcher, option, value):
    with pytest.raises(ConfigError, match=rf"^hydra\.sweeper\.{option}: out of range: .*{value}$"):
        run(launcher, **{option: value})
    assert not list(launcher.folder.iterdir())


def test_each_job_is_run_once_and_told(launcher):
    run(launcher)
    assert [number for number, _ in launcher.launched] == list(range(6))
    assert all(overrides[0] == "data=denoise" for _, overrides in launcher.launched)
    found = trials(launcher.folder)
    assert {trial.state for trial in found} == {TrialState.COMPLETE, TrialState.FAIL}
    for trial, (_, overrides) in zip(found, launcher.launched, strict=True):
        lr = trial.params["training.lr"]
        assert overrides[1] == f"training.lr={lr}"
        assert trial.values == ([lr] if lr < 0.7 else None)
    assert (launcher.folder / "multirun.yaml").is_file()
    run(launcher, n_trials=7)
    assert [number for number, _ in launcher.launched] == list(range(7))


def test_a_job_whose_process_dies_does_not_stop_the_sweep(launcher, caplog):
    launcher.dies_in = (3,)
    run(launcher, n_jobs=2)
    found = trials(launcher.folder)
    assert [trial.number for trial in found] == list(range(6))
    assert found[3].state == TrialState.FAIL
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "out of memory" in str(record.exc_info[1])


def test_a_launcher_that_starts_nothing_stops_the_sweep(launcher):
    launcher.starts = False
    with pytest.raises(RuntimeError, match="sbatch"):
        run(launcher)
    assert [trial.state for trial in trials(launcher.folder)] == [TrialState.RUNNING]
    launcher.starts = True
    run(launcher)
    assert len(trials(launcher.folder)) == 6


def test_overrides_that_cannot_be_composed_leave_nothing(launcher):
    def compose(batches):
        assert batches[0][0] == "data=denoise"
        raise HydraException("no such key")

    with pytest.raises(HydraException, match="no such key"):
        run(launcher, compose=compose)
    assert not list(launcher.folder.iterdir())


def test_a_second_sweep_in_the_same_folder_is_refused(launcher):
    with (
        FileLock(launcher.folder / ".lock"),
        pytest.raises(ConfigError, match=r"another sweep is running there.*name another"),
    ):
        run(launcher)
    assert not launcher.launched
    run(launcher, n_trials=1)
    assert len(launcher.launched) == 1


def test_optuna_is_asked_for(launcher, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(MissingDependencyError, match=r"optuna.*lightweight-decoder\[sweeps\]"):
        run(launcher)
