"""Fuzz the embedding readers: whatever the bytes, only the errors that they promise may come.

    python scripts/fuzz_embeddings.py .npy CORPUS -max_total_time=600 -rss_limit_mb=2048

CORPUS is a folder of small valid files to start from; what comes after the suffix goes to libFuzzer
as it is. Needs atheris. A crash is left as ``crash-…`` in the working folder.
"""

from __future__ import annotations

import sys
import tempfile
from itertools import islice
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["lightweight_decoder.embeddings.formats"]):
    from lightweight_decoder.embeddings import open_embeddings
from lightweight_decoder.errors import InputDataError, MissingDependencyError

MAX_BLOCKS = 1000


def main() -> None:
    """Run libFuzzer on one format, named by its file suffix."""
    suffix, *arguments = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"embeddings{suffix}"

        def read(content: bytes) -> None:
            path.write_bytes(content)
            try:
                for block in islice(open_embeddings(path).blocks(), MAX_BLOCKS):
                    check(len(block.vectors) > 0, "empty block")
                    check(block.texts is None or len(block.texts) == len(block.vectors), "texts")
            except (InputDataError, MissingDependencyError):
                return

        atheris.Setup([sys.argv[0], *arguments], read)
        atheris.Fuzz()


def check(condition: bool, promise: str) -> None:  # noqa: FBT001
    """Fail, so that libFuzzer keeps the input, unless a promise of the readers holds."""
    if not condition:
        raise AssertionError(promise)


if __name__ == "__main__":
    main()
