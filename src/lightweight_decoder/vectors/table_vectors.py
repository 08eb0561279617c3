"""Embeddings in a table: which columns hold vectors and texts, and blocks of them."""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from contextlib import closing
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lightweight_decoder.errors import InputDataError
from lightweight_decoder.vectors.columns import list_rows, read_written, written_form
from lightweight_decoder.vectors.reader import (
    TEXT_ENTRY,
    FileReader,
    StoredBlock,
    choose_entry,
    shown_names,
)

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    import numpy.typing as npt

    from lightweight_decoder.vectors.columns import Written
    from lightweight_decoder.vectors.tables import Role, Table

_log = logging.getLogger(__name__)

_NUMBERED = re.compile(r"(?P<prefix>.*?)(?P<number>\d+)[\])]?")
_ROWS_FOR_WIDTH = 16
_SHOWN_COLUMNS = 10
_NUMBER_KINDS = ("number", "mixed")


class TableReader(FileReader):
    """The vectors of a table, and the texts beside them.

    A vector is a list in one column, a text or bytes that spell one, or is spread over columns
    whose names are one prefix and consecutive numbers (``dim_0,dim_1,…``, ``v[0],v[1],…``,
    ``0,1,…``).

    Args:
        table: The table.
        vector_column: The column of vectors, or the prefix of the numbered columns; may be left out
            where only one is there. Lists of floats go before all others.
        text_column: The column of texts; may be left out where one is called "text", or only one
            holds texts.

    Attributes:
        table: The table.
        text_choices: Columns that could hold the texts, where none was named or is meant.
    """

    def __init__(
        self, table: Table, *, vector_column: str | None = None, text_column: str | None = None
    ) -> None:
        self.path = table.path
        self.table = table
        self._vectors = _choose_vectors(table, vector_column)
        self._text, self.text_choices = _choose_text(table, self._vectors.columns, text_column)
        super().__init__(
            table.path,
            num_rows=table.num_rows,
            dim=self._first_width(),
            dtype=table.number_type(self._vectors.columns)
            if self._vectors.form not in ("base64", "bytes")
            else "float32",
            has_texts=self._text is not None,
        )

    def _stored_blocks(self, block_rows: int) -> Generator[StoredBlock]:
        first_row = 0
        roles = dict(self._vectors.roles)
        if self._text is not None:
            roles[self._text] = "text"
        with closing(self.table.batches(roles, block_rows)) as batches:
            for batch in batches:
                texts = None if self._text is None else batch.column(self._text).to_pylist()
                yield self._rows(batch, first_row), texts
                first_row += batch.num_rows

    def _rows(self, batch: pa.RecordBatch, first_row: int) -> npt.NDArray[np.generic]:
        """Return a batch's vectors as (b, d)."""
        if self._vectors.is_spread:
            columns = [batch.column(name) for name in self._vectors.columns]
            return np.column_stack([column.to_numpy(zero_copy_only=False) for column in columns])
        return list_rows(self.path, self._lists(batch, first_row), self.dim, first_row)

    def _lists(self, batch: pa.RecordBatch, first_row: int) -> pa.Array:
        """Return a batch's vectors as lists."""
        column = batch.column(self._vectors.columns[0])
        if self._vectors.form is None:
            return column.storage if isinstance(column, pa.ExtensionArray) else column
        return read_written(self.path, column, self._vectors.form, first_row)

    def _first_width(self) -> int:
        """Return d, which only the first vector tells where neither type nor columns do."""
        if self._vectors.is_spread:
            return len(self._vectors.columns)
        first_row = 0
        with closing(self.table.batches(self._vectors.roles, _ROWS_FOR_WIDTH)) as batches:
            for batch in batches:
                widths = pc.list_value_length(self._lists(batch, first_row)).to_pylist()
                for width in filter(None, widths):
                    return int(width)
                first_row += batch.num_rows
        raise InputDataError.unexpected(
            self.path,
            f"a vector in the column {self._vectors.columns[0]!r}",
            f"{first_row} rows without one",
            summary="there are no vectors",
        )


class _Vectors(NamedTuple):
    """Where the vectors are: columns, how they are spelled, and whether each is a dimension."""

    columns: list[str]
    form: Written | None = None
    is_spread: bool = False

    @property
    def roles(self) -> dict[str, Role]:
        """What the columns are read as."""
        return dict.fromkeys(self.columns, "number" if self.is_spread else "vector")


def _choose_vectors(table: Table, wanted: str | None) -> _Vectors:
    """Return the columns asked for, or the only ones that could be meant."""
    lists = [name for name, kind in table.kinds.items() if kind == "vector"]
    if (wanted in lists) if wanted else len(lists) == 1:
        return _Vectors([wanted or lists[0]])
    kinds = table.kinds.items()
    integers = {name: None for name, kind in kinds if kind == "integers"}
    texts = [name for name, kind in kinds if kind == "text"] if not lists or wanted else []
    spelled = {
        name: form
        for name, values in table.sample(texts).items()
        if (form := written_form(values)) is not None
    }
    forms: dict[str, Written | None] = dict.fromkeys(lists) | integers | spelled
    bare = [name for name, form in spelled.items() if form == "bare"]
    groups = _numbered_columns(table)
    choices = lists or [name for name in (*integers, *spelled) if name not in bare]
    choices = choices or list(groups) or bare
    if not choices:
        raise InputDataError.unexpected(
            table.path,
            "a column of lists of numbers, or of texts that spell such, or columns numbered"
            " without a gap, such as dim_0, dim_1, …",
            ", ".join(f"{name!r} ({kind})" for name, kind in islice(kinds, _SHOWN_COLUMNS)),
            summary="no column could hold the vectors",
        )
    known = [*forms, *groups] if wanted else choices
    chosen = choose_entry(table.path, known, wanted, option="vector_column")
    if chosen in forms:
        return _Vectors([chosen], forms[chosen])
    _tell_left_out(table, groups[chosen])
    return _Vectors(groups[chosen], is_spread=True)


def _numbered_columns(table: Table) -> dict[str, list[str]]:
    """Return, by prefix, the columns numbered without a gap, in the order of their numbers."""
    numbered: defaultdict[str, dict[int, str]] = defaultdict(dict)
    repeated = set()
    for name, kind in table.kinds.items():
        match = _NUMBERED.fullmatch(name)
        if match and (kind in _NUMBER_KINDS or (kind == "other" and not table.is_typed)):
            number = int(match["number"])
            if number in numbered[match["prefix"]]:
                repeated.add(match["prefix"])
            numbered[match["prefix"]][number] = name
    return {
        prefix: [columns[number] for number in sorted(columns)]
        for prefix, columns in numbered.items()
        if len(columns) > 1
        and prefix not in repeated
        and max(columns) - min(columns) == len(columns) - 1
    }


def _tell_left_out(table: Table, columns: Sequence[str]) -> None:
    """Say which columns of numbers are no part of the vectors."""
    left_out = [
        name for name, kind in table.kinds.items() if kind in _NUMBER_KINDS and name not in columns
    ]
    if left_out:
        _log.info(
            "%s: the vectors are the %d columns from %r to %r; other columns of numbers: %s",
            table.path,
            len(columns),
            columns[0],
            columns[-1],
            shown_names(left_out),
        )


def _choose_text(
    table: Table, vectors: Sequence[str], wanted: str | None
) -> tuple[str | None, list[str]]:
    """Return the column of texts, if one was asked for or is meant, and those that could be."""
    if wanted is not None:
        table.require([wanted])
        if wanted in vectors:
            raise InputDataError.unexpected(
                table.path, "a column of texts", "the vectors", at=f"column {wanted!r}"
            )
        return wanted, []
    others = {name: kind for name, kind in table.kinds.items() if name not in vectors}
    if others.get(TEXT_ENTRY, "vector") not in ("vector", "integers", "other"):
        return TEXT_ENTRY, []
    for kinds in (("text", "mixed"), ("value",)):
        names = [name for name, kind in others.items() if kind in kinds]
        if names:
            return (names[0], []) if len(names) == 1 else (None, names)
    return None, [name for name, kind in others.items() if kind == "number"]
