"""A table of any format, as record batches of the columns that are asked for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import closing
from typing import TYPE_CHECKING, Literal

import pyarrow as pa

from lightweight_decoder.errors import InputDataError
from lightweight_decoder.vectors.columns import (
    Kind,
    is_bytes,
    is_list,
    is_text,
    storage_type,
    to_texts,
)
from lightweight_decoder.vectors.reader import TEXT_ENTRY, damage_as_input_error, shown_names
from lightweight_decoder.vectors.streams import read_lines

if TYPE_CHECKING:
    from collections.abc import Collection, Generator, Iterable, Mapping
    from pathlib import Path

Role = Literal["text", "number", "vector"]
"""What a column is read as: texts, floats, or lists of numbers (or texts or bytes for such)."""

SAMPLE_ROWS = 1_000


class Table(ABC):
    """A table in one format, read from its start as often as asked for, in bounded memory.

    Args:
        path: The file.
        columns: Name and kind of each column, in their order.
        num_rows: How many rows there are; None where only reading them would tell.

    Attributes:
        path: The file.
        kinds: What each column holds, by its name; as far as the format, or the first rows, tell.
        num_rows: See above.
        is_typed: Whether the format tells texts that look like numbers from numbers.
    """

    is_typed = True

    def __init__(
        self, path: Path, columns: Iterable[tuple[str, Kind]], *, num_rows: int | None = None
    ) -> None:
        columns = list(columns)
        self.path = path
        self.kinds = dict(columns)
        self.num_rows = num_rows
        names = [name for name, _ in columns]
        self._repeated = {name for name in self.kinds if names.count(name) > 1}

    @abstractmethod
    def _batches(self, roles: Mapping[str, Role], max_rows: int) -> Generator[pa.RecordBatch]:
        """Yield batches of the columns, as they are stored, in the order of ``roles``."""

    def _texts(self, name: str, column: pa.Array) -> pa.StringArray:  # noqa: ARG002
        """Return a column as texts."""
        return to_texts(column)

    def number_type(self, names: Collection[str]) -> str:  # noqa: ARG002
        """Return how the numbers of columns are stored: a numpy dtype's name, or "text"."""
        return "text"

    def batches(self, roles: Mapping[str, Role], max_rows: int) -> Generator[pa.RecordBatch]:
        """Read columns.

        Args:
            roles: The columns, and what each is read as.
            max_rows: Most rows that a batch has.

        Yields:
            Batches of at least one row, with the columns in the order of ``roles``. Texts are
            strings, null where they are missing.

        Raises:
            InputDataError: There is no such column, it is there twice or cannot be read so, or the
                file is damaged.
        """
        self.require(roles)
        first_row = 0
        with closing(self._batches(roles, max_rows)) as batches:
            while True:
                with damage_as_input_error(self.path, f"row {first_row} or later"):
                    batch = next(batches, None)
                if batch is None:
                    return
                for start in range(0, batch.num_rows, max_rows):
                    part = batch.slice(start, max_rows)
                    yield self._as_asked(part, roles, first_row + start)
                first_row += batch.num_rows

    def _as_asked(
        self, batch: pa.RecordBatch, roles: Mapping[str, Role], first_row: int
    ) -> pa.RecordBatch:
        """Spell columns as texts, unless they hold what they are read as."""
        columns = []
        for (name, role), column in zip(roles.items(), batch.columns, strict=True):
            kept = storage_type(column.type)
            if role != "text" and pa.types.is_dictionary(kept) and not is_text(kept.value_type):
                columns.append(column.dictionary_decode())
                continue
            if role == "number" or (role == "vector" and (is_list(kept) or is_bytes(kept))):
                columns.append(column)
                continue
            try:
                columns.append(self._texts(name, column))
            except (pa.ArrowException, UnicodeDecodeError) as error:
                raise InputDataError.unexpected(
                    self.path,
                    "texts, numbers, truth values or dates",
                    f"{column.type} ({error})",
                    at=f"row {first_row} or later",
                    summary=f"the column {name!r} has no texts",
                ) from error
        return pa.record_batch(columns, names=list(roles))

    def require(self, names: Iterable[str]) -> None:
        """Refuse a column that is not there, or more than once."""
        for name in names:
            if name not in self.kinds or name in self._repeated:
                found = "are several columns" if name in self._repeated else "is no column"
                raise InputDataError.unexpected(
                    self.path,
                    f"one column {name!r}",
                    f"the columns {shown_names(self.kinds) or '(none)'}",
                    summary=f"there {found} {name!r}",
                    advice="Name one of these, as with text_column=NAME"
                    + ("" if self.is_typed else ". Is this data? Put a line of names above it"),
                )

    def sample(self, names: Collection[str]) -> dict[str, list[str | bytes]]:
        """Return for each column of texts or bytes the first that are there."""
        roles: dict[str, Role] = dict.fromkeys(names, "vector")
        found: dict[str, list[str | bytes]] = {name: [] for name in names}
        if names:
            with closing(self.batches(roles, SAMPLE_ROWS)) as batches:
                for batch in batches:
                    for name in names:
                        found[name] += filter(None, batch.column(name).to_pylist())
                    if all(found.values()):
                        break
        return found


class LinesTable(Table):
    """A text file as a table of one column, a row a line; an empty last line does not count.

    Args:
        path: The file, plain or inside gzip or zstd.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, [(TEXT_ENTRY, "text")])

    def _batches(self, roles: Mapping[str, Role], max_rows: int) -> Generator[pa.RecordBatch]:
        first_line = 1
        for lines in read_lines(self.path, max_lines=max_rows):
            column = pa.array([line.removesuffix(b"\r") for line in lines], pa.binary())
            try:
                yield pa.record_batch([column.cast(pa.string())] * len(roles), names=list(roles))
            except pa.ArrowInvalid as error:
                raise InputDataError.unreadable(
                    self.path, error, at=f"line {first_line} or later", expected="lines of UTF-8"
                ) from error
            first_line += len(lines)
