"""Fuzz the embedding readers: whatever the bytes, only the errors that they promise may come.

    python scripts/fuzz_embeddings.py --seconds 600 --output findings
    python scripts/fuzz_embeddings.py --reader npy -- findings/npy/…

The first line fuzzes every reader in a process of its own, all at once, starting from small valid
files; the second gives one reader one file (what follows ``--`` goes to libFuzzer as it is).
A finding is an exception outside our family, a broken promise of the readers, a pickle that was
looked into, more than 10 s, more than 2 GiB, or the end of the process. Each is kept with its
traceback in the folder ``findings``, beside ``summary.md`` and ``summary.json``. Errors of ours
that stand for a TypeError and the like are listed too: they may hide a mistake.
Needs atheris.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import io
import json
import os
import re
import runpy
import subprocess
import sys
import tempfile
import time
import traceback
import zipfile
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Callable

PACKAGE = "lightweight_decoder"
WRITERS = Path(__file__).parent.parent / "tests/unit/vectors/conftest.py"
INSTRUMENTED = f"{PACKAGE}.vectors"
MAX_BLOCKS = 1000
LIMITS = ("-rss_limit_mb=2048", "-malloc_limit_mb=1024", "-timeout=10", "-max_len=16384")
LIBRARIES = ("torch", "h5py")
"""Imported first: not instrumented, and what they run at import is no finding."""
CODE_RUN = ("pickle.find_class", "os.system", "os.exec", "os.posix_spawn", "subprocess.Popen")
MISTAKES = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    NameError,
    RecursionError,
    TypeError,
)
SHARD_WIDTH = 5


class Target(NamedTuple):
    """How a reader is fuzzed.

    Attributes:
        formats: Names of the tests' formats to start from.
        file_name: What the fuzzed file is called.
        pack: Puts content inside the container that its checksums would make hard to get into.
    """

    formats: tuple[str, ...]
    file_name: str
    pack: Callable[[bytes], bytes] = bytes


def gzip_text(content: bytes) -> bytes:
    """Pack what is not packed yet."""
    is_packed = content[:2] == b"\x1f\x8b" or content[:4] == b"\x28\xb5\x2f\xfd"
    return content if is_packed else pa.compress(content, "gzip", asbytes=True)


def zip_array(content: bytes) -> bytes:
    """Make an archive of what is an array."""
    if not content.startswith(b"\x93NUMPY"):
        return content
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("vectors.npy", content)
    return file.getvalue()


TARGETS = {
    "npy": Target(("npy", "npy-fortran"), "a.npy"),
    "npz": Target(("npz", "npz-compressed", "npy"), "a.npz", zip_array),
    "pt": Target(("pt", "pt-dict"), "a.pt"),
    "safetensors": Target(("safetensors",), "a.safetensors"),
    "parquet": Target(("parquet", "parquet-fixed"), "a.parquet"),
    "arrow": Target(("arrow-file", "feather-lz4", "arrow-stream"), "a.arrow"),
    "csv": Target(("csv-lists", "csv-columns"), "a.csv"),
    "jsonl": Target(("jsonl",), "a.jsonl"),
    "word_vectors": Target(("glove", "word2vec-text"), "a.txt"),
    "word2vec_binary": Target(("word2vec-binary",), "a.bin"),
    "packed": Target(
        ("word2vec-text-gzip", "jsonl-zstd", "word2vec-binary", "glove", "jsonl"), "a.gz", gzip_text
    ),
    "fvecs": Target(("fvecs",), "a.fvecs"),
    "bvecs": Target(("fvecs",), "a.bvecs"),
    "hdf5": Target(("hdf5", "hdf5-chunked"), "a.h5"),
    "shards": Target(("npy", "parquet", "glove"), "shards/1.npy"),
    "hugging_face": Target(("arrow-stream",), "data_set/data-00000-of-00001.arrow"),
}


def main() -> None:
    """Fuzz one reader in this process, or start a process for each."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--output", type=Path, default=Path("findings"))
    parser.add_argument("--readers", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--reader", choices=TARGETS, help="fuzz this one in this process")
    options, rest = parser.parse_known_args()
    if options.reader is not None:
        fuzz(
            options.reader, options.output / options.reader, [each for each in rest if each != "--"]
        )
    else:
        start_all(options.readers, options.seconds, options.output.resolve())


def fuzz(name: str, findings: Path, arguments: list[str]) -> None:
    """Run libFuzzer on one reader until its time is over, or the process ends."""
    import atheris  # noqa: PLC0415 - the process that starts the others does without

    for library in filter(importlib.util.find_spec, LIBRARIES):
        importlib.import_module(library)
    with atheris.instrument_imports(include=[INSTRUMENTED]):
        from lightweight_decoder.vectors import open_embeddings  # noqa: PLC0415
    from lightweight_decoder.errors import (  # noqa: PLC0415
        InputDataError,
        LightweightDecoderError,
        MissingDependencyError,
    )

    findings.mkdir(parents=True, exist_ok=True)
    target = TARGETS[name]
    folder = Path(tempfile.mkdtemp(dir=os.environ.get("TMPDIR")))
    path = folder / target.file_name
    prepare(path)
    opened = path if path.parent == folder else path.parent
    hidden: set[str] = set()
    events: list[str] = []
    sys.addaudithook(
        lambda event, _: (
            events.extend([event, *traceback.format_stack()]) if event in CODE_RUN else None
        )
    )

    def read(content: bytes) -> None:
        path.write_bytes(target.pack(content))
        events.clear()
        try:
            read_all(open_embeddings(opened))
        except (InputDataError, MissingDependencyError) as error:
            note_hidden(error, content, hidden, findings)
        except LightweightDecoderError as error:
            keep(error, content, findings)
        except Exception as error:  # noqa: BLE001 - this is what is looked for
            keep(error, content, findings)
        if events:
            keep(AssertionError(f"ran {chr(10).join(events)}"), content, findings)

    atheris.Setup([sys.argv[0], *arguments], read)
    atheris.Fuzz()


def prepare(path: Path) -> None:
    """Write what stands around the fuzzed file: a good shard, or a data set's other files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.parent.name == "shards":
        np.save(path.parent / "0.npy", np.ones((7, SHARD_WIDTH), dtype=np.float32))
    if path.parent.name == "data_set":
        runpy.run_path(str(WRITERS))["write_hugging_face"](
            path.parent, np.ones((7, SHARD_WIDTH), dtype=np.float32), list("abcdefg")
        )


def read_all(reader: object) -> None:
    """Read to the end, and check what every reader promises of its blocks."""
    row = 0
    for block in islice(reader.blocks(), MAX_BLOCKS):
        check(block.first_row == row, "first_row")
        check(len(block.vectors) > 0, "empty block")
        check(block.vectors.shape[1] == reader.dim, "width")
        check(block.vectors.dtype == np.float32, "dtype")
        check(bool(np.isfinite(block.vectors).all()), "finite")
        check((block.texts is not None) == reader.has_texts, "has_texts")
        check(block.texts is None or len(block.texts) == len(block.vectors), "number of texts")
        row += len(block.vectors)
    check(reader.num_rows is None or row <= reader.num_rows, "num_rows")


def check(condition: bool, promise: str) -> None:  # noqa: FBT001
    """Fail unless a promise of the readers holds."""
    if not condition:
        raise AssertionError(promise)


def keep(error: BaseException, content: bytes, findings: Path) -> None:
    """Keep the first input of each place that an error comes from, with its traceback."""
    frames = traceback.extract_tb(error.__traceback__)
    places = "".join(f"{frame.filename}:{frame.lineno}" for frame in frames)
    name = hashlib.sha256(f"{type(error)}{places}{'' if frames else error}".encode()).hexdigest()
    if not (findings / f"error-{name[:16]}").exists():
        (findings / f"error-{name[:16]}").write_bytes(content)
        (findings / f"error-{name[:16]}.txt").write_text("".join(traceback.format_exception(error)))


def note_hidden(error: Exception, content: bytes, hidden: set[str], findings: Path) -> None:
    """Note, once a place, what became one of our errors but looks like a mistake of our own."""
    cause = error.__cause__
    if not isinstance(cause, MISTAKES):
        return
    frames = traceback.extract_tb(cause.__traceback__)
    ours = [frame for frame in frames if PACKAGE in frame.filename]
    place = f"{type(cause).__name__} below {Path(ours[-1].filename).name}:{ours[-1].lineno}"
    if place not in hidden:
        hidden.add(place)
        (findings / f"hidden-{len(hidden)}").write_bytes(content)
        with (findings / "hidden.txt").open("a") as file:
            file.write(f"{place} `{ours[-1].line}` {cause!r:.100}\n")


def start_all(names: list[str], seconds: int, output: Path) -> None:
    """Run a process for each reader side by side, again where one ended, and sum up."""
    writers = {each.name: each for each in runpy.run_path(str(WRITERS))["FILE_FORMATS"]}
    vectors = np.random.default_rng(0).standard_normal((7, SHARD_WIDTH)).astype(np.float32)
    end = time.monotonic() + seconds
    with tempfile.TemporaryDirectory(dir=memory_folder()) as scratch:
        running: dict[str, subprocess.Popen[bytes]] = {}
        starts: Counter[str] = Counter()
        for name in names:
            corpus = Path(scratch) / name
            corpus.mkdir()
            for each in TARGETS[name].formats:
                writers[each].write(
                    corpus / f"{each}-{writers[each].file_name}", vectors, "abcdefg"
                )
        while (left := end - time.monotonic()) > 0:
            for name in names:
                if name not in running or (running[name].poll() is not None and left > 1):
                    running[name] = start(name, left, output, Path(scratch), starts[name])
                    starts[name] += 1
            time.sleep(min(left, 1))
        for process in running.values():
            try:
                process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                process.kill()
    write_summary({name: summarize(output / name, starts[name]) for name in names}, output)


def memory_folder() -> str | None:
    """Return a folder in memory, where there is one: each input is written to a file."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108


def start(
    name: str, left: float, output: Path, scratch: Path, number: int
) -> subprocess.Popen[bytes]:
    """Start fuzzing one reader for the time that is left; its log goes beside its findings."""
    findings = output / name
    findings.mkdir(parents=True, exist_ok=True)
    (scratch / "tmp").mkdir(exist_ok=True)
    command = [sys.executable, __file__, "--reader", name, "--output", str(output), "--"]
    libfuzzer = [str(scratch / name), f"-max_total_time={max(1, int(left))}", f"-seed={number + 1}"]
    more = [f"-artifact_prefix={findings}/", "-print_final_stats=1", *LIMITS]
    with (findings / f"log-{number}.txt").open("wb") as log:
        return subprocess.Popen(
            [*command, *libfuzzer, *more],
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "TMPDIR": str(scratch / "tmp"), "HF_HOME": str(scratch / "tmp")},
        )


def summarize(findings: Path, starts: int) -> dict[str, object]:
    """Read what one reader's logs and findings say."""
    logs = [log.read_text(errors="replace") for log in sorted(findings.glob("log-*.txt"))]
    runs, rates, edges, memory = (
        [[int(found) for found in re.findall(pattern, log)] for log in logs]
        for pattern in (r"(?m)^#(\d+)\s", r"exec/s: (\d+)", r"cov: (\d+)", r"rss: (\d+)Mb")
    )
    kinds = Counter(
        file.name.partition("-")[0]
        for file in findings.glob("*-*")
        if file.suffix != ".txt" and not file.name.startswith("hidden")
    )
    hidden = findings / "hidden.txt"
    return {
        "executions": sum(max(found, default=0) for found in runs),
        "executions_per_s": max((found[-1] for found in rates if found), default=0),
        "edges": max((max(found) for found in edges if found), default=0),
        "peak_rss_mb": max((max(found) for found in memory if found), default=0),
        "starts": starts,
        "findings": dict(kinds),
        "hidden": sorted(set(hidden.read_text().splitlines())) if hidden.exists() else [],
    }


def write_summary(results: dict[str, dict[str, object]], output: Path) -> None:
    """Write and print one line for each reader, and what our errors hid."""
    (output / "summary.json").write_text(json.dumps(results, indent=2))
    lines = ["| reader | executions | a second | edges | peak MB | starts | findings |"]
    lines.append("| --- | --- | --- | --- | --- | --- | --- |")
    for name, result in results.items():
        *numbers, findings, _ = result.values()
        cells = [name, *map(str, numbers), str(findings or "none")]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [f"{name}: {each}" for name, result in results.items() for each in result["hidden"]]
    (output / "summary.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
