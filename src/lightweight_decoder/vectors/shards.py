"""A folder of files of one format, read one after the other."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from lightweight_decoder.errors import InputDataError
from lightweight_decoder.vectors.reader import (
    EmbeddingBlock,
    EmbeddingReader,
    OnBadRow,
    resolve_block_rows,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


class ShardsReader(EmbeddingReader):
    """A folder whose files are one set of embeddings, in the order of their names.

    Numbers in names count as numbers: ``part-2`` comes before ``part-10``. Names that begin with a
    dot or an underscore are left out, as Spark and Hadoop do. Errors name the shard, and its row.

    Args:
        path: The folder; it has no folders below it.
        open_shard: Opens one file.
    """

    def __init__(self, path: Path, open_shard: Callable[[Path], EmbeddingReader]) -> None:
        files = [file for file in path.iterdir() if not file.name.startswith((".", "_"))]
        self._shards = [open_shard(file) for file in sorted(files, key=_natural_order)]
        if not self._shards:
            raise InputDataError(
                "there are no vectors", where=path, expected="files with embeddings", found="none"
            )
        first = self._shards[0]
        for shard in self._shards[1:]:
            _check_alike(first, shard)
        counts = [shard.num_rows for shard in self._shards if shard.num_rows is not None]
        self.path = path
        self.num_rows = sum(counts) if len(counts) == len(self._shards) else None
        self.dim = first.dim
        self.dtype = first.dtype
        self.has_texts = first.has_texts

    def blocks(
        self, block_rows: int | None = None, *, on_bad_row: OnBadRow = "raise"
    ) -> Iterator[EmbeddingBlock]:
        """See EmbeddingReader.blocks; a block never spans two shards."""
        rows = resolve_block_rows(block_rows, self.dim)
        first_row = 0
        for shard in self._shards:
            for block in shard.blocks(rows, on_bad_row=on_bad_row):
                yield EmbeddingBlock(block.vectors, block.texts, first_row)
                first_row += len(block.vectors)


def _natural_order(file: Path) -> tuple[list[str | int], str]:
    """Return a sorting key that takes runs of digits as numbers."""
    parts = re.split(r"(\d+)", file.name)
    return [int(part) if part.isdecimal() else part for part in parts], file.name


def _check_alike(first: EmbeddingReader, shard: EmbeddingReader) -> None:
    """Refuse a shard that does not belong with the first one."""
    for what, expected, found in (
        ("format", type(first).__name__, type(shard).__name__),
        ("width", first.dim, shard.dim),
        ("dtype", first.dtype, shard.dtype),
        ("presence of texts", first.has_texts, shard.has_texts),
    ):
        if expected != found:
            raise InputDataError(
                f"the shards differ in their {what}",
                where=shard.path,
                expected=f"{expected}, as in {first.path.name}",
                found=found,
                advice="Keep only files of one set of embeddings in the folder.",
            )
