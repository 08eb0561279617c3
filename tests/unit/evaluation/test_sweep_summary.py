from __future__ import annotations

import csv
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightweight_decoder.errors import InputDataError
from lightweight_decoder.evaluation.plots import plot_sweep
from lightweight_decoder.evaluation.sweep_summary import (
    JOB_FILE,
    SweepJob,
    best_job,
    read_job,
    read_jobs,
    swept_parameters,
    write_job,
    write_sweep_table,
)

JOBS = [
    SweepJob(0, ("seed=1", "lr=1e-4", "rerank=none"), "finished", 0.25),
    SweepJob(
        1, ("seed=1", "lr=1e-2", "rerank=listwise"), "failed", error="lr, or so: out of range"
    ),
    SweepJob(2, ("seed=1", "lr=1e-1", "rerank=none"), "finished", 0.5),
    SweepJob(10, ("seed=1", "lr=1e-3", "rerank=none"), "unfinished"),
]


@pytest.fixture
def sweep_dir(tmp_path):
    for job in JOBS:
        folder = tmp_path / str(job.number)
        folder.mkdir()
        write_job(job, folder)
        (folder / "metrics.json").write_text(json.dumps({"test/decoder/mrr": job.number / 10}))
    (tmp_path / "0" / "metrics.json").unlink()
    (tmp_path / ".submitit").mkdir()
    (tmp_path / "multirun.yaml").touch()
    return tmp_path


@settings(deadline=None, max_examples=50)
@given(
    st.builds(
        SweepJob,
        number=st.integers(0, 10**6),
        overrides=st.lists(st.text(st.characters(codec="utf-8"))).map(tuple),
        status=st.sampled_from(["unfinished", "finished", "failed"]),
        objective=st.none() | st.floats(allow_nan=False, allow_infinity=False),
        error=st.text(st.characters(codec="utf-8")),
    )
)
def test_a_record_is_read_as_it_was_written(tmp_path_factory, job):
    folder = tmp_path_factory.mktemp("job")
    write_job(job, folder)
    assert read_job(folder) == job
    assert [path.name for path in folder.iterdir()] == [JOB_FILE]


def test_a_folder_without_a_record(tmp_path):
    assert read_job(tmp_path) is None
    assert read_jobs(tmp_path) == {}


@pytest.mark.parametrize(
    "content", ["", "{}", "[]", '{"number": 1', '{"number": 1, "overrides": [], "status": "x"}']
)
def test_a_damaged_record_is_named(tmp_path, content):
    (tmp_path / JOB_FILE).write_text(content)
    with pytest.raises(
        InputDataError, match=r"job\.json: .*the record of a job.*Delete the job's folder"
    ):
        read_job(tmp_path)


def test_jobs_come_in_the_order_of_their_numbers(sweep_dir):
    assert list(read_jobs(sweep_dir).values()) == JOBS
    assert [folder.name for folder in read_jobs(sweep_dir)] == ["0", "1", "2", "10"]


def test_the_best_job():
    assert best_job(JOBS) == JOBS[2]
    assert best_job([*JOBS, SweepJob(11, (), "finished", 0.5)]) == JOBS[2]
    assert best_job([SweepJob(0, (), "finished", -2.0), SweepJob(1, (), "finished", -1.0)]).number
    assert best_job([JOBS[1]]) is None
    assert best_job([]) is None


def test_what_differs_is_swept():
    assert swept_parameters(JOBS) == ["lr", "rerank"]
    assert swept_parameters(JOBS[:1]) == []
    assert swept_parameters([SweepJob(0, ("~a", "b=x=1")), SweepJob(1, ())]) == ["b"]
    assert SweepJob(0, ("~a", "b=x=1")).settings == {"b": "x=1"}


def test_the_table_has_a_row_for_each_job(sweep_dir):
    with write_sweep_table(sweep_dir).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [
        *("number", "status", "objective", "error", "overrides"),
        *("lr", "rerank", "test/decoder/mrr"),
    ]
    assert [row["number"] for row in rows] == ["0", "1", "2", "10"]
    assert [row["status"] for row in rows] == ["finished", "failed", "finished", "unfinished"]
    assert [row["objective"] for row in rows] == ["0.25", "", "0.5", ""]
    assert rows[1]["error"] == "lr, or so: out of range"
    assert rows[2]["overrides"] == "seed=1 lr=1e-1 rerank=none"
    assert [row["lr"] for row in rows] == ["1e-4", "1e-2", "1e-1", "1e-3"]
    # Job 0 wrote no metrics; those of jobs that did not finish are not theirs.
    assert [row["test/decoder/mrr"] for row in rows] == ["", "", "0.2", ""]


def test_an_empty_sweep_has_an_empty_table(tmp_path):
    rows = write_sweep_table(tmp_path).read_text().splitlines()
    assert rows == ["number,status,objective,error,overrides"]
    assert len(plot_sweep([]).axes) == 1


def test_the_figure_has_a_panel_for_each_parameter():
    jobs = [
        SweepJob(i, (f"lr={lr}", f"rerank={rerank}", f"width={width}"), "finished", value)
        for i, (lr, rerank, width, value) in enumerate(
            [(1e-4, "none", -1, 0.3), (1e-2, "listwise", 2, 0.2), (1e-3, "none", 3, 0.4)]
        )
    ]
    figure = plot_sweep([*jobs, JOBS[1]])
    trials, lr, rerank, width = figure.axes
    assert trials.lines[0].get_ydata().tolist() == [0.3, 0.3, 0.4]
    assert trials.collections[0].get_offsets().tolist() == [[0, 0.3], [1, 0.2], [2, 0.4]]
    assert (lr.get_xlabel(), lr.get_xscale()) == ("lr", "log")
    assert lr.collections[0].get_offsets().tolist() == [[1e-4, 0.3], [1e-2, 0.2], [1e-3, 0.4]]
    assert [tick.get_text() for tick in rerank.get_xticklabels()] == ["none", "listwise"]
    assert (width.get_xlabel(), width.get_xscale()) == ("width", "linear")


def test_hostile_settings_reach_table_and_figure_as_they_are(tmp_path):
    values = ["[/]", r"$\frac$", "=cmd()", "-1", "\x1b[31m"]
    jobs = [
        SweepJob(i, (f"name={value}", f"$k$={i}"), "finished", 0.1 * i)
        for i, value in enumerate(values)
    ]
    for job in jobs:
        (tmp_path / str(job.number)).mkdir()
        write_job(job, tmp_path / str(job.number))

    with write_sweep_table(tmp_path).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == ["[/]", r"$\frac$", "'=cmd()", "-1", "\x1b[31m"]

    figure = plot_sweep(jobs)
    figure.canvas.draw()
    _, name, key = figure.axes
    labels = [tick.get_text() for tick in name.get_xticklabels()]
    assert labels == ["[/]", r"\$\frac\$", "=cmd()", "-1", r"\x1b[31m"]
    assert key.get_xlabel() == r"\$k\$"
