"""JSON: lines, arrays, answers of services, and what is wrong in them."""

from __future__ import annotations

import base64
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
        ('{"text": "a"}', r"row 2: .*nothing \(null\)"),
        ('{"v": [NaN, 1]}', "row 2: .*nan in column 0"),
        ('{"v": [1e400, 1]}', "row 2: .*inf in column 0"),
        ('{"v": [1 2]}', "line 3: .*expected JSON"),
        ('{"v" [1 2]}', "line 3: .*expected JSON, here a ':'"),
        ("[1, 2]", r"row 2: .*nothing \(null\)"),
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


VECTORS = [[0.5, 1.0, 2.0], [0.25, -1.0, 3.0]]


def base64_of(vector):
    return base64.b64encode(np.array(vector, "<f4").tobytes()).decode()


def entries(vectors, **more):
    return [
        {"object": "embedding", "index": place, "embedding": vector, **more}
        for place, vector in enumerate(vectors)
    ]


def answer(vectors):
    return {"object": "list", "data": entries(vectors), "model": "m", "usage": {"total_tokens": 2}}


def lines(*values):
    return "".join(json.dumps(value) + "\n" for value in values)


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        (json.dumps(VECTORS), None),
        (json.dumps(VECTORS, indent=2), None),
        (lines(*VECTORS), None),
        (json.dumps([{"text": t, "v": v} for t, v in zip("ab", VECTORS, strict=True)]), ["a", "b"]),
        (json.dumps([{"text": "a", "v": VECTORS[0]}, {"v": VECTORS[1], "text": 7}]), ["a", "7"]),
        (lines({"text": 1984, "v": VECTORS[0]}, {"text": "b", "v": VECTORS[1]}), ["1984", "b"]),
        (lines({"text": True, "v": VECTORS[0]}, {"text": 1.0, "v": VECTORS[1]}), ["True", "1.0"]),
        (json.dumps(answer(VECTORS)), None),
        (json.dumps(answer(VECTORS), indent=1), None),
        (json.dumps(answer(map_base64 := list(map(base64_of, VECTORS)))), None),
        (lines(answer(VECTORS[:1]), answer(VECTORS[1:])), None),
        (lines({"id": 1, "response": {"body": answer(VECTORS)}}), None),
        (lines(*({"text": t, "v": v} for t, v in zip("ab", map_base64, strict=True))), ["a", "b"]),
        (json.dumps({"text": ["a", "b"], "v": VECTORS}), ["a", "b"]),
        (
            json.dumps({"text": {"0": "a", "1": "b"}, "v": {"0": VECTORS[0], "1": VECTORS[1]}}),
            ["a", "b"],
        ),
        (
            json.dumps(
                {
                    "columns": ["text", "v"],
                    "index": [5, 3],
                    "data": [["a", VECTORS[0]], ["b", VECTORS[1]]],
                }
            ),
            ["a", "b"],
        ),
        (json.dumps({"model": "m", "embeddings": VECTORS, "texts": ["a", "b"]}), ["a", "b"]),
        (
            lines(
                {"text": "a", **dict(zip("012", VECTORS[0], strict=True))},
                {"text": "b", **dict(zip("012", VECTORS[1], strict=True))},
            ),
            ["a", "b"],
        ),
        ("\ufeff" + lines({"v": VECTORS[0]}, {"v": VECTORS[1]}), None),
    ],
)
@pytest.mark.parametrize("name", ["a.json", "a"])
def test_layouts(tmp_path, read_all, content, texts, name):
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    vectors, read_texts = read_all(open_embeddings(path))
    np.testing.assert_array_equal(vectors, VECTORS)
    assert read_texts == texts


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"data": entries(VECTORS)[::-1]},
            "entries in the order of their index, found 1 as number 0",
        ),
        ({"text": "a", "v": [VECTORS]}, r"no column could hold the vectors.*'v' \(other\)"),
        (
            {"text": ["a", "b", "c"], "v": VECTORS},
            r"no column could hold the vectors.*'v' \(other\)",
        ),
        ([], "no column could hold the vectors"),
        ({}, "no column could hold the vectors"),
        ("a", "no column could hold the vectors"),
    ],
)
def test_other_layouts_are_refused(tmp_path, content, message):
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(InputDataError, match=message):
        open_embeddings(tmp_path / "a.json")


@pytest.mark.parametrize("missing", [None, [], ""])
def test_a_missing_first_vector_is_named_or_kept(tmp_path, read_all, missing):
    path = tmp_path / "a.jsonl"
    path.write_text(lines({"v": missing}, {"v": VECTORS[0]}))
    reader = open_embeddings(path)
    with pytest.raises(InputDataError, match=r"row 0: .*nothing \(null\)"):
        list(reader.blocks())
    vectors = read_all(reader, on_bad_row="keep")[0]
    np.testing.assert_array_equal(vectors, [[np.nan] * 3, VECTORS[0]])


def test_without_any_vector_there_is_no_width(tmp_path):
    (tmp_path / "a.jsonl").write_text(lines(*[{"v": []}] * 200, {"v": VECTORS[0]}))
    with pytest.raises(InputDataError, match="no column could hold the vectors"):
        open_embeddings(tmp_path / "a.jsonl")
