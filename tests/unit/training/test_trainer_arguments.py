"""Whatever the Trainer is given: a result, or one line before anything starts."""

from __future__ import annotations

import inspect
import logging
from datetime import timedelta

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lightweight_decoder.decoder.phrase_bank_decoder import PhraseBankDecoder
from lightweight_decoder.errors import CheckpointError, ConfigError
from lightweight_decoder.training.run import build_trainer, fit_and_test

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning warns of much at the edges

ANYWHERE = (None, 0, -1, float("inf"), float("nan"), "text", True, 1.0, [])
ALSO = {
    "accumulate_grad_batches": (3, 1_000_000),
    "check_val_every_n_epoch": (2, 3, 1_000_000),
    "enable_progress_bar": (False,),
    "gradient_clip_algorithm": ("norm", "value"),
    "gradient_clip_val": (0.5,),
    "limit_test_batches": (0.0001, 0.5, 1_000_000),
    "limit_train_batches": (0.0001, 0.5, 1_000_000),
    "limit_val_batches": (0.0001, 0.5, 1_000_000),
    "max_epochs": (3, 1_000_000),
    "max_steps": (3, 1_000_000),
    "max_time": ("00:00:00:00", "00:00:00:01", {"seconds": 1}, timedelta(seconds=1)),
    "overfit_batches": (0.0001, 0.9, 3),
    "profiler": ("simple",),
    "val_check_interval": (0.0001, 0.5, 3, 6, 1_000_000, "00:00:00:00", "00:00:00:01"),
}
DECIDED_ELSEWHERE = {"accelerator", "callbacks", "default_root_dir", "devices", "logger"}
DECIDED_ELSEWHERE |= {"num_nodes", "strategy"}
TABLE = [
    pytest.param(name, value, id=f"{name}={value}")
    for name in inspect.signature(lightning.Trainer).parameters
    if name not in DECIDED_ELSEWHERE
    for value in (*ANYWHERE, *ALSO.get(name, ()))
]


def train(run):
    """Train, test, and check that the result is there."""
    metrics = fit_and_test(run.trainer, run.module, run.data)
    measured = {name.partition("/")[0] for name in metrics}
    assert measured <= {"test", "val"}
    assert len(measured) == 1
    PhraseBankDecoder.from_checkpoint(run.best).decode(run.data.split("train").queries[:3])
    return metrics


@pytest.mark.slow
@pytest.mark.parametrize(("name", "value"), TABLE)
def test_an_argument_trains_or_is_refused_in_one_line(make_run, tmp_path, name, value):
    refusal = None
    try:
        train(make_run(tmp_path, **{"max_epochs": 2, name: value}))
    except ConfigError as error:
        refusal = str(error)
    if refusal is not None:
        assert refusal.startswith("trainer")
        assert "\n" not in refusal
        assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("accumulate_grad_batches", 0),
        ("barebones", True),
        ("check_val_every_n_epoch", 0),
        ("enable_checkpointing", False),
        ("fast_dev_run", 1),
        ("fast_dev_run", True),
        ("gradient_clip_val", float("nan")),
        ("gradient_clip_val", -1),
        ("limit_train_batches", 0),
        ("log_every_n_steps", -1),
        ("max_epochs", 0),
        ("max_steps", 0),
        ("max_time", 5),
        ("max_time", timedelta(seconds=-1)),
        ("max_time", [1]),
        ("profiler", 1),
        ("val_check_interval", 0),
        ("val_check_interval", float("nan")),
    ],
)
def test_what_leaves_no_result_is_refused_by_name(tmp_path, name, value):
    with pytest.raises(ConfigError, match=rf"^trainer\.{name}: cannot be used: expected .* found"):
        build_trainer(tmp_path, trackers=(), **{name: value})


@pytest.mark.parametrize(
    ("name", "advice"),
    [("max_epoch", r"Meant trainer\.max_epochs\?"), ("gpus", "arguments of Lightning"), ("x", "")],
)
def test_an_argument_that_does_not_exist_is_refused(tmp_path, name, advice):
    with pytest.raises(ConfigError, match=rf"^trainer\.{name}: is unknown.*{advice}"):
        build_trainer(tmp_path, trackers=(), **{name: 1})


@pytest.mark.parametrize("name", ["logger", "callbacks", "default_root_dir"])
def test_what_the_run_sets_itself_cannot_be_set(tmp_path, name):
    with pytest.raises(ConfigError, match=rf"trainer\.{name}: is unknown"):
        build_trainer(tmp_path, trackers=(), **{name: None})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "fp7"}, "trainer: .*Precision 'fp7' is invalid"),
        ({"strategy": "nowhere"}, "trainer: .*'nowhere'"),
        ({"max_time": "soon"}, "trainer: .*not a valid duration"),
    ],
)
def test_what_lightning_refuses_is_said_in_one_line(tmp_path, options, message):
    with pytest.raises(ConfigError, match=message) as raised:
        build_trainer(tmp_path, trackers=(), accelerator="cpu", **options)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limit_val_batches": 0.01}, r"trainer\.limit_val_batches: .*one of 1 batches"),
        ({"limit_test_batches": 0.01}, r"trainer\.limit_test_batches: .*one of 1 batches"),
        ({"limit_train_batches": 0.1}, r"trainer\.limit_train_batches: .*one of 5 batches"),
        ({"val_check_interval": 6}, r"trainer\.val_check_interval: .*at most the 5 batches"),
        ({"limit_val_batches": 0, "limit_test_batches": 0}, "nothing to measure"),
        ({"max_epochs": -1, "limit_val_batches": 0}, r"trainer\.max_epochs: .*or trainer.max_time"),
    ],
)
def test_what_does_not_suit_the_data_is_refused_before_training(
    make_run, tmp_path, options, message
):
    run = make_run(tmp_path, **options)
    with pytest.raises(ConfigError, match=message):
        fit_and_test(run.trainer, run.module, run.data)
    assert run.trainer.global_step == 0
    assert not (tmp_path / "checkpoints").exists()


def test_no_time_at_all_is_no_result(make_run, tmp_path):
    run = make_run(tmp_path, max_time="00:00:00:00")
    with pytest.raises(ConfigError, match=r"trainer\.max_time: .*time for one step"):
        fit_and_test(run.trainer, run.module, run.data)


@pytest.mark.parametrize(
    "options",
    [{"limit_val_batches": 0}, {"check_val_every_n_epoch": 3}, {"without": "val"}],
    ids=lambda options: str(*options),
)
def test_without_validation_the_last_weights_are_kept(make_run, tmp_path, caplog, options):
    run = make_run(tmp_path, max_epochs=2, **options)
    last = {}
    run.module.on_train_end = lambda: last.update(
        {name: value.detach().clone() for name, value in run.module.state_dict().items()}
    )
    metrics = train(run)

    assert metrics["test/decoder/num_queries"] == 60
    assert "Nothing was validated" in caplog.text
    saved = torch.load(run.best, weights_only=True)["state_dict"]
    assert saved.keys() == last.keys()
    for name, value in saved.items():
        assert torch.equal(value, last[name])


@pytest.mark.parametrize("options", [{"limit_test_batches": 0}, {"without": "test"}], ids=str)
def test_without_a_test_the_best_validation_is_the_result(make_run, tmp_path, options):
    run = make_run(tmp_path, **options)
    metrics = train(run)

    assert metrics["val/decoder/mrr"] == pytest.approx(run.module.best_mrr)
    assert metrics["val/decoder/num_queries"] == metrics["val/baseline/num_queries"] == 60
    tested = make_run(tmp_path / "again")
    fit_and_test(tested.trainer, tested.module, tested.data)
    csv = tested.trainer.logged_metrics
    assert "test/decoder/mrr" in csv
    for one, other in zip(run.module.parameters(), tested.module.parameters(), strict=True):
        assert torch.equal(one, other)


def test_without_calibration_queries_there_is_no_confidence(make_run, tmp_path, caplog):
    run = make_run(tmp_path, max_epochs=1, without="calib")
    train(run)
    assert "Not calibrated" in caplog.text
    assert PhraseBankDecoder.from_checkpoint(run.best).calibration is None


def test_training_without_a_last_epoch_ends_with_patience(make_run, tmp_path):
    run = make_run(tmp_path, max_epochs=-1)
    rates = []
    run.module.on_before_optimizer_step = lambda optimizer: rates.append(
        optimizer.param_groups[0]["lr"] / optimizer.param_groups[0]["initial_lr"]
    )
    train(run)
    assert 3 < run.trainer.current_epoch < 100
    assert rates == pytest.approx([1.0] * len(rates))  # a tenth of five steps is less than one


def test_the_steps_are_not_logged_where_lightning_logs_none(make_run, tmp_path):
    run = make_run(tmp_path, max_epochs=1, log_every_n_steps=0)
    train(run)
    assert not any(name.startswith("system/") for name in run.trainer.logged_metrics)


def test_lightnings_own_lines_stay_away(make_run, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        train(make_run(tmp_path, max_epochs=1))
    assert "litlogger" not in caplog.text
    assert "TPU" not in caplog.text


class Terminate(Callback):
    """Raises what Lightning raises at its next look after SIGTERM."""

    def on_train_batch_end(self, *_):
        raise SIGTERMException


def test_a_run_that_is_terminated_does_not_end_with_status_0(make_run, tmp_path):
    run = make_run(tmp_path)
    run.trainer.callbacks.append(Terminate())
    with pytest.raises(SystemExit) as raised:
        fit_and_test(run.trainer, run.module, run.data)
    assert raised.value.code == 143


def test_going_on_from_what_is_no_checkpoint_is_refused(tmp_path):
    (tmp_path / "some.ckpt").write_text("no checkpoint")
    with pytest.raises(CheckpointError, match=r"some\.ckpt: cannot be read"):
        build_trainer(tmp_path, trackers=(), ckpt_path=tmp_path / "some.ckpt")
    with pytest.raises(CheckpointError, match=r"none\.ckpt: .*no such"):
        build_trainer(tmp_path, trackers=(), ckpt_path=tmp_path / "none.ckpt")


def test_going_on_from_another_decoders_checkpoint_is_refused(make_run, single_bank, tmp_path):
    run = make_run(tmp_path, max_epochs=1)
    train(run)
    for other, message in (
        (make_run(tmp_path / "b", bank=single_bank), "was trained with another bank"),
        (make_run(tmp_path / "c", query_dim=12), r"expected adapter .*'query_dim': 12"),
    ):
        with pytest.raises(CheckpointError, match=message):
            fit_and_test(other.trainer, other.module, other.data, ckpt_path=run.last)
    run.decoder.save(tmp_path / "saved.ckpt")
    again = make_run(tmp_path / "d", max_epochs=2)
    with pytest.raises(CheckpointError, match="that of a finished decoder"):
        fit_and_test(again.trainer, again.module, again.data, ckpt_path=tmp_path / "saved.ckpt")


def test_going_on_with_fewer_epochs_than_were_trained_tests_what_is_there(make_run, tmp_path):
    run = make_run(tmp_path, max_epochs=2)
    expected = train(run)
    again = make_run(tmp_path / "b", max_epochs=1)
    found = fit_and_test(again.trainer, again.module, again.data, ckpt_path=run.last)
    assert found == expected
