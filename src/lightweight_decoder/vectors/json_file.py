"""JSON as a table: objects on lines of their own, in an array, or in what a service answered."""

from __future__ import annotations

import codecs
import json
import re
from contextlib import closing
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from lightweight_decoder.errors import InputDataError
from lightweight_decoder.vectors.columns import MISSING, Kind, text_of
from lightweight_decoder.vectors.streams import CHUNK_BYTES, MAX_LINE_BYTES, open_text
from lightweight_decoder.vectors.tables import Table

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from lightweight_decoder.vectors.tables import Role

    Record = dict[str, Any]

VECTOR_NAME = "vector"
TEXT_NAME = "text"
"""What columns are called where a file has lists, or single values, instead of objects."""

_SAMPLED_RECORDS = 100
_BATCH_RECORDS = 256
_SPACE = re.compile(r"[ \t\r\n]*")
_VECTOR_START = re.compile(r"\[[ \t\r\n]*[-0-9NI]")
_NUMBER_END = re.compile(r"[-+.eE0-9]*")
_SEEN_AHEAD = 2**8
_DECODE = json.JSONDecoder().raw_decode


class JsonTable(Table):
    """JSON lines, or a JSON array, of objects, of vectors or of texts; plain or in gzip or zstd.

    Of what a service of embeddings answered, ``{"data": [{"embedding": …, "index": 0}, …]}``, each
    entry is a row, alone or on many lines, and also below ``response.body``, as in batches. So is
    each entry of the lists in one object that has the vectors as a list of lists.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        with closing(_read_records(path)) as records:
            some = list(islice(records, _SAMPLED_RECORDS))
        names = dict.fromkeys(name for record in some for name in record)
        super().__init__(path, [(name, _kind([each.get(name) for each in some])) for name in names])

    def _batches(self, roles: Mapping[str, Role], max_rows: int) -> Generator[pa.RecordBatch]:
        first_row = 0
        with closing(_read_records(self.path)) as records:
            while some := list(islice(records, min(max_rows, _BATCH_RECORDS))):
                columns = [
                    self._column(name, role, [record.get(name) for record in some], first_row)
                    for name, role in roles.items()
                ]
                yield pa.record_batch(columns, names=list(roles))
                first_row += len(some)

    def _column(self, name: str, role: Role, values: Sequence[object], first_row: int) -> pa.Array:
        """Return values as one column, or name the first that does not go with the others."""
        is_list = role == "vector" and self.kinds[name] in ("vector", "integers")
        expected = "a list of numbers" if is_list else "a number" if role == "number" else "a text"
        if is_list:
            values = [None if value in MISSING else value for value in values]
        try:
            return _to_column(values, role, is_list=is_list)
        except (pa.ArrowException, OverflowError, TypeError, ValueError) as error:
            for row, value in enumerate(values, first_row):
                if not _fits(value, role, is_list=is_list):
                    raise InputDataError.unexpected(
                        self.path,
                        expected,
                        repr(value)[:60],
                        at=f"row {row}",
                        summary=f"{name!r} is not {expected}",
                    ) from error
            raise


def _to_column(values: Sequence[object], role: Role, *, is_list: bool) -> pa.Array:
    """Convert values of JSON to Arrow."""
    if is_list:
        return pa.array(values, pa.list_(pa.float64()))
    if role == "number":
        return pa.array(values, pa.float64())
    if any(isinstance(value, list | dict) for value in values):
        message = "nested"
        raise TypeError(message)
    texts = list(map(text_of, values))
    try:
        return pa.array(texts, pa.string())
    except UnicodeEncodeError:  # a lone surrogate is no text, which counts as missing
        return pa.array([text if _is_unicode(text) else None for text in texts], pa.string())


def _fits(value: object, role: Role, *, is_list: bool) -> bool:
    """Say whether a value can be converted."""
    try:
        _to_column([value], role, is_list=is_list)
    except (pa.ArrowException, OverflowError, TypeError, ValueError):
        return False
    return True


def _is_unicode(text: str | None) -> bool:
    """Say whether a text can be written as UTF-8; a lone surrogate cannot."""
    try:
        (text or "").encode()
    except UnicodeEncodeError:
        return False
    return True


def _kind(values: Sequence[object]) -> Kind:
    """Tell by some values what a column holds."""
    there = [value for value in values if value is not None and value != []]
    if any(isinstance(value, list) for value in there):
        there = [value for value in there if value not in MISSING]
    types = set(map(type, there))
    if there and isinstance(there[0], list):
        lists = [value for value in there if isinstance(value, list)]
        numbers = {type(number) for value in lists for number in value}
        if numbers == {int}:
            return "integers"
        return "vector" if set(map(type, there[0])) <= {int, float, type(None)} else "other"
    if types & {list, dict} or not types:
        return "other"
    if types <= {int, float}:
        return "number"
    if types == {bool}:
        return "value"
    return "mixed" if types & {int, float} else "text"


def _read_records(path: Path) -> Generator[Record]:
    """Yield the rows of a file as objects."""
    with open_text(path) as stream:
        yield from _Scanner(path, stream).records()


class _Scanner:
    """Finds JSON values in a stream; Python's own decoder reads each of them.

    Args:
        path: The file, for messages.
        stream: Its bytes, UTF-8.
    """

    def __init__(self, path: Path, stream: pa.NativeFile) -> None:
        self._path = path
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._text = ""
        self._place = 0
        self._line = self._row_line = 1
        self._has_ended = False

    def records(self) -> Iterator[Record]:
        """Yield every row: those of arrays and of answers one by one."""
        while start := self._next_row():
            if start == "{":
                yield from self._object()
            elif start == "[" and not self._is_vector():
                for value in self._items():
                    yield _as_record(value)
            else:
                yield _as_record(self._value())

    def _object(self) -> Iterator[Record]:
        """Yield an object; or, of an answer of a service, its entries instead."""
        fields: Record = {}
        is_answer = False
        self._take("{")
        while self._next() != "}":
            if fields or is_answer:
                self._take(",")
            name = self._value()
            self._take(":")
            if name == "data" and self._next() == "[":
                items = self._items()
                first = next(items, None)
                if is_answer := isinstance(first, dict) and "embedding" in first:
                    yield from self._entries(chain([first], items))
                else:
                    fields[name] = [first, *items]
            else:
                fields[name] = self._value()
        self._take("}")
        if not is_answer:
            body = fields.get("response")
            answer = body.get("body") if isinstance(body, dict) else None
            entries = answer.get("data") if isinstance(answer, dict) else None
            if isinstance(entries, list):
                yield from self._entries(entries)
            else:
                yield from _rows_of_columns(fields) or [fields]

    def _entries(self, items: Iterable[Any]) -> Iterator[Record]:
        """Yield the entries of an answer, whose ``index`` has to count them."""
        for place, item in enumerate(items):
            record = _as_record(item)
            record.pop("object", None)  # says what an entry is, in each
            if record.get("index", place) != place:
                raise self._error(
                    "entries in the order of their index", f"{record['index']} as number {place}"
                )
            yield record

    def _items(self) -> Iterator[Any]:
        """Yield the values of an array."""
        self._take("[")
        is_first = True
        while self._next() != "]":
            if not is_first:
                self._take(",")
            self._next_row()
            yield self._value()
            is_first = False
        self._take("]")

    def _value(self) -> Any:  # noqa: ANN401
        """Read the value that begins here."""
        self._next()
        while True:
            try:
                value, end = _DECODE(self._text, self._place)
            except (json.JSONDecodeError, RecursionError) as error:
                if len(self._text) - self._place > MAX_LINE_BYTES:
                    raise self._error(
                        f"values of at most {MAX_LINE_BYTES} bytes",
                        "a longer one",
                        advice="Write an object a row, each on a line of its own.",
                    ) from error
                if isinstance(error, RecursionError) or not self._more():
                    found = getattr(error, "msg", error)
                    raise self._error("JSON", found) from error
                continue
            # a number at the end of what was read may go on
            may_go_on = isinstance(value, int | float) and _NUMBER_END.fullmatch(self._text, end)
            if may_go_on and self._more():
                continue
            self._place = end
            return value

    def _next(self) -> str:
        """Skip white space and return the next character, which stays; nothing at the end."""
        while True:
            self._place = _SPACE.match(self._text, self._place).end()  # type: ignore[union-attr]
            if self._place < len(self._text):
                return self._text[self._place]
            if not self._more():
                return ""

    def _next_row(self) -> str:
        """Go to the next row, where an error in it is told to be."""
        character = self._next()
        self._row_line = self._line + self._text.count("\n", 0, self._place)
        return character

    def _take(self, character: str) -> None:
        """Go over a character that has to be there."""
        found = self._next()
        if found != character:
            raise self._error(
                f"JSON, here a {character!r}", repr(found) if found else "the end of the file"
            )
        self._place += 1

    def _is_vector(self) -> bool:
        """Say whether the array that begins here holds numbers."""
        while len(self._text) - self._place < _SEEN_AHEAD and self._more():
            pass
        return _VECTOR_START.match(self._text, self._place) is not None

    def _more(self) -> bool:
        """Read on; False at the end of the file."""
        if self._has_ended:
            return False
        chunk = self._stream.read(CHUNK_BYTES)
        self._has_ended = not chunk
        self._line += self._text.count("\n", 0, self._place)
        try:
            more = self._decoder.decode(chunk, final=self._has_ended)
        except UnicodeDecodeError as error:
            raise self._error("UTF-8", error.object[error.start : error.start + 20]) from error
        self._text = self._text[self._place :] + more
        self._place = 0
        return not self._has_ended

    def _error(self, expected: str, found: object, advice: str | None = None) -> InputDataError:
        """Return the error for what is not as it should be at this place."""
        at = f"line {self._row_line}"
        return InputDataError.unreadable(self._path, found, at=at, expected=expected, advice=advice)


def _rows_of_columns(fields: Record) -> list[Record]:
    """Return the rows of an object that holds columns, one of them of vectors; [] for any other.

    Columns are lists of one length, or, as pandas writes them, objects from row numbers to values,
    or names apart from rows (``orient="split"``).
    """
    if list(fields) == ["columns", "index", "data"]:
        return [dict(zip(fields["columns"], row, strict=True)) for row in fields["data"]]
    columns = {
        name: list(value.values()) if isinstance(value, dict) else value
        for name, value in fields.items()
    }
    lists = {name: value for name, value in columns.items() if isinstance(value, list)}
    for name, vectors in lists.items():
        if vectors and all(isinstance(each, list) and _is_vector(each) for each in vectors):
            alike = {key: each for key, each in lists.items() if len(each) == len(vectors)}
            has_others = any(isinstance(value, str) for value in columns.values())
            if name == "embeddings" or (len(alike) > 1 and not has_others):
                rows = zip(*alike.values(), strict=True)
                return [dict(zip(alike, row, strict=True)) for row in rows]
    return []


def _is_vector(values: list[Any]) -> bool:
    """Say whether a list holds numbers."""
    return bool(values) and set(map(type, values)) <= {int, float}


def _as_record(value: Any) -> Record:  # noqa: ANN401
    """Return a row as an object."""
    if isinstance(value, dict):
        return value
    return {VECTOR_NAME if isinstance(value, list) else TEXT_NAME: value}
