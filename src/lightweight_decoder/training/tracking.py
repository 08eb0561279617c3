"""Experiment trackers: CSV always, Weights & Biases on request, closed by whoever opened them."""

from __future__ import annotations

import hashlib
import logging
import os
from contextlib import contextmanager
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightweight_decoder.evaluation.predictions import evenly_drawn

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa
    import wandb
    from lightning.pytorch.loggers import Logger, WandbLogger
    from matplotlib.figure import Figure

    from lightweight_decoder.bank import PhraseBank


logger = logging.getLogger(__name__)

_INIT_TIMEOUT_S = 20
_MAX_EXAMPLES = 1_000
_DOTS_PER_INCH = 120


@contextmanager
def open_wandb(
    run_dir: Path,
    *,
    project: str = "lightweight-decoder",
    name: str | None = None,
    group: str | None = None,
    tags: tuple[str, ...] = (),
) -> Iterator[WandbLogger]:
    """Open one W&B run for as long as the context lasts; a run that raises is marked failed.

    Never asks anything. Without a login, and with ``WANDB_MODE`` unset, the run is written to disk
    and the command that uploads it is logged at the end. So it is where the server cannot be
    reached, or takes no login, whatever ``WANDB_MODE`` says; a warning tells.

    Args:
        run_dir: Folder in which W&B makes its own folder ``wandb``.
        project: W&B project.
        name: Name of the run; W&B invents one where it is None.
        group: Runs of one group are shown together, such as the jobs of a sweep.
        tags: Tags of the run.
    """
    from lightning.pytorch.loggers import WandbLogger  # noqa: PLC0415 - seconds, for those who train

    run = _start(project=project, name=name, group=group, tags=tags, dir=run_dir)
    try:
        yield WandbLogger(experiment=run)
    except BaseException:
        run.finish(exit_code=1)
        raise
    run.finish()
    if run.offline:
        logger.info("W&B run kept on disk. To upload it: wandb sync %s", run.settings.sync_dir)


@contextmanager
def open_trackers(run_dir: Path, wandb_options: dict[str, object] | None) -> Iterator[list[Logger]]:
    """Open the CSV logger and, where there are options for it, a W&B run."""
    from lightning.pytorch.loggers import CSVLogger  # noqa: PLC0415 - as above

    trackers: list[Logger] = [CSVLogger(save_dir=run_dir, name="", version="csv")]
    if wandb_options is None:
        yield trackers
        return
    with open_wandb(run_dir, **wandb_options) as tracker:  # type: ignore[arg-type]
        yield [*trackers, tracker]


def _start(**options: Any) -> wandb.Run:  # noqa: ANN401 - W&B's own
    """Start a run online where that is possible, else offline."""
    import wandb  # noqa: PLC0415 - half a second that only its users should pay

    quiet = wandb.Settings(silent=True, init_timeout=_INIT_TIMEOUT_S)
    start = partial(wandb.init, **options, settings=quiet, reinit="create_new")
    try:
        if "WANDB_MODE" not in os.environ and not wandb.login(prompt=False):
            return start(mode="offline")
        return start()
    except wandb.errors.Error as error:
        reason = str(error).splitlines()[0]
        logger.warning("W&B cannot be used online, so the run is kept on disk: %s", reason)
        return start(mode="offline")


def log_training(
    run: wandb.Run, metrics: Mapping[str, float], *, bank: PhraseBank, checkpoint: Path
) -> None:
    """Put a training run's metrics into the summary, and log bank and checkpoint.

    W&B gets the bank's manifest and a reference to its folder; a checkpoint that was not written is
    left out.
    """
    run.summary.update(dict(metrics))
    _take_in(run, _bank_artifact(bank))
    if checkpoint.is_file():
        run.log_artifact(_checkpoint_artifact(checkpoint, bank))


def log_evaluation(
    run: wandb.Run,
    metrics: Mapping[str, float],
    predictions: pa.Table,
    *,
    latencies_ms: npt.NDArray[np.float64],
    bank: PhraseBank,
    checkpoint: Path,
    files: Sequence[Path],
) -> None:
    """Put an evaluation's metrics into the summary, and log examples, figures and artifacts.

    Of the predictions 1,000 rows, evenly drawn, become a table; ``files`` are what the evaluation
    wrote, ``latencies_ms`` (calls,) the times of single queries.
    """
    import wandb  # noqa: PLC0415 - half a second that only its users should pay

    from lightweight_decoder.evaluation.plots import draw_figures  # noqa: PLC0415 - likewise

    run.summary.update(dict(metrics))
    figures = {
        f"figures/{drawing.title}": wandb.Image(_image(drawing.figure))
        for drawing in draw_figures(predictions, latencies_ms)
    }
    run.log({"examples": _example_table(predictions), **figures})
    _take_in(run, _bank_artifact(bank))
    based_on = _checkpoint_artifact(checkpoint, bank)
    _take_in(run, based_on)
    evaluation = wandb.Artifact(
        f"evaluation-{_digest(checkpoint)}",
        type="evaluation",
        metadata={"checkpoint": based_on.name, "bank": _bank_name(bank)},
    )
    for file in files:
        evaluation.add_file(str(file))
    run.log_artifact(evaluation)


def _take_in(run: wandb.Run, artifact: wandb.Artifact) -> None:
    """Says that a run is based on an artifact."""
    if run.offline:
        run.log_artifact(artifact)
    else:
        run.use_artifact(artifact)


def _bank_artifact(bank: PhraseBank) -> wandb.Artifact:
    """Return the bank's manifest, and where its files are: they may be gigabytes."""
    import wandb  # noqa: PLC0415 - as above

    artifact = wandb.Artifact(
        _bank_name(bank),
        type="bank",
        metadata={"fingerprint": bank.fingerprint, "num_phrases": bank.num_phrases},
    )
    if bank.path is not None:
        artifact.add_file(str(bank.path / "manifest.json"))
        artifact.add_reference(bank.path.as_uri(), name="files", checksum=False)
    return artifact


def _checkpoint_artifact(checkpoint: Path, bank: PhraseBank) -> wandb.Artifact:
    """Return the checkpoint, by its content: training and evaluation mean the same one."""
    import wandb  # noqa: PLC0415 - as above

    artifact = wandb.Artifact(
        f"checkpoint-{_digest(checkpoint)}", type="model", metadata={"bank": _bank_name(bank)}
    )
    artifact.add_file(str(checkpoint), policy="immutable")
    return artifact


def _bank_name(bank: PhraseBank) -> str:
    """Return the name of a bank's artifact."""
    return f"bank-{bank.fingerprint[:12]}"


def _digest(path: Path) -> str:
    """Return the first digits of a file's sha256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]


def _example_table(predictions: pa.Table) -> wandb.Table:
    """Return queries with what they were decoded to."""
    import wandb  # noqa: PLC0415 - as above

    rows = evenly_drawn(predictions, _MAX_EXAMPLES)
    columns: dict[str, list[Any]] = {
        "query": [row["text"] or f"query {row['query']}" for row in rows.to_pylist()],
        "targets": [", ".join(targets) for targets in rows["targets"].to_pylist()],
        "decoded": [", ".join(phrases) for phrases in rows["phrases"].to_pylist()],
    }
    for name in ("rank", "baseline_rank", "confidence", "abstained", "in_bank"):
        columns[name] = rows[name].to_pylist()
    data = [list(row) for row in zip(*columns.values(), strict=True)]
    return wandb.Table(columns=list(columns), data=data)


def _image(figure: Figure) -> Any:  # noqa: ANN401 - Pillow's image
    """Return the figure on white, as pixels."""
    from PIL import Image  # noqa: PLC0415 - only for W&B

    file = BytesIO()
    figure.savefig(file, format="png", dpi=_DOTS_PER_INCH, facecolor="white", transparent=False)
    return Image.open(file)
