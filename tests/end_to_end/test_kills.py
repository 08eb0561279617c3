"""Signals at random moments: never status 0 without the result, nothing half-made stays behind.

``KILLS=30 pytest -m slow --timeout=0 -s tests/end_to_end/test_kills.py`` sends each signal so often
to each command, and prints what came of it.
"""

from __future__ import annotations

import collections
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from lightweight_decoder.bank import PhraseBank

from .conftest import FAST, NUM_PHRASES, ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="signals of Unix"),
]
KILLS = int(os.environ.get("KILLS", "1"))
SIGNALS = ("SIGTERM", "SIGINT", "SIGHUP")
NAMES = ("decode", "build_bank", "train", "evaluate")
DEFAULT_SIGNALS = (
    "import os, signal, sys\n"
    f"for name in {SIGNALS}: signal.signal(getattr(signal, name), signal.SIG_DFL)\n"
    "os.execv(sys.argv[1], sys.argv[1:])"
)
OLD = "what was here before\n"


class Killable:
    """A command, what it starts from, and what must be true of its folder at every moment.

    Args:
        typed: The script, and its arguments; ``{out}`` stands for the folder of its output.
        result: The file in that folder which says that it is done.
        prepare: Makes the folder as it is before.
        is_whole: Says whether a file of the folder is whole.
        environment: Of its processes.
    """

    def __init__(self, *typed, result, prepare, is_whole, environment):
        self._typed, self._environment = typed, environment
        self._result, self._prepare = result, prepare
        self.is_whole = is_whole

    def measure(self, folder):
        """Run it once: how long it takes in s, and the files that it leaves."""
        started = time.perf_counter()
        assert self.start(folder).wait() == 0, (folder / "stderr").read_text()
        self.duration = time.perf_counter() - started
        self.files = files_in(folder / "out")
        return self

    def start(self, folder):
        """Start it with the signals' own handlers, which a test below nohup or & does not have."""
        self._prepare(folder / "out")
        (folder / "temporary").mkdir()
        typed = [each.format(out=folder / "out") for each in self._typed]
        with (folder / "stderr").open("w") as stderr:
            return subprocess.Popen(
                [sys.executable, "-c", DEFAULT_SIGNALS, sys.executable, *typed],
                cwd=ROOT,
                env=self._environment | {"TMPDIR": str(folder / "temporary")},
                stdout=subprocess.DEVNULL,
                stderr=stderr,
            )

    def result_in(self, folder):
        """What tells the result from what was there before."""
        path = folder / "out" / self._result
        return path.stat().st_ino if path.exists() else None


def files_in(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def is_answers(path):
    lines = path.read_text().splitlines()
    return [*lines, ""] == OLD.split("\n") or len(list(map(json.loads, lines))) == NUM_PHRASES


def is_of_bank(path):
    if path.name == "manifest.json":
        PhraseBank.open(path.parent).verify()
    return True


def is_of_run(path):
    """Results, by their readers; settings and logs are written as a run goes on."""
    if path.name == "metrics.json":
        json.loads(path.read_text())
    if path.suffix == ".ckpt":
        torch.load(path, weights_only=True)
    if path.suffix == ".parquet":
        pq.read_table(path)
    return path.suffix != ".html" or path.read_text().rstrip().endswith("</html>")


def old_answers(out):
    out.mkdir()
    (out / "o.jsonl").write_text(OLD)


@pytest.fixture(scope="module")
def commands(work, environment):
    """The four commands, by name; the run that is evaluated is the one that was measured."""
    places = {name: work / "killable" / name for name in NAMES}
    for place in places.values():
        place.mkdir(parents=True)
    made = partial(
        Killable,
        environment=environment(work) | {"TORCHINDUCTOR_CACHE_DIR": str(work / "inductor")},
    )
    cpu, vectors = "trainer.accelerator=cpu", work / "vectors.npy"
    decode = ("scripts/decode.py", f"bank={work}/bank", f"input={vectors}", cpu)
    build = ("scripts/build_bank.py", f"input={work}/phrases.csv", f"vectors={vectors}")
    train = ("train.py", "data=denoise", f"data.bank={work}/bank", "hydra.run.dir={out}", *FAST)
    known = {
        "decode": made(
            *decode,
            "output={out}/o.jsonl",
            result="o.jsonl",
            prepare=old_answers,
            is_whole=is_answers,
        ),
        "build_bank": made(
            *build,
            "output={out}/bank",
            "overwrite=true",
            result="bank/manifest.json",
            prepare=lambda out: shutil.copytree(work / "bank", out / "bank"),
            is_whole=is_of_bank,
        ),
        "train": made(*train, result="metrics.json", prepare=lambda _: None, is_whole=is_of_run),
        "evaluate": made(
            "scripts/evaluate.py",
            "run_dir={out}",
            cpu,
            result="metrics.json",
            prepare=partial(shutil.copytree, places["train"] / "out"),
            is_whole=is_of_run,
        ),
    }
    return {name: command.measure(places[name]) for name, command in known.items()}


@pytest.mark.parametrize("signal_name", SIGNALS)
@pytest.mark.parametrize("name", NAMES)
def test_a_signal_leaves_the_result_or_what_was_before(commands, name, signal_name, tmp_path):
    command, number = commands[name], getattr(signal, signal_name)
    rng = random.Random(f"{name} {signal_name}")  # noqa: S311 - no secret
    counts = collections.Counter()
    for kill in range(KILLS):
        folder = tmp_path / str(kill)
        folder.mkdir()
        process = command.start(folder)
        before = command.result_in(folder)
        after = rng.uniform(0, 1.05 * command.duration)
        time.sleep(after)
        process.send_signal(number)
        status = process.wait()
        told = f"{after:.2f} of {command.duration:.2f} s, status {status}: "
        told += (folder / "stderr").read_text()[-2000:]
        has_result = command.result_in(folder) not in (None, before)
        # a command that has not begun, or has ended, is killed by the signal itself
        assert status in (0, 128 + number, -number), told
        assert has_result or status != 0, told
        assert files_in(folder / "out") <= command.files, told
        assert files_in(folder / "temporary") == set(), told
        assert all(map(command.is_whole, filter(Path.is_file, folder.rglob("out/**/*")))), told
        counts[status, "the result" if has_result else "what was before"] += 1
        shutil.rmtree(folder)
    print(f"\n{name}, {signal_name}: {dict(counts)}")  # noqa: T201 - for -s
