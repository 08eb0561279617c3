"""One training run: fit, calibrate the best weights, test."""

from __future__ import annotations

import inspect
import logging
import math
import shutil
import signal
import warnings
from contextlib import contextmanager
from dataclasses import asdict
from datetime import timedelta
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import lightning as L  # noqa: N812 - the name everyone uses
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import (
    Callback,
    EarlyStopping,
    ModelCheckpoint,
    RichProgressBar,
    Timer,
)
from lightning.pytorch.profilers import Profiler
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lightweight_decoder.decoder.calibration_fit import fit_calibration
from lightweight_decoder.decoder.checkpoints import read_checkpoint, write_checkpoint
from lightweight_decoder.decoder.splits import LEARNED
from lightweight_decoder.errors import CheckpointError, ConfigError, InputDataError
from lightweight_decoder.rerank import PhraseClassifier
from lightweight_decoder.training.cross_fitting import fit_classifier
from lightweight_decoder.training.monitoring import TrainingMonitor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence, Sized

    from lightning.pytorch.loggers import Logger

    from lightweight_decoder.decoder.splits import SplitName
    from lightweight_decoder.training.module import DecoderModule
    from lightweight_decoder.training.sources.datamodule import DecoderDataModule

logger = logging.getLogger(__name__)

MONITORED = "val/decoder/mrr"


def _whole(least: int, *others: int | None) -> Callable[[Any], bool]:
    """Return what tells whole numbers of at least so much, and the others, from all else."""
    return lambda value: value in others or (isinstance(value, int) and value >= least)


def _finite(value: object) -> bool:
    """Say whether a value is a number from 0 that is not infinite."""
    return isinstance(value, int | float) and 0 <= value < math.inf


_RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "accumulate_grad_batches": (_whole(1), "at least 1"),
    "barebones": (lambda value: not value, "false, as a bare run leaves no decoder"),
    "benchmark": (lambda value: isinstance(value, bool | None), "true, false or null"),
    "check_val_every_n_epoch": (_whole(1, None), "at least 1, or null"),
    "detect_anomaly": (lambda value: isinstance(value, bool), "true or false"),
    "enable_checkpointing": (
        lambda value: value is None or value is True,
        "true, as a run leaves its decoder in a checkpoint",
    ),
    "fast_dev_run": (
        lambda value: not value,
        "false, as it leaves no decoder; trainer.limit_train_batches=1 is as fast",
    ),
    "gradient_clip_algorithm": (
        lambda value: value is None or value in ("norm", "value"),
        "norm or value",
    ),
    "gradient_clip_val": (lambda value: value is None or _finite(value), "null, or from 0"),
    "limit_train_batches": (lambda value: value != 0, "more than none"),
    "log_every_n_steps": (_whole(0, None), "at least 1, or 0 for never"),
    "max_epochs": (_whole(1, -1, None), "at least 1, or -1 for no limit"),
    "max_steps": (_whole(1, -1), "at least 1, or -1 for no limit"),
    "max_time": (
        lambda value: isinstance(value, str | dict | None) or value > timedelta(),
        "days, hours, minutes and seconds: DD:HH:MM:SS",
    ),
    "min_epochs": (_whole(0, None), "null, or a whole number from 0"),
    "min_steps": (_whole(0, None), "null, or a whole number from 0"),
    "num_nodes": (_whole(1), "at least 1"),
    "num_sanity_val_steps": (_whole(-1, None), "at least 0, or -1 for all"),
    "overfit_batches": (_finite, "a share of the batches, or a number of them; 0 for all"),
    "profiler": (
        lambda value: isinstance(value, str | Profiler | None),
        "simple, advanced, pytorch or null",
    ),
    "reload_dataloaders_every_n_epochs": (_whole(0), "a whole number from 0"),
    "val_check_interval": (
        lambda value: value is None or (isinstance(value, str | dict | timedelta) or value > 0),
        "a share of an epoch, a number of steps, or a time as DD:HH:MM:SS",
    ),
}
"""What Lightning takes and stumbles over later, or what leaves no result; all else it checks."""

_COMPLAINTS = (
    MisconfigurationException,
    AttributeError,
    ImportError,
    KeyError,
    TypeError,
    ValueError,
)
"""What Lightning raises for arguments; other errors may be of the accelerator."""

_SAID_OTHERWISE = (
    "`isinstance.treespec, LeafSpec.` is deprecated",  # in Lightning 2.6 itself
    "`ModelCheckpoint.monitor=",  # that nothing was validated
    "Total length of `DataLoader` across ranks is zero",
)
"""Beginnings of warnings that nobody can act on, or that are said in words of ours."""


class ResumableCheckpoint(ModelCheckpoint):
    """Keeps the best checkpoint of a run that goes on in another folder than it began.

    Lightning forgets it when the folder changes, so a resumed run would end with another model than
    an uninterrupted one. The folder of ``resumed_from``, which the run goes on from, also has it.
    """

    def __init__(self, *, resumed_from: Path | None, **options: Any) -> None:  # noqa: ANN401
        super().__init__(**options)
        self._resumed_from = resumed_from

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the best checkpoint of the run that is resumed."""
        if self._resumed_from and self.dirpath and state_dict["best_model_path"]:
            best = self._resumed_from.parent / Path(state_dict["best_model_path"]).name
            kept = Path(self.dirpath) / best.name
            if best.is_file() and best != kept:
                kept.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(best, kept)
            state_dict = state_dict | {
                "dirpath": self.dirpath,
                "best_model_path": str(kept),
                "kth_best_model_path": str(kept),
                "best_k_models": {str(kept): state_dict["best_model_score"]},
                "last_model_path": "",
            }
        super().load_state_dict(state_dict)


def build_trainer(
    run_dir: Path,
    *,
    trackers: Sequence[Logger],
    patience: int = 3,
    ckpt_path: str | Path | None = None,
    **options: Any,  # noqa: ANN401 - Lightning's own
) -> L.Trainer:
    """Return a Trainer that keeps ``best.ckpt`` and ``last.ckpt`` in ``run_dir/checkpoints``.

    Needs no data, so that what is wrong with its arguments shows before anything is loaded.

    Args:
        run_dir: The run's folder.
        trackers: Where metrics are logged.
        patience: Validations without a better ``val/decoder/mrr`` before training stops.
        ckpt_path: The checkpoint that the run will go on from.
        options: Arguments of ``lightning.Trainer``.

    Raises:
        CheckpointError: There is no checkpoint at ``ckpt_path``.
        ConfigError: An argument is unknown, out of range, or leaves no result.
    """
    if ckpt_path is not None:
        read_checkpoint(Path(ckpt_path))
    _check_arguments(options)
    # Which accelerator is used the resolver has said, which tracker pays nobody has asked.
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    callbacks: list[Callback] = [
        ResumableCheckpoint(
            resumed_from=None if ckpt_path is None else Path(ckpt_path).absolute(),
            dirpath=run_dir / "checkpoints",
            filename="best",
            monitor=MONITORED,
            mode="max",
            save_last=True,
            enable_version_counter=False,
        ),
        # Where nothing is validated there is nothing to stop at.
        EarlyStopping(MONITORED, mode="max", patience=patience, check_on_train_epoch_end=False),
        TrainingMonitor(),
    ]
    if options.get("enable_progress_bar") in (True, None):
        callbacks.append(RichProgressBar())
    try:
        return L.Trainer(
            **options, default_root_dir=run_dir, logger=list(trackers), callbacks=callbacks
        )
    except _COMPLAINTS as error:
        raise _in_one_line(error) from error


def _check_arguments(options: Mapping[str, Any]) -> None:
    """Refuse arguments that are none of the Trainer's, or out of range."""
    ours = {"callbacks", "default_root_dir", "logger"}
    known = set(inspect.signature(L.Trainer).parameters) - ours
    for name, value in options.items():
        if name not in known:
            close = get_close_matches(name, sorted(known), n=1)
            expected = f"one of the arguments of Lightning {L.__version__}'s Trainer"
            advice = f"Meant trainer.{close[0]}?" if close else None
            raise ConfigError.unexpected(
                f"trainer.{name}", expected, repr(value), summary="is unknown", advice=advice
            )
        fits, expected = _RANGES.get(name, (lambda _: True, ""))
        try:
            is_right = fits(value)
        except TypeError:  # not a kind of value that can be compared
            is_right = False
        if not is_right:
            raise ConfigError.unexpected(f"trainer.{name}", expected, repr(value))


def _in_one_line(error: Exception) -> ConfigError:
    """Return what Lightning says of its arguments as an error of ours."""
    return ConfigError("cannot be used", where="trainer", found=" ".join(str(error).split()))


def fit_and_test(
    trainer: L.Trainer,
    module: DecoderModule,
    datamodule: DecoderDataModule,
    *,
    ckpt_path: str | Path | None = None,
    calibration_options: Mapping[str, Any] | None = None,
) -> dict[str, float]:
    """Train, test with the weights of the best validation, and return the test's metrics.

    Where there is no validation, the weights at the end are kept; where there is no test, the
    metrics are those of a validation: ``test/decoder/recall@1``, ``val/baseline/mrr`` and so on. A
    module without learned parts is tested as it is.

    Raises:
        CheckpointError: ``ckpt_path`` is of another decoder.
        ConfigError: The Trainer's arguments do not suit the data, or nothing would be measured.
    """
    if ckpt_path is not None:
        _check_resumable(Path(ckpt_path), module)
    measured = _check_batches(trainer, datamodule)
    with _reported():
        if isinstance(module.decoder.reranker, PhraseClassifier):
            _fit_classifier(trainer, module, datamodule, calibration_options or {})
        elif module.is_trainable:
            trainer.fit(module, datamodule, ckpt_path=ckpt_path, weights_only=True)
            if trainer.global_step == 0:
                raise ConfigError.unexpected("trainer.max_time", "time for one step", "none")
            _finish_checkpoint(trainer, module, datamodule, calibration_options or {})
        measure = trainer.test if measured == "test" else trainer.validate
        measure(module, datamodule, verbose=False)
    _take_back(module)
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def _take_back(module: DecoderModule) -> None:
    """Put the decoder's parts where it decodes; Lightning leaves them on the CPU."""
    module.decoder.to(module.decoder.device)


@contextmanager
def _reported() -> Iterator[None]:
    """End the program as the system expects after SIGTERM; turn Lightning's complaints into ours.

    Raises:
        ConfigError: Lightning cannot do what its arguments say with this data.
        SystemExit: With 143, after SIGTERM; Lightning's own status is 0.
    """
    try:
        with warnings.catch_warnings():
            for start in _SAID_OTHERWISE:
                warnings.filterwarnings("ignore", message=start)
            yield
    except SIGTERMException:
        raise SystemExit(128 + signal.SIGTERM) from None
    except MisconfigurationException as error:
        raise _in_one_line(error) from error


def _check_resumable(path: Path, module: DecoderModule) -> None:
    """Refuse a checkpoint that does not belong to the decoder, or is of no training run."""
    checkpoint, recipe = read_checkpoint(path), module.decoder.recipe()
    checkpoint.check_bank(module.decoder.bank)
    for part in ("adapter", "reranker"):
        found = getattr(checkpoint.recipe, part)
        if (found and asdict(found)) != recipe[part]:
            raise CheckpointError.unexpected(path, f"{part} {recipe[part]}", found)
    if "optimizer_states" not in checkpoint.content:
        raise CheckpointError.unexpected(
            path, "a checkpoint of a training run", "that of a finished decoder"
        )


def _check_batches(trainer: L.Trainer, datamodule: DecoderDataModule) -> SplitName:
    """Return the split to measure on, after refusing limits that leave nothing to do."""
    num_train = _num_batches(trainer, "train", datamodule.train_dataloader())
    num_val = _num_batches(trainer, "val", datamodule.val_dataloader())
    num_test = _num_batches(trainer, "test", datamodule.test_dataloader())
    interval = getattr(trainer, "val_check_interval", None)  # a time is kept elsewhere
    is_of_an_epoch = trainer.check_val_every_n_epoch is not None
    if is_of_an_epoch and isinstance(interval, int) and interval > num_train:
        expected = f"at most the {num_train} batches of an epoch"
        advice = "Or count over epochs, with trainer.check_val_every_n_epoch=null"
        raise ConfigError.unexpected(
            "trainer.val_check_interval", expected, interval, advice=advice
        )
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    has_end = any(isinstance(callback, Timer) for callback in callbacks)
    if num_val == 0 and trainer.max_epochs == trainer.max_steps == -1 and not has_end:
        expected = "a number of epochs, trainer.max_steps or trainer.max_time"
        advice = "Without validation nothing else ends the training"
        raise ConfigError.unexpected("trainer.max_epochs", expected, -1, advice=advice)
    if num_test == num_val == 0:
        raise ConfigError.unexpected(
            "data", "queries to test on, or to validate on", "neither", summary="nothing to measure"
        )
    return "test" if num_test else "val"


def _num_batches(trainer: L.Trainer, split: SplitName, loader: Sized) -> int:
    """Return how many batches of a split are used."""
    limit, count = getattr(trainer, f"limit_{split}_batches"), len(loader)
    used = int(limit * count) if isinstance(limit, float) else min(limit, count)
    if used == 0 < min(limit, count):
        expected = f"0, or enough for one of {count} batches"
        raise ConfigError.unexpected(f"trainer.limit_{split}_batches", expected, limit)
    return used


def _fit_classifier(
    trainer: L.Trainer,
    module: DecoderModule,
    datamodule: DecoderDataModule,
    calibration_options: Mapping[str, Any],
) -> None:
    """Fit a decoder whose learned part needs no steps, calibrate it, and write its checkpoint."""
    decoder = module.decoder
    splits = [datamodule.split(name) for name in LEARNED]
    found = fit_classifier(
        decoder,
        cast("PhraseClassifier", decoder.reranker),
        [split for split in splits if len(split) > 0],
        seed=module.hparams["seed"],
        **calibration_options,
    )
    module.held_out_mrr = found["mrr"]
    for tracker in trainer.loggers:
        tracker.log_metrics({f"val/decoder/{name}": value for name, value in found.items()}, step=0)
    if trainer.is_global_zero:
        folder = Path(str(getattr(trainer.checkpoint_callback, "dirpath", "")))
        decoder.save(folder / "best.ckpt")


def _finish_checkpoint(
    trainer: L.Trainer,
    module: DecoderModule,
    datamodule: DecoderDataModule,
    calibration_options: Mapping[str, Any],
) -> None:
    """Load the best weights, calibrate, and add the calibration to their checkpoint."""
    path = _best_checkpoint(trainer)
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    module.load_state_dict(checkpoint["state_dict"])
    module.eval().float()
    _take_back(module)
    split = datamodule.split("calib")
    try:
        fit_calibration(
            module.decoder,
            split.queries,
            split.targets,
            own_vectors=split.own_vectors,
            out_of_bank=None if split.out_of_bank is None else split.out_of_bank.queries,
            preprocessed=True,
            **calibration_options,
        )
    except InputDataError as error:
        logger.warning("Not calibrated, so answers carry no confidence: %s", error)
    if trainer.is_global_zero:
        write_checkpoint(checkpoint | {"decoder": module.decoder.recipe()}, path)
    trainer.strategy.barrier()


def _best_checkpoint(trainer: L.Trainer) -> Path:
    """Return the checkpoint of the best validation; that of the end where there was none."""
    callback = trainer.checkpoint_callback
    assert isinstance(callback, ModelCheckpoint)  # noqa: S101 - from build_trainer
    if callback.best_model_path:
        return Path(callback.best_model_path)
    logger.warning("Nothing was validated, so the weights at the end of training are kept")
    path = Path(str(callback.dirpath)) / "best.ckpt"
    trainer.save_checkpoint(path)
    return path
