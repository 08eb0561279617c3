"""JSON: lines, arrays, answers of services, and what is wrong in them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightweight_decoder.errors import InputDataError
from lightweight_decoder.vectors import json_file, open_embeddings


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"v": [1, 2]', "line 3: .*found the end of the file"),
        ('{"v": [1, "2"]}', r"row 2: 'v' is not a list of numbers.*\[1, '2'\]"),
        ('{"v": [1, [2]]}', "row 2: 'v' is not a list of numbers"),
        ('{"v": 1}', "row 2: 'v' is not a list of numbers"),
        ('{"v": [1, null]}', "row 2: .*nan in column 1"),
        ('{"v": [1, 2, 3]}', "row 2: .*found 3 numbers"),
        ('{"text": "a"}', r"row 2: .*found nothing \(null\)"),
        ('{"v": [NaN, 1]}', "row 2: .*nan in column 0"),
        ('{"v": [1e400, 1]}', "row 2: .*inf in column 0"),
        ('{"v": [1 2]}', "line 3: .*expected JSON"),
        ('{"v" [1 2]}', "line 3: .*expected JSON, here a ':'"),
        ("[1, 2]", r"row 2: .*found nothing \(null\)"),
        ("[" * 100_000, "line 3: cannot be read"),
    ],
)
def test_bad_json_line_is_refused(tmp_path, line, message):
    path = tmp_path / "a.jsonl"
    path.write_text('{"v": [1, 2.5]}\n{"v": [3, 4]}\n' + line + "\n")
    with pytest.raises(InputDataError, match=message):
        list(open_embeddings(path).blocks())


def test_json_lines_may_mix_whole_numbers_and_others(tmp_path, read_all):
    path = tmp_path / "a.jsonl"
    path.write_text('\n{"v": [1, 2], "text": "ä\\n"}\n\n{"text": "b", "v": [0.5, -1e-3]}')
    vectors, texts = read_all(open_embeddings(path))
    np.testing.assert_array_equal(vectors, np.float32([[1, 2], [0.5, -1e-3]]))
    assert texts == ["ä\n", "b"]


def test_json_line_longer_than_memory_allows_is_refused(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"v": [1, 2]}\n' + json.dumps({"v": [0.25] * 2**21}) + "\n")
    with pytest.raises(InputDataError, match="line 2: cannot be read: expected values of at most"):
        list(open_embeddings(path).blocks())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda values: (
        st.lists(values, max_size=3) | st.dictionaries(st.text(max_size=3), values, max_size=3)
    ),
    max_leaves=9,
)


@given(
    records=st.lists(st.dictionaries(st.text(max_size=3), JSON, max_size=4), max_size=6),
    indent=st.none() | st.integers(0, 2),
    as_lines=st.booleans(),
    chunk=st.integers(1, 50),
)
def test_records_are_those_of_the_file(tmp_path_factory, records, indent, as_lines, chunk):
    path = tmp_path_factory.mktemp("json") / "a.json"
    if as_lines:
        path.write_text("\n".join(json.dumps(each, indent=indent) for each in records))
    else:
        path.write_text(json.dumps(records, indent=indent, ensure_ascii=False), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_file, "CHUNK_BYTES", chunk)
        assert list(json_file._read_records(path)) == records
