"""What of a build is on the disk for good, written down while it runs."""

from __future__ import annotations

import contextlib
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, TypeAdapter, ValidationError

from lightweight_decoder.bank.manifest import FILE_NAMES
from lightweight_decoder.bank.output_file import OutputFile, reporting_full_disk
from lightweight_decoder.errors import ResumeError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

JOURNAL_NAME = "journal.json"
SECONDS_BETWEEN = 2.0
"""A killed build loses so much at most."""

_SIZES = TypeAdapter(dict[str, Annotated[int, Field(ge=0, strict=True)]])


def read_journal(folder: Path) -> dict[str, int]:
    """Return how many bytes of each file an interrupted build had safely written.

    Raises:
        ResumeError: If the journal is damaged.
    """
    path = folder / JOURNAL_NAME
    if not path.exists():
        return dict.fromkeys(FILE_NAMES, 0)
    try:
        sizes = _SIZES.validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise _damaged(path, str(error).splitlines()[0]) from error
    if set(sizes) != set(FILE_NAMES) or any(
        not (folder / name).is_file() or (folder / name).stat().st_size < size
        for name, size in sizes.items()
    ):
        raise _damaged(path, "files that do not go with it")
    return sizes


@contextlib.contextmanager
def keeping_journal(folder: Path, files: Mapping[str, OutputFile]) -> Iterator[None]:
    """Keep the journal of ``files`` in ``folder`` up to date, in the background.

    Raises:
        BankBuildError: If it cannot be written.
    """
    stop = threading.Event()
    with ThreadPoolExecutor(1) as thread:
        job = thread.submit(_keep, stop, folder / JOURNAL_NAME, files)
        try:
            yield
        finally:
            stop.set()
    job.result()


def _keep(stop: threading.Event, path: Path, files: Mapping[str, OutputFile]) -> None:
    """Replace the journal every few seconds until told to stop."""
    partial = path.with_suffix(".partial")
    while not stop.wait(SECONDS_BETWEEN):
        with reporting_full_disk(path, 0):
            sizes = {name: file.synchronize() for name, file in files.items()}
            with partial.open("wb") as file:
                file.write(_SIZES.dump_json(sizes))
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)


def _damaged(path: Path, found: str) -> ResumeError:
    """Build the error for a journal that no build of ours left."""
    return ResumeError(
        "the journal of the interrupted build is damaged",
        where=path,
        expected=f"sizes of {', '.join(FILE_NAMES)}",
        found=found,
        advice="Start anew without resume=true",
    )
