from __future__ import annotations

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from lightweight_decoder.errors import ConfigError
from lightweight_decoder.training.study import STUDY_NAME, SweepStudy

SPACE = {
    "lr": FloatDistribution(1e-5, 1e-1, log=True),
    "depth": IntDistribution(1, 9),
    "loss": CategoricalDistribution(["a", "b"]),
}
NUM_JOBS = 8


@pytest.fixture(autouse=True)
def _quiet():
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def objective(params):
    """What a job with these parameters gives; some fail."""
    if params["depth"] == 5:
        return None
    return -abs(params["lr"] - 1e-3) - params["depth"] + (params["loss"] == "a")


def open_study(folder, **options):
    return SweepStudy(folder / "study.db", SPACE, overrides=("x=1",), **options)


def run_to_the_end(study, *, n_trials=NUM_JOBS, n_jobs=1):
    """The numbers that were given out, in order."""
    given = []
    while batch := study.next_jobs(n_trials=n_trials, n_jobs=n_jobs):
        given.append(list(batch))
        for number, params in batch.items():
            study.tell(number, objective(params))
    return given


def record(folder):
    """Parameters, state and value of every job, as Optuna itself reads them."""
    study = optuna.load_study(study_name=STUDY_NAME, storage=f"sqlite:///{folder}/study.db")
    return [(trial.number, trial.params, trial.state, trial.values) for trial in study.trials]


@pytest.fixture(scope="module", params=[1, 3])
def whole(request, tmp_path_factory):
    """The record of an uninterrupted study, and its jobs at a time."""
    folder = tmp_path_factory.mktemp("whole")
    run_to_the_end(open_study(folder), n_jobs=request.param)
    return record(folder), request.param


def test_jobs_are_numbered_and_told(whole):
    jobs, _ = whole
    assert [number for number, *_ in jobs] == list(range(NUM_JOBS))
    assert len({params["lr"] for _, params, *_ in jobs}) == NUM_JOBS
    for _, params, state, values in jobs:
        expected = objective(params)
        assert state == (TrialState.FAIL if expected is None else TrialState.COMPLETE)
        assert values == (None if expected is None else [expected])


def test_jobs_at_a_time_end_where_the_study_does(tmp_path):
    given = run_to_the_end(open_study(tmp_path), n_jobs=3)
    assert given == [[0, 1, 2], [3, 4, 5], [6, 7]]


@pytest.mark.parametrize("told", [0, 2, 4])
def test_a_killed_study_is_the_uninterrupted_one(tmp_path, whole, told):
    expected, n_jobs = whole
    study = open_study(tmp_path)
    given = []
    while len(given) < told:  # killed among the tells of a batch, or between two batches
        for number, params in study.next_jobs(n_trials=NUM_JOBS, n_jobs=n_jobs).items():
            if len(given) < told:
                study.tell(number, objective(params))
                given.append(number)
    again = open_study(tmp_path)
    first = again.next_jobs(n_trials=NUM_JOBS, n_jobs=n_jobs)
    assert next(iter(first)) == told
    assert again.next_jobs(n_trials=NUM_JOBS, n_jobs=n_jobs) == first  # killed before they ran
    rest = run_to_the_end(again, n_jobs=n_jobs)
    assert [number for batch in rest for number in batch] == list(range(told, NUM_JOBS))
    assert record(tmp_path) == expected


def test_a_study_killed_while_drawing_a_batch(tmp_path, whole, monkeypatch):
    expected, n_jobs = whole
    study = open_study(tmp_path)
    add = study._study.add_trial

    def add_once(trial):
        monkeypatch.setattr(study._study, "add_trial", kill)
        add(trial)

    def kill(trial):
        raise KeyboardInterrupt

    monkeypatch.setattr(study._study, "add_trial", add_once)
    if n_jobs > 1:
        with pytest.raises(KeyboardInterrupt):
            study.next_jobs(n_trials=NUM_JOBS, n_jobs=n_jobs)
    run_to_the_end(open_study(tmp_path), n_jobs=n_jobs)
    assert record(tmp_path) == expected


def test_a_finished_study_gives_nothing_and_a_longer_one_goes_on(tmp_path, whole):
    expected, n_jobs = whole
    run_to_the_end(open_study(tmp_path), n_trials=3, n_jobs=n_jobs)
    assert open_study(tmp_path).next_jobs(n_trials=3, n_jobs=n_jobs) == {}
    run_to_the_end(open_study(tmp_path), n_jobs=n_jobs)
    assert record(tmp_path) == expected


def test_another_seed_draws_something_else(tmp_path, whole):
    run_to_the_end(open_study(tmp_path, seed=1), n_trials=3)
    drawn = {params["lr"] for _, params, *_ in record(tmp_path)}
    assert drawn.isdisjoint(params["lr"] for _, params, *_ in whole[0])


def test_what_was_learned_is_used(tmp_path):
    study = open_study(tmp_path, n_startup_trials=3)
    run_to_the_end(study, n_trials=15)
    depths = [params["depth"] for _, params, *_ in record(tmp_path)]
    assert sum(depths[-5:]) < sum(depths[:5])  # deep ones were told to be bad


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"seed": 1},
            r"study\.db: holds another sweep: expected hydra\.sweeper\.seed=0, found \S+=1\. Type",
        ),
        ({"overrides": ("x=2",)}, r"expected x=1, found x=2"),
        ({"overrides": ()}, r"expected x=1, found nothing more"),
        ({"overrides": ("x=1", "y=3")}, r"expected nothing more, found y=3"),
    ],
)
def test_another_sweep_is_refused(tmp_path, options, message):
    open_study(tmp_path)
    with pytest.raises(ConfigError, match=message):
        SweepStudy(tmp_path / "study.db", SPACE, **({"overrides": ("x=1",)} | options))
