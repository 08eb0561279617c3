"""Columns as texts, as metadata, and as vectors that are spelled out."""

from __future__ import annotations

import base64
import datetime as dt
from decimal import Decimal
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightweight_decoder.errors import InputDataError
from lightweight_decoder.vectors.columns import (
    ColumnType,
    list_rows,
    read_written,
    text_of,
    to_texts,
    written_form,
)

PATH = Path("a.csv")
DAY = dt.date(2024, 1, 31)
NOON = dt.datetime(2024, 1, 31, 12)  # noqa: DTZ001
LATER = NOON.replace(microsecond=120_000)
BERLIN = NOON.replace(tzinfo=ZoneInfo("Europe/Berlin"))


@pytest.mark.parametrize(
    ("value", "data_type"),
    [
        (True, pa.bool_()),
        (7, pa.int8()),
        (2**64 - 1, pa.uint64()),
        (1.0, pa.float64()),
        (0.1, pa.float64()),
        (1e16, pa.float64()),
        (1e-5, pa.float64()),
        (DAY, pa.date32()),
        (DAY, pa.date64()),
        (NOON, pa.timestamp("s")),
        (NOON, pa.timestamp("ns")),
        (LATER, pa.timestamp("ms")),
        (LATER, pa.timestamp("us")),
        (LATER, pa.timestamp("ns")),
        (BERLIN, pa.timestamp("us", "Europe/Berlin")),
        (NOON.astimezone(dt.UTC), pa.timestamp("ms", "UTC")),
        (NOON.time(), pa.time32("s")),
        (LATER.time(), pa.time64("us")),
        (Decimal("1.10"), pa.decimal128(5, 2)),
        ("ä", pa.large_string()),
        ("a text of more than twelve bytes", pa.string_view()),
    ],
    ids=str,
)
def test_values_are_spelled_as_python_does(value, data_type):
    column = pa.array([value, None], data_type)
    assert to_texts(column).to_pylist() == [str(value), None]
    categories = pa.DictionaryArray.from_arrays(pa.array([0, None, 0]), column.slice(0, 1))
    assert to_texts(categories).to_pylist() == [str(value), None, str(value)]


def test_midnight_is_a_day():
    column = pa.array([dt.datetime(2024, 1, 31)], pa.timestamp("us"))  # noqa: DTZ001
    assert to_texts(column).to_pylist() == ["2024-01-31"]


@given(number=st.floats(width=32))
def test_a_float32_is_as_short_as_tells_it_apart(number):
    (text,) = to_texts(pa.array([number], pa.float32())).to_pylist()
    if np.isnan(number):
        assert text is None
    else:
        assert np.float32(text) == np.float32(number)
        assert text == str(np.float32(number))


@given(value=st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.text())
def test_json_and_arrow_spell_alike(value):
    assert [text_of(value)] == to_texts(pa.array([value])).cast(pa.string()).to_pylist()


def values_of(texts, **options):
    column_type = ColumnType(**options)
    for text in texts:  # in blocks of one
        column_type.add([text])
    return column_type.values(texts)


@pytest.mark.parametrize(
    ("texts", "values"),
    [
        (["120", "0", "-7"], [120, 0, -7]),
        (["1", "2.5"], [1.0, 2.5]),
        (["1.0", "2.0", "10.0"], [1.0, 2.0, 10.0]),
        (["1.0", "2.25"], [1.0, 2.25]),
        (["0.50", "1.10"], [0.5, 1.1]),  # a price
        (["1e-05", "2.5e+16"], [1e-05, 2.5e16]),
        (["0.1234567890123456"], [0.1234567890123456]),
        (["7", "", "8"], [7, None, 8]),
        (["9223372036854775807"], [2**63 - 1]),
    ],
)
def test_a_column_of_numbers(texts, values):
    found = values_of(texts)
    assert found == values
    assert list(map(type, found)) == list(map(type, values))
    assert values_of(texts, is_text=True) == texts


@pytest.mark.parametrize(
    "texts",
    [
        ["01234", "94110"],
        ["1_001", "2_002"],
        ["1.9", "1.10"],  # versions
        ["1", "1.0"],
        ["18446744073709551615", "3"],
        ["9223372036854775808", "3"],
        ["0.12345678901234567891"],
        ["1e5", "2e5"],
        ["12E4", "13E4"],
        ["+1", "2"],
        [" 1", "2"],
        ["-0", "1"],
        ["1", "nan"],
        ["1", "inf"],
        ["1.", "2."],
        [".5"],
        ["\u0661", "\u0662"],
        ["1", "two"],
        ["", ""],
    ],
)
def test_what_is_no_number_stays_as_it_is(texts):
    assert values_of(texts) == texts
    assert values_of(texts[::-1]) == texts[::-1]


@given(
    values=st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1)
    | st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1)
)
def test_numbers_come_back_as_they_were(values):
    assert values_of(list(map(str, values))) == values


@given(texts=st.lists(st.text(st.sampled_from("01.-+_ "), max_size=5), min_size=1))
def test_two_texts_never_become_one_number(texts):
    values = values_of(texts)
    if values != texts:
        assert len(set(values)) == len({text or None for text in texts})


def packed(*vectors):
    return [np.array(vector, "<f4").tobytes() for vector in vectors]


@pytest.mark.parametrize(
    ("values", "form"),
    [
        (["[1, 2]", "[0.5,-1e-3]"], "list"),
        (["[ 1.  2.]"], "list"),
        (["[1]", "no list"], "list"),
        (["", "[1, 2]", "null"], "list"),
        (["[np.float64(0.5), np.float32(-1e-3)]"], "list"),
        (["[tensor(0.5), tensor(2, dtype=torch.float64)]"], "list"),
        (["[see(below)]"], None),
        (["0.5 1", "1.5 2"], "bare"),
        (packed([1, 2], [3, 4]), "bytes"),
        ([base64.b64encode(each).decode() for each in packed([1, 2], [3, 4])], "base64"),
        (["1 2", "3 4"], None),
        (["a text", "[1, 2]", "another"], None),
        (["(see below)", "(1) first"], None),
        (["abcd", "efgh"], None),
        (["abcdefghijklmnop", "qrstuvwxyzabcdef"], None),
        (["d41d8cd98f00b204e9800998ecf8427e", "0cc175b9c0f1b6a831c399e269772661"], None),
        (["", "null"], None),
        ([], None),
    ],
)
def test_how_vectors_are_spelled(values, form):
    assert written_form(values) == form


NUMBERS = st.floats(-1e30, 1e30).filter(lambda number: number == 0 or abs(number) > 1e-30)


@given(
    vectors=st.integers(1, 5).flatmap(
        lambda dim: st.lists(st.lists(NUMBERS, min_size=dim, max_size=dim), min_size=1, max_size=5)
    ),
    between=st.sampled_from([",", ", ", " , ", " ", "  ", "\n "]),
    around=st.sampled_from(["[]", "()", "{}", "[ ]"]),
)
def test_any_list_is_read_as_python_would(vectors, between, around):
    start, end = around[:-1], around[-1]
    texts = [start + between.join(map(repr, vector)) + end for vector in vectors]
    lists = read_written(PATH, pa.array(texts), "list", 0)
    rows = list_rows(PATH, lists, len(vectors[0]), 0)
    np.testing.assert_array_equal(rows, vectors)


@pytest.mark.parametrize("missing", [None, "", "null", "None", "[]", "NaN", r"\N"])
def test_a_missing_vector_is_nan(missing):
    lists = read_written(PATH, pa.array(["[1, 2]", missing, "[3, 4]"]), "list", 0)
    rows = list_rows(PATH, lists, 2, 0)
    np.testing.assert_array_equal(rows, [[1, 2], [np.nan, np.nan], [3, 4]])


@pytest.mark.parametrize(
    ("values", "form", "message"),
    [
        (["[1]", "[1"], "list", r"row 8: a vector cannot be read: expected a list.*\[1"),
        (["[1]", "[1, 2, x]", "[3]"], "list", "row 8: .*expected numbers only, found 'x'"),
        (["[1]", "[1 2, 3]"], "list", "row 8: .*expected numbers only, found '1 2'"),
        (["AACAPw==", "AACAPw"], "base64", "row 8: .*float32.*found 'AACAPw'"),
        (["AACAPw==", "AACA"], "base64", "row 8: .*float32.*found 'AACA'"),
        ([b"1234", b"12345"], "bytes", "row 8: .*float32.*12345"),
    ],
)
def test_a_vector_that_cannot_be_read_is_named(values, form, message):
    with pytest.raises(InputDataError, match=message):
        read_written(PATH, pa.array(values), form, 7)
