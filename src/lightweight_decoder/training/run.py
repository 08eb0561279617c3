"""One training run: fit, test with the best weights, report."""

from __future__ import annotations

import logging
import shutil
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning as L  # noqa: N812 - the name everyone uses
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint, RichProgressBar

from lightweight_decoder.decoder.calibration_fit import fit_calibration
from lightweight_decoder.decoder.checkpoints import write_checkpoint
from lightweight_decoder.errors import CheckpointError, ConfigError, InputDataError
from lightweight_decoder.training.monitoring import TrainingMonitor

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lightning.pytorch.loggers import Logger

    from lightweight_decoder.training.module import DecoderModule
    from lightweight_decoder.training.sources.datamodule import DecoderDataModule

logger = logging.getLogger(__name__)

MONITORED = "val/decoder/mrr"

_PRECISIONS = ("32-true", "64-true", "bf16-mixed", "bf16-true", "16-mixed")
"""AdamW divides by the root of averages that float16 rounds to 0, so 16-true cannot train; and the
layers of transformer-engine are not ours."""


class ResumableCheckpoint(ModelCheckpoint):
    """Keeps the best checkpoint of a run that goes on in another folder than it began.

    Lightning forgets the best checkpoint when the folder changes, so a resumed run would end with
    another model than an uninterrupted one.

    Args:
        resumed_from: The checkpoint that the run goes on from; its folder also has the best one.
        options: Arguments of ``ModelCheckpoint``.
    """

    def __init__(self, *, resumed_from: Path | None, **options: Any) -> None:  # noqa: ANN401
        super().__init__(**options)
        self._resumed_from = resumed_from

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the best checkpoint of the run that is resumed."""
        if self._resumed_from is not None and self.dirpath is not None:
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
        ckpt_path: The checkpoint that the run will go on from.
        patience: Validations without a better ``val/decoder/mrr`` before training stops.
        options: Arguments of ``lightning.Trainer``.

    Raises:
        ConfigError: Training cannot run in the precision.
    """
    if options.get("precision", "32-true") not in _PRECISIONS:
        raise ConfigError.unexpected(
            "trainer.precision", f"one of {', '.join(_PRECISIONS)}", options["precision"]
        )
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
        EarlyStopping(monitor=MONITORED, mode="max", patience=patience),
        TrainingMonitor(),
    ]
    if options.get("enable_progress_bar") is not False:
        callbacks.append(RichProgressBar())
    return L.Trainer(
        **options, default_root_dir=run_dir, logger=list(trackers), callbacks=callbacks
    )


def fit_and_test(
    trainer: L.Trainer,
    module: DecoderModule,
    datamodule: DecoderDataModule,
    *,
    ckpt_path: str | Path | None = None,
    calibration_options: Mapping[str, Any] | None = None,
) -> dict[str, float]:
    """Train, test with the weights of the best validation, and return the test's metrics.

    Args:
        trainer: From ``build_trainer``.
        module: The decoder to train; one without learned parts is tested as it is.
        datamodule: Its data.
        ckpt_path: A checkpoint of an interrupted run to go on from.
        calibration_options: Arguments of ``fit_calibration``.

    Raises:
        CheckpointError: ``ckpt_path`` does not exist.
    """
    if ckpt_path is not None and not Path(ckpt_path).is_file():
        advice = "Checkpoints are in the folder 'checkpoints' of a run: outputs/…/last.ckpt"
        raise CheckpointError.missing(ckpt_path, "a checkpoint", advice=advice)
    with warnings.catch_warnings():  # Lightning 2.6 uses a class that torch is about to remove
        warnings.filterwarnings("ignore", message="`isinstance.treespec, LeafSpec.` is deprecated")
        if module.is_trainable:
            trainer.fit(module, datamodule, ckpt_path=ckpt_path, weights_only=True)
            _finish_checkpoint(trainer, module, datamodule, calibration_options or {})
        trainer.test(module, datamodule, verbose=False)
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def _finish_checkpoint(
    trainer: L.Trainer,
    module: DecoderModule,
    datamodule: DecoderDataModule,
    calibration_options: Mapping[str, Any],
) -> None:
    """Load the best weights, calibrate, and add the calibration to their checkpoint."""
    path = Path(trainer.checkpoint_callback.best_model_path)  # type: ignore[union-attr]
    if not path.is_file():  # a dry run keeps none
        return
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    module.load_state_dict(checkpoint["state_dict"])
    module.eval().float()
    module.decoder.to(module.decoder.device)  # Lightning left its parts on the CPU
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
