"""Columns of Arrow as what they are read for: texts, spelled alike in every format, or vectors."""

from __future__ import annotations

import base64
import binascii
import math
import re
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lightweight_decoder.errors import InputDataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    import numpy.typing as npt

Kind = Literal["vector", "integers", "number", "mixed", "text", "value", "other"]
"""What a column holds: lists of floats, lists of whole numbers, single numbers, numbers and texts,
texts, other single values (truth, time), or none of these: what is nested, or nothing at all."""

Written = Literal["list", "bare", "base64", "bytes"]
"""How texts or bytes spell vectors: as numbers, in brackets or without, or as float32, in base64 or
plain."""

NUMBER = re.compile(
    r"\s*[+-]?(?:(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|nan|inf(?:inity)?)\s*", re.IGNORECASE
)
MISSING = ("", "null", "NULL", "None", "nan", "NaN", "NA", "N/A", "[]", r"\N")
"""What writers put where there is no vector."""

_LEFT_OUT = "..."
_NO_NUMBER = ("null", "NULL", "None", "NA")

_LIST = (
    r"^\s*(?:[A-Za-z_.]+\()?\s*[\[({]"
    r"(\s*(?:[-+]?\.?\d|[-+]?(?i:nan|inf)|null|None)[^\[\](){}]*)"
    r"[\])}]\s*(?:,[^()\[\]]*)?\)?\s*$"
)
"""A list, a tuple, an array of Postgres, or what ``repr`` gives for one of numpy or torch."""

_SCALAR = r"[A-Za-z_.]+\d*\(([^()\[\],]+)(?:,[^()\[\]]*)?\)"
"""A number as ``repr`` gives it for one of numpy or torch: ``np.float64(0.1)``."""

_BASE64 = re.compile(r"[A-Za-z0-9+/]+={0,2}")
_LIKELY = (1e-12, 1e12)
"""Between these lie the numbers of an embedding, and few that other bytes would make."""

_DECIMAL = re.compile(r"-?(?:0|[1-9]\d*)(?:\.(\d+))?([eE][+-]\d+)?", re.ASCII)
_SAFE_DIGITS = 15
_INT64 = range(-(2**63), 2**63)


def kind_of(data_type: pa.DataType) -> Kind:
    """Return what a column of a type of Arrow holds."""
    data_type = storage_type(data_type)
    value_type = getattr(data_type, "value_type", None)
    if pa.types.is_dictionary(data_type) or pa.types.is_run_end_encoded(data_type):
        return kind_of(value_type)
    if is_list(data_type):
        if pa.types.is_floating(value_type) or value_type == pa.int8():
            return "vector"
        return "integers" if pa.types.is_integer(value_type) else "other"
    if pa.types.is_integer(data_type) or pa.types.is_floating(data_type):
        return "number"
    if is_text(data_type) or is_bytes(data_type):
        return "text"
    others = (pa.types.is_boolean, pa.types.is_temporal, pa.types.is_decimal)
    return "value" if any(is_kind(data_type) for is_kind in others) else "other"


def is_list(data_type: pa.DataType) -> bool:
    """Say whether a type is one of Arrow's five kinds of lists."""
    kinds = ("list", "large_list", "fixed_size_list", "list_view", "large_list_view")
    return any(getattr(pa.types, f"is_{kind}")(data_type) for kind in kinds)


def is_text(data_type: pa.DataType) -> bool:
    """Say whether a type is one of Arrow's three kinds of strings."""
    kinds = ("string", "large_string", "string_view")
    return any(getattr(pa.types, f"is_{kind}")(data_type) for kind in kinds)


def is_bytes(data_type: pa.DataType) -> bool:
    """Say whether a type is one of Arrow's four kinds of bytes."""
    kinds = ("binary", "large_binary", "binary_view", "fixed_size_binary")
    return any(getattr(pa.types, f"is_{kind}")(data_type) for kind in kinds)


def storage_type(data_type: pa.DataType) -> pa.DataType:
    """Return the type below Arrow's extension types, such as the one of tensors."""
    return data_type.storage_type if isinstance(data_type, pa.BaseExtensionType) else data_type


def to_texts(column: pa.Array) -> pa.StringArray:
    """Return a column as texts, null where a value is missing.

    The spelling is Python's, and that of pandas: ``True``, ``1.0``, ``2024-01-31 08:30:00``, a day
    alone where the time is midnight; a number in the shortest form that its type tells apart. NaN
    is a missing value.

    Raises:
        pa.ArrowException: The column is nested, or its bytes are no UTF-8.
    """
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    if pa.types.is_run_end_encoded(column.type):
        column = pc.run_end_decode(column)
    if pa.types.is_dictionary(column.type):
        return to_texts(column.dictionary).take(column.indices)
    if pa.types.is_boolean(column.type):
        return pc.if_else(column, "True", "False")
    if pa.types.is_floating(column.type):
        numbers = column.to_numpy(zero_copy_only=False)
        return pa.array([str(number) for number in numbers], pa.string(), mask=np.isnan(numbers))
    if pa.types.is_timestamp(column.type) or pa.types.is_time(column.type):
        return _times(column)
    return column.cast(pa.string())


def _times(column: pa.Array) -> pa.StringArray:
    """Spell points in time as ``str`` does."""
    kind = column.type
    if kind.unit in ("s", "ms"):
        column = column.cast(
            pa.time64("us") if pa.types.is_time(kind) else pa.timestamp("us", kind.tz)
        )
    texts = column.cast(pa.string())
    for pattern, spelling in (
        (r"\.0+([^0-9]|$)", r"\1"),
        (r"(\.\d{6})000", r"\1"),
        (r" 00:00:00$", ""),
        (r"Z$", "+00:00"),
        (r"([+-]\d\d)(\d\d)$", r"\1:\2"),
    ):
        texts = pc.replace_substring_regex(texts, pattern, spelling)
    return texts


def text_of(value: object) -> str | None:
    """Return a single value of JSON as :func:`to_texts` would."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    return value if isinstance(value, str) else str(value)


class ColumnType:
    """Whether a column of metadata is of whole numbers, of numbers, or of texts.

    It is of numbers where every text is one, and stays what it is as a number: codes with zeros in
    front (``01234``) or behind (``1.10`` beside ``1.9``), with underscores, or beyond 64 bits are
    texts. A column of numbers may have missing values.

    Args:
        is_text: Its texts are known not to be numbers, whatever they look like.
    """

    def __init__(self, *, is_text: bool = False) -> None:
        self._is_number = not is_text
        self._is_whole = True
        self._num_decimals: set[int] = set()
        self._endings: set[str] = set()

    def add(self, texts: Iterable[str]) -> None:
        """Look at more of its texts; blank ones are missing values."""
        for text in filter(None, texts):
            if self._is_number:
                match = _DECIMAL.fullmatch(text)
                self._is_number = match is not None and _keeps_digits(text)
                self._is_whole &= text.lstrip("-").isdecimal()
                decimals, exponent = match.groups() if match else (None, None)
                self._endings.add("exponent" if exponent else _ending(decimals or ""))
                if not exponent:
                    self._num_decimals.add(len(decimals or ""))

    def values(self, texts: Sequence[str]) -> list[object]:
        """Return texts as the values of the column, None where a number is missing."""
        # zeros at the end mean something, unless all numbers have as many decimals
        is_code = len(self._num_decimals) > 1 and (
            "zero" in self._endings or {"whole", "point zero"} <= self._endings
        )
        if not self._is_number or not self._endings or is_code:
            return list(texts)
        number = int if self._is_whole else float
        return [number(text) if text else None for text in texts]


def _ending(decimals: str) -> str:
    """Say what the decimals of a number end in."""
    if decimals == "0":
        return "point zero"
    return "zero" if decimals.endswith("0") else "digit" if decimals else "whole"


def _keeps_digits(text: str) -> bool:
    """Say whether a decimal number is the same as int64 or float64."""
    if text.lstrip("-").isdecimal():
        return int(text) in _INT64 and text != "-0"
    return len(text) <= _SAFE_DIGITS or Decimal(text) == Decimal(repr(float(text)))


def is_list_text(text: str) -> bool:
    """Say whether a text spells a list of numbers, some of them perhaps left out."""
    match = re.match(_LIST, re.sub(_SCALAR, r"\1", text))
    return match is not None and all(
        is_number(field) or field == _LEFT_OUT for field in re.split(r"[,\s]+", match[1].strip())
    )


def is_bare_list(text: str) -> bool:
    """Say whether a text spells several numbers, not all of them whole, without brackets."""
    return "." in text and len(text.split()) > 1 and is_list_text(f"[{text}]")


def written_form(values: Sequence[Any]) -> Written | None:
    """Tell how some texts, or bytes, spell vectors; None if they don't, or there are none."""
    values = [value for value in values if value not in MISSING]
    if not values:
        return None
    if isinstance(values[0], bytes):
        return "bytes" if _are_likely_float32(values) else None
    if all(map(is_bare_list, values)):
        return "bare"
    if is_list_text(values[0]) and 2 * sum(map(is_list_text, values)) >= len(values):
        return "list"
    if all(_BASE64.fullmatch(value) for value in values):
        return "base64" if _are_likely_float32(list(map(_from_base64, values))) else None
    return None


def _are_likely_float32(values: Sequence[bytes]) -> bool:
    """Say whether bytes are as many float32 each, of a size that embeddings have."""
    size = len(values[0])
    if not size or size % 4 or any(len(value) != size for value in values):
        return False
    numbers = np.abs(np.frombuffer(b"".join(values), "<f4"))
    low, high = _LIKELY
    return bool(((numbers == 0) | ((numbers > low) & (numbers < high))).all())


def _from_base64(value: str) -> bytes:
    """Decode base64; nothing where it is none."""
    try:
        return base64.b64decode(value, validate=True)
    except binascii.Error:
        return b""


def read_written(path: Path, column: pa.Array, form: Written, first_row: int) -> pa.ListArray:
    """Parse vectors that texts or bytes spell; a missing one is an empty list.

    Args:
        path: The file, for messages.
        column: Strings, or bytes.
        form: How they spell vectors.
        first_row: Row of the file that the column's row 0 is, for messages.

    Raises:
        InputDataError: One of them spells none.
    """
    if form == "bare":
        column = pc.binary_join_element_wise("[", column, "]", "")
    if form in ("list", "bare"):
        return _parse_lists(path, column, first_row)
    values = ["" if value is None or value in MISSING else value for value in column.to_pylist()]
    packed = [value if isinstance(value, bytes) else _from_base64(value) for value in values]
    for row, (value, numbers) in enumerate(zip(values, packed, strict=True)):
        if len(numbers) % 4 or (value and not numbers):
            raise _no_vector(path, first_row + row, "float32 numbers, 4 bytes each", value)
    offsets = np.cumsum([0, *(len(numbers) // 4 for numbers in packed)], dtype=np.int32)
    return pa.ListArray.from_arrays(offsets, np.frombuffer(b"".join(packed), "<f4"))


def _parse_lists(path: Path, column: pa.Array, first_row: int) -> pa.ListArray:
    """Parse lists of numbers, between commas or, as numpy prints them, between white space."""
    texts = pc.utf8_trim_whitespace(pc.fill_null(column, ""))
    if pc.any(pc.match_substring_regex(texts, rf"[\[(,]\s*{_SCALAR}")).as_py():
        texts = pc.replace_substring_regex(texts, _SCALAR, r"\1")
    missing = pc.is_in(texts, pa.array(MISSING))
    wrong = pc.invert(pc.or_(missing, pc.match_substring_regex(texts, _LIST)))
    for row in np.flatnonzero(wrong.to_numpy(zero_copy_only=False))[:1]:
        raise _no_vector(path, first_row + int(row), "a list such as [0.1, 0.2]", texts[int(row)])
    inner = pc.utf8_trim_whitespace(pc.replace_substring_regex(texts, _LIST, r"\1"))
    spaced = pc.replace_substring_regex(inner, r"\s+", ",")
    inner = pc.if_else(pc.match_substring(inner, ","), inner, spaced)
    fields = pc.split_pattern(pc.if_else(missing, "nan", inner), ",")
    numbers = pc.utf8_trim_whitespace(fields.flatten())
    try:
        numbers = _to_numbers(numbers)
    except pa.ArrowInvalid as error:
        place = next(i for i, text in enumerate(numbers.to_pylist()) if not is_number(text))
        row = int(np.searchsorted(fields.offsets.to_numpy(), place, side="right")) - 1
        raise _no_vector(path, first_row + row, "numbers only", numbers[place]) from error
    return pa.ListArray.from_arrays(fields.offsets, numbers, mask=missing)


def _to_numbers(texts: pa.Array) -> pa.Array:
    """Parse numbers, of which some may be missing."""
    try:
        return texts.cast(pa.float64())
    except pa.ArrowInvalid:
        missing = pc.is_in(texts, pa.array(_NO_NUMBER))
        return pc.if_else(missing, "nan", texts).cast(pa.float64())


def is_number(text: str) -> bool:
    """Say whether a text is a number, or a missing one between others."""
    return NUMBER.fullmatch(text) is not None or text in _NO_NUMBER


def _no_vector(path: Path, row: int, expected: str, found: object) -> InputDataError:
    """Return the error for what spells no vector."""
    shown = str(found)
    return InputDataError.unexpected(
        path,
        expected,
        repr(shown[:40]),
        at=f"row {row}",
        summary="a vector cannot be read",
        advice="What printed the vectors left numbers out; save the array itself."
        if _LEFT_OUT in shown
        else None,
    )


def list_rows(path: Path, column: pa.Array, dim: int, first_row: int) -> npt.NDArray[np.generic]:
    """Return a column of lists as (b, d), without a copy where nothing is missing.

    A null, an empty list and a null inside a list become NaN.

    Args:
        path: The file, for messages.
        column: Lists of numbers.
        dim: d.
        first_row: Row of the file that the column's row 0 is, for messages.

    Raises:
        InputDataError: A list has another length.
    """
    lists = column.storage if isinstance(column, pa.ExtensionArray) else column
    widths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    missing = widths == 0
    for row in np.flatnonzero((widths != dim) & ~missing)[:1]:
        raise InputDataError.unexpected(
            path,
            f"{dim} numbers, as in the first row",
            f"{widths[row]} numbers",
            at=f"row {first_row + int(row)}",
            summary="the vectors differ in width",
        )
    numbers = lists.flatten()
    if numbers.null_count:
        numbers = numbers.cast(pa.float64()).fill_null(math.nan)
    rows = _view(numbers).reshape(-1, dim)
    if not missing.any():
        return rows
    padded = np.full((len(widths), dim), np.nan, np.result_type(rows.dtype, np.float32))
    padded[~missing] = rows
    return padded


def _view(numbers: pa.Array) -> npt.NDArray[np.generic]:
    """Return numbers without nulls as an array that is writable where Arrow's memory is.

    What Arrow has just decoded then needs no copy to become a block; to_numpy is never writable.
    """
    dtype = np.dtype(numbers.type.to_pandas_dtype())
    memory = numbers.buffers()[1]
    if memory is None:
        return np.empty(0, dtype)
    return np.frombuffer(memory, dtype, len(numbers), numbers.offset * dtype.itemsize)
