"""Verdicts that outlive a process: a file per user, one probe per machine, agreement of all ranks.

Nothing here is ever fatal: a damaged file is a missing file, and where no folder can be written
there is no cache.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import stat
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightweight_decoder.accelerator.plan import DeviceReport
from lightweight_decoder.errors import InputDataError
from lightweight_decoder.files import user_cache_dir, whole_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lightweight_decoder.accelerator.machine import Machine

log = logging.getLogger(__name__)

HANDED_DOWN_VARIABLE = "LIGHTWEIGHT_DECODER_ACCELERATOR_VERDICT"
_FORMAT = 2  # raise it when the records or the probe's work change
_LARGEST_FILE_BYTES = 1 << 20
_IMPORTED_AT = time.time()
_LAUNCH_KEPT_S = 86400.0
# Other verdicts may be gone the next time: a full memory, a busy or a hung device.
_LASTING_VERDICTS = frozenset({"usable", "no_kernels", "driver_too_old", "hidden"})
# Who started this rank, and which start it was.
_LAUNCH_VARIABLES = (
    "TORCHELASTIC_RUN_ID",
    "TORCHELASTIC_RESTART_COUNT",
    "MASTER_ADDR",
    "MASTER_PORT",
    "SLURM_JOB_ID",
    "SLURM_STEP_ID",
)


def machine_key(machine: Machine, backend: str) -> str:
    """Return a digest of everything a verdict depends on that can be read without a device."""
    facts = {
        **asdict(machine),
        "arch_list": None,
        "backend": backend,
    }  # only children know the list
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def _folder() -> Path:
    """Return the cache's folder, or a temporary one of this user where that cannot be written."""
    wanted = user_cache_dir()
    user = os.getuid() if hasattr(os, "getuid") else 0
    for folder in (wanted, Path(tempfile.gettempdir()) / f"lightweight-decoder-{user}"):
        with contextlib.suppress(OSError):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Anybody may have made the temporary one before us.
            mine = folder == wanted or folder.stat().st_uid == user
            if mine and os.access(folder, os.W_OK):
                return folder
    return wanted


def load(key: str, *, not_before: float = 0.0) -> tuple[DeviceReport, ...] | None:
    """Return stored reports, or None if there are none that can be used.

    Those stored before ``not_before`` (seconds since 1970) cannot.
    """
    path = _folder() / f"{key}.json"
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > _LARGEST_FILE_BYTES:
            raise ValueError("no file of ours")  # noqa: TRY301
        if status.st_mtime < not_before:
            return None
        return _decode(json.loads(path.read_text(encoding="utf-8")), key)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        log.debug("Ignoring the accelerator cache entry %s: %s", path, error)
        return None


def store(key: str, reports: Sequence[DeviceReport], *, lasting_only: bool = True) -> None:
    """Keep reports, if all will still be true next time, or for the ranks of one launch."""
    if lasting_only and not all(report.verdict in _LASTING_VERDICTS for report in reports):
        return
    try:
        with whole_file(_folder() / f"{key}.json") as temporary:
            temporary.write_text(json.dumps(_encode(key, reports)), encoding="utf-8")
    except InputDataError as error:
        log.debug("Could not write the accelerator cache: %s", error)


def drop(key: str) -> None:
    """Forget stored and handed down reports."""
    os.environ.pop(HANDED_DOWN_VARIABLE, None)
    with contextlib.suppress(OSError):
        (_folder() / f"{key}.json").unlink()


def hand_down(key: str, reports: Sequence[DeviceReport]) -> None:
    """Leave reports in the environment, for the processes that this one starts."""
    handed = {**_encode(key, reports), "pid": os.getpid()}
    os.environ[HANDED_DOWN_VARIABLE] = json.dumps(handed)


def handed_down(key: str) -> tuple[DeviceReport, ...] | None:
    """Report that a parent process left in the environment, if they are about the same machine."""
    text = os.environ.get(HANDED_DOWN_VARIABLE)
    if not text:
        return None
    try:
        record = json.loads(text)
        return None if record["pid"] == os.getpid() else _decode(record, key)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        log.debug("Ignoring %s: %s", HANDED_DOWN_VARIABLE, error)
        return None


def launch_key(key: str) -> str | None:
    """Return a key that all ranks of one launch on this node share; None outside of a launch."""
    if not {"LOCAL_RANK", "SLURM_LOCALID"} & os.environ.keys():
        return None
    facts = [key, str(os.getppid()), *(os.environ.get(name, "") for name in _LAUNCH_VARIABLES)]
    return "launch-" + hashlib.sha256("\n".join(facts).encode()).hexdigest()[:32]


def store_launch(key: str, reports: Sequence[DeviceReport]) -> None:
    """Keep reports for the other ranks of this launch, and clear away those of past launches."""
    store(key, reports, lasting_only=False)
    for path in _folder().glob("launch-*.json"):
        with contextlib.suppress(OSError):
            if path.stat().st_mtime < time.time() - _LAUNCH_KEPT_S:
                path.unlink()


def load_launch(key: str) -> tuple[DeviceReport, ...] | None:
    """Report that another rank stored since this one started; older ones are another launch's."""
    return load(key, not_before=_started_at())


def _started_at() -> float:
    """When this process was started, in seconds since 1970."""
    try:
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        uptime_s = float(Path("/proc/uptime").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return _IMPORTED_AT
    return time.time() - uptime_s + ticks / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def alone(key: str, *, patience_s: float) -> Iterator[None]:
    """Hold the lock of a key, so that one process probes and the others read what it found.

    Where no lock can be had (read-only home, another one takes too long), the work goes on without.
    """
    import filelock  # noqa: PLC0415 - a cpu run must not wait for it

    lock = filelock.FileLock(_folder() / f"{key}.lock", timeout=patience_s)
    try:
        lock.acquire()
    except (OSError, NotImplementedError, filelock.Timeout) as error:
        log.debug("Probing without a lock: %s", error)
    try:
        yield
    finally:
        lock.release()


def _encode(key: str, reports: Sequence[DeviceReport]) -> dict[str, Any]:
    return {"format": _FORMAT, "key": key, "reports": [report.to_dict() for report in reports]}


def _decode(record: dict[str, Any], key: str) -> tuple[DeviceReport, ...]:
    """Return the reports in a record, or raise if it is damaged or of another machine."""
    if record["format"] != _FORMAT or record["key"] != key:
        raise ValueError("another format or another machine")
    return tuple(DeviceReport.from_dict(values) for values in record["reports"])
