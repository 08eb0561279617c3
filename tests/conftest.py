"""What tests of several parts need."""

from __future__ import annotations

import json
import logging
import os
import struct
from types import SimpleNamespace

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # before torch is imported: processes share the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def _logging_as_before():
    """Take away what a command in this process set up, its stream ends with the test."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(scope="session")
def read_offline_run():
    """Reads the one offline W&B run below a folder: summary, exit code, artifacts, files."""
    return _read_offline_run


def _read_offline_run(folder):
    (record_file,) = folder.glob("wandb/offline-run-*/*.wandb")
    summary, exit_code, artifacts = {}, None, {}
    for record in _records(record_file.read_bytes()):
        kind = record.WhichOneof("record_type")
        if kind == "summary":
            for item in record.summary.update:
                summary[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
        elif kind == "exit":
            exit_code = record.exit.exit_code
        elif kind == "artifact":
            artifacts[record.artifact.name] = record.artifact
    return SimpleNamespace(
        summary=summary,
        exit_code=exit_code,
        artifacts=artifacts,
        files=record_file.parent / "files",
        content=record_file.read_bytes(),
    )


def _records(content, *, header=7, block=32_768):
    """The records of W&B's file, which is a LevelDB log after a header of its own."""
    from wandb.proto import wandb_internal_pb2

    place, whole = header, b""
    while place + header <= len(content):
        left = block - place % block
        if left < header:
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", content[place : place + header])
        whole += content[place + header : place + header + length]
        place += header + length
        if kind in {1, 4}:  # the only, or the last part of a record
            yield wandb_internal_pb2.Record.FromString(whole)
            whole = b""
