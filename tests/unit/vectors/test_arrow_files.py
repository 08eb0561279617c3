"""Parquet and Arrow: which column, which types, rows that do not fit, and batches that lie."""

from __future__ import annotations

import json

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest

from lightweight_decoder.errors import InputDataError
from lightweight_decoder.vectors import open_embeddings
from lightweight_decoder.vectors.text_tables import read_columns


def write_table(path, table):
    """Write a table as the suffix says."""
    if path.suffix == ".parquet":
        pq.write_table(table, path)
    elif path.suffix == ".arrow":
        with pa.ipc.new_file(path, table.schema) as writer:
            writer.write_table(table)
    else:
        with pa.ipc.new_stream(path, table.schema) as writer:
            writer.write_table(table)


SUFFIXES = pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".arrows"])


@SUFFIXES
@pytest.mark.parametrize("numbers", [pa.float16(), pa.float32(), pa.float64(), pa.int8()], ids=str)
@pytest.mark.parametrize("kind", [pa.list_, pa.large_list, lambda type_: pa.list_(type_, 3)])
def test_every_list_type_comes_out_as_float32(tmp_path, read_all, suffix, numbers, kind):
    stored = np.arange(-6, 24).reshape(10, 3).astype(numbers.to_pandas_dtype())
    path = tmp_path / f"a{suffix}"
    write_table(path, pa.table({"v": pa.array(list(stored), kind(numbers))}))
    reader = open_embeddings(path)
    assert reader.dtype == stored.dtype.name
    assert not reader.has_texts
    np.testing.assert_array_equal(read_all(reader, block_rows=4)[0], stored.astype(np.float32))


def test_tensor_column_of_arrow(tmp_path, read_all, vectors):
    path = tmp_path / "a.arrow"
    column = pa.FixedShapeTensorArray.from_numpy_ndarray(vectors)
    write_table(path, pa.table({"v": column}))
    np.testing.assert_array_equal(read_all(open_embeddings(path), block_rows=3)[0], vectors)


@SUFFIXES
def test_columns_are_chosen_by_name_where_several_could_be(tmp_path, read_all, suffix):
    path = tmp_path / f"a{suffix}"
    table = pa.table(
        {"v": [[1.0]], "w": [[2.0, 3.0]], "ids": [[4, 5]], "n": [7], "title": ["a"], "text": ["b"]}
    )
    write_table(path, table)
    with pytest.raises(
        InputDataError, match=r"which vectors.*'v', 'w'. Name the entry with vector"
    ):
        open_embeddings(path)
    assert read_all(open_embeddings(path, vector_column="w"))[1] == ["b"]
    assert read_all(open_embeddings(path, vector_column="w", text_column="title"))[1] == ["a"]
    assert read_all(open_embeddings(path, vector_column="w", text_column="n"))[1] == ["7"]
    with pytest.raises(InputDataError, match="expected an entry 'n'"):
        open_embeddings(path, vector_column="n")
    with pytest.raises(InputDataError, match="no column 'nothing'"):
        open_embeddings(path, vector_column="w", text_column="nothing")
    with pytest.raises(InputDataError, match=r"column 'w': .*expected a column of texts"):
        open_embeddings(path, vector_column="w", text_column="w")


def test_without_a_column_called_text_several_strings_are_no_texts(tmp_path):
    path = tmp_path / "a.parquet"
    write_table(path, pa.table({"v": [[1.0]], "title": ["a"], "body": ["b"]}))
    assert not open_embeddings(path).has_texts


def test_table_without_vectors_is_refused(tmp_path):
    path = tmp_path / "a.parquet"
    write_table(path, pa.table({"words": [["a", "b"]], "n": [7], "deep": [[[1.0]]]}))
    with pytest.raises(InputDataError, match="no column could hold the vectors"):
        open_embeddings(path)


@SUFFIXES
@pytest.mark.parametrize(
    ("row", "found"),
    [
        ([1.0], "1 numbers"),
        ([1.0] * 3, "3 numbers"),
    ],
)
def test_ragged_row_is_named(tmp_path, suffix, row, found):
    path = tmp_path / f"a{suffix}"
    write_table(path, pa.table({"v": pa.array([[1.0, 2.0]] * 5 + [row])}))
    with pytest.raises(InputDataError, match=f"row 5: .*expected 2 numbers.*found {found}"):
        list(open_embeddings(path).blocks(2))


@SUFFIXES
@pytest.mark.parametrize(
    ("missing", "found"),
    [(None, r"nothing \(null\)"), ([], r"nothing \(null\)"), ([3.0, None], "nan in column 1")],
)
@pytest.mark.parametrize("row", [0, 2])
def test_missing_vector_is_named_or_kept(tmp_path, read_all, suffix, missing, found, row):  # noqa: PLR0917
    rows = [[1.0, 2.0]] * 3
    rows[row] = missing
    path = tmp_path / f"a{suffix}"
    width = -1 if missing == [] else 2
    write_table(path, pa.table({"v": pa.array(rows, pa.list_(pa.float32(), width))}))
    with pytest.raises(InputDataError, match=f"row {row}: .*{found}"):
        list(open_embeddings(path).blocks(2))
    kept = read_all(open_embeddings(path), on_bad_row="keep")[0]
    np.testing.assert_array_equal(np.isnan(kept).any(axis=1), np.arange(3) == row)
    np.testing.assert_array_equal(kept[1], [1, 2])


@SUFFIXES
def test_missing_text_is_named_or_kept(tmp_path, read_all, suffix):
    path = tmp_path / f"a{suffix}"
    write_table(path, pa.table({"v": [[1.0, 2.0]] * 3, "text": ["a", "b", None]}))
    with pytest.raises(InputDataError, match="row 2: a text is missing"):
        list(open_embeddings(path).blocks(2))
    assert read_all(open_embeddings(path), on_bad_row="keep")[1] == ["a", "b", ""]


@SUFFIXES
def test_invalid_utf8_is_refused(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    texts = pa.StringArray.from_buffers(
        1, pa.py_buffer(np.array([0, 2], np.int32)), pa.py_buffer(b"\xff\xfe")
    )
    write_table(path, pa.table({"v": [[1.0, 2.0]], "text": texts}))
    with pytest.raises(InputDataError, match=r"[uU][tT][fF]-?8"):
        list(open_embeddings(path).blocks())


@pytest.mark.parametrize("suffix", [".arrow", ".arrows"])
@pytest.mark.parametrize("claim", [96, 98, 2**18, 10**15, -1])
def test_batch_that_promises_another_count_is_refused(tmp_path, suffix, claim):
    # Found by fuzzing: to slice such a batch before checking it makes Arrow abort the process.
    path = tmp_path / f"a{suffix}"
    write_table(path, pa.table({"v": [[1.0, 2.0]] * 97, "text": ["ab"] * 97}))
    whole, count = path.read_bytes(), (97).to_bytes(8, "little")
    place = whole.find(count)
    num_places = 0
    while place >= 0:
        path.write_bytes(
            whole[:place] + claim.to_bytes(8, "little", signed=True) + whole[place + 8 :]
        )
        with pytest.raises(InputDataError):
            list(open_embeddings(path).blocks(10))
        place = whole.find(count, place + 1)
        num_places += 1
    assert num_places >= 3


def test_stream_without_end_is_refused(tmp_path):
    path = tmp_path / "a.arrows"
    write_table(path, pa.table({"v": [[1.0, 2.0]]}))
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(InputDataError, match="expected an end-of-stream mark"):
        open_embeddings(path)


@pytest.mark.parametrize("compression", ["uncompressed", "lz4", "zstd"])
def test_feather(tmp_path, read_all, vectors, compression):
    path = tmp_path / "a.feather"
    table = pa.table({"v": list(vectors)})
    pa.feather.write_feather(table, path, compression=compression, chunksize=2)
    np.testing.assert_array_equal(read_all(open_embeddings(path))[0], vectors)


@pytest.fixture
def data_set(vectors, texts):
    datasets.disable_progress_bars()
    features = datasets.Features(
        {"text": datasets.Value("string"), "v": datasets.List(datasets.Value("float32"))}
    )
    return datasets.Dataset.from_dict({"text": texts, "v": vectors.tolist()}, features)


def test_data_set_keeps_its_selection(tmp_path, read_all, data_set, vectors, texts):
    data_set.select([6, 2, 2]).save_to_disk(tmp_path / "a")
    for path in (tmp_path / "a", f"hf:{tmp_path / 'a'}"):
        reader = open_embeddings(path)
        assert reader.num_rows == 3
        read_vectors, read_texts = read_all(reader, block_rows=2)
        np.testing.assert_array_equal(read_vectors, vectors[[6, 2, 2]])
        assert read_texts == [texts[6], texts[2], texts[2]]


def test_data_set_with_splits_asks_for_one(tmp_path, data_set):
    datasets.DatasetDict({"train": data_set}).save_to_disk(tmp_path / "a")
    with pytest.raises(InputDataError, match=r"found train.*hf:.*/a/train"):
        open_embeddings(tmp_path / "a")
    assert open_embeddings(tmp_path / "a" / "train").num_rows == 7


def test_folder_that_is_no_data_set_is_refused(tmp_path):
    with pytest.raises(InputDataError, match=r"FileNotFoundError.*state\.json"):
        open_embeddings(f"hf:{tmp_path}")


def test_damaged_data_set_is_refused(tmp_path, data_set):
    data_set.save_to_disk(tmp_path / "a")
    path = next((tmp_path / "a").glob("*.arrow"))
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(InputDataError, match="expected an end-of-stream mark"):
        list(open_embeddings(tmp_path / "a").blocks())


def test_data_set_of_several_files_is_read_in_their_order(tmp_path, read_all, data_set, vectors):
    data_set.save_to_disk(tmp_path / "a", num_shards=3)
    reader = open_embeddings(tmp_path / "a")
    assert reader.num_rows == 7
    np.testing.assert_array_equal(read_all(reader)[0], vectors)


@pytest.mark.parametrize("name", ["../b.arrow", "/etc/passwd"])
def test_data_set_has_no_files_elsewhere(tmp_path, data_set, name):
    data_set.save_to_disk(tmp_path / "a")
    state = json.loads((tmp_path / "a" / "state.json").read_text())
    state["_data_files"] = [{"filename": name}]
    (tmp_path / "a" / "state.json").write_text(json.dumps(state))
    with pytest.raises(InputDataError, match=r"a/(b\.arrow|passwd): there is no such file"):
        open_embeddings(tmp_path / "a")


def test_data_set_with_a_selection_beside_it_is_refused(tmp_path, data_set):
    data_set.save_to_disk(tmp_path / "a")
    state = json.loads((tmp_path / "a" / "state.json").read_text())
    state["_indices_data_files"] = [{"filename": "indices.arrow"}]
    (tmp_path / "a" / "state.json").write_text(json.dumps(state))
    with pytest.raises(InputDataError, match="old version of datasets"):
        open_embeddings(tmp_path / "a")


VIEWS = pa.array(["low", "high", "a text of more than twelve bytes"], pa.string_view())


@SUFFIXES
@pytest.mark.parametrize(
    "texts",
    [
        VIEWS,
        VIEWS.cast(pa.large_string()),
        VIEWS.cast(pa.string()).dictionary_encode(),
        pa.DictionaryArray.from_arrays(pa.array([0, 1, 2], pa.uint32()), VIEWS),
        pa.array([text.encode() for text in VIEWS.to_pylist()], pa.binary()),
    ],
    ids=lambda texts: str(texts.type),
)
def test_every_type_of_texts(tmp_path, read_all, suffix, texts):
    if suffix == ".parquet" and pa.types.is_dictionary(texts.type):
        texts = texts.dictionary.cast(pa.string()).take(texts.indices).dictionary_encode()
    path = tmp_path / f"a{suffix}"
    write_table(path, pa.table({"phrase": texts, "v": [[1.0, 2.0]] * 3}))
    assert read_all(open_embeddings(path))[1] == VIEWS.to_pylist()
    assert read_columns(path, ["phrase"]) == {"phrase": VIEWS.to_pylist()}


@SUFFIXES
@pytest.mark.parametrize(
    ("column", "dtype"),
    [
        (pa.array([[1, 2], [-3, 400]]), "int64"),
        (pa.array([[1, 2], [3, 250]], pa.list_(pa.uint8())), "uint8"),
        (pa.array([[1.0, 2.0], [3.0, 4.0]], pa.list_view(pa.float32())), "float32"),
        (pa.array(["[1, 2]", "[-3.5, 4]"]), "text"),
        (pa.array(["[ 1.   2. ]", "[-3.5  4. ]"]), "text"),
        (pa.array(["[1, 2]", "[-3.5, 4]"]).dictionary_encode(), "text"),
        (pa.array(["[1, 2]", "[-3.5, 4]"], pa.string_view()), "text"),
        (pa.array([np.float32([1, 2]).tobytes(), np.float32([-3, 4]).tobytes()]), "float32"),
        (pa.array([np.float32([1, 2]).tobytes()] * 2, pa.binary(8)), "float32"),
    ],
    ids=str,
)
def test_vectors_of_other_types(tmp_path, read_all, suffix, column, dtype):
    path = tmp_path / f"a{suffix}"
    write_table(path, pa.table({"text": ["a", "b"], "v": column}))
    reader = open_embeddings(path)
    expected = [
        json.loads(each.replace(".  ", ",").replace(". ", "").replace("  ", ","))
        if isinstance(each, str)
        else np.frombuffer(each, np.float32)
        if isinstance(each, bytes)
        else each
        for each in column.to_pylist()
    ]
    assert reader.dtype == dtype
    vectors, texts = read_all(reader, block_rows=1)
    np.testing.assert_array_equal(vectors, expected)
    assert texts == ["a", "b"]


def test_lists_of_floats_go_before_all_others(tmp_path, read_all):
    path = tmp_path / "a.parquet"
    table = {"input_ids": [[101, 7]], "spelled": ["[1, 2]"], "d0": [0.5], "d1": [0.5], "v": [[3.0]]}
    write_table(path, pa.table(table))
    np.testing.assert_array_equal(read_all(open_embeddings(path))[0], [[3]])
    for name, expected in (("input_ids", [[101, 7]]), ("spelled", [[1, 2]]), ("d", [[0.5, 0.5]])):
        reader = open_embeddings(path, vector_column=name)
        np.testing.assert_array_equal(read_all(reader)[0], expected)


@SUFFIXES
@pytest.mark.parametrize("numbers", [pa.float16(), pa.float32(), pa.float64(), pa.int64()], ids=str)
def test_a_column_a_dimension(tmp_path, read_all, caplog, suffix, numbers):
    stored = np.arange(1, 25).reshape(2, 12)
    columns = {f"dim_{i}": pa.array(stored[:, i], pa.int64()).cast(numbers) for i in range(12)}
    shuffled = dict(sorted(columns.items()))  # dim_10 before dim_2
    path = tmp_path / f"a{suffix}"
    write_table(path, pa.table({"id": [7, 8], "text": ["a", "b"], **shuffled}))
    with caplog.at_level("INFO"):
        reader = open_embeddings(path)
    assert "12 columns from 'dim_0' to 'dim_11'" in caplog.text
    assert "'id'" in caplog.text
    assert reader.dtype == np.dtype(numbers.to_pandas_dtype()).name
    vectors, texts = read_all(reader, block_rows=1)
    np.testing.assert_array_equal(vectors, stored)
    assert texts == ["a", "b"]


def test_a_number_missing_in_a_column_a_dimension(tmp_path):
    path = tmp_path / "a.parquet"
    write_table(path, pa.table({"d0": [1.0, None], "d1": [1.0, 2.0]}))
    with pytest.raises(InputDataError, match=r"row 1: .*nan in column 0"):
        list(open_embeddings(path).blocks())


def features(**columns):
    """What data sets of Hugging Face write beside a schema."""
    return {b"huggingface": json.dumps({"info": {"features": columns}}).encode()}


CLASSES = {"names": ["lost card", "top up"], "_type": "ClassLabel"}


@SUFFIXES
def test_classes_are_their_names(tmp_path, read_all, suffix):
    path = tmp_path / f"a{suffix}"
    table = pa.table({"v": [[1.0]] * 3, "label": [1, 0, 1]})
    write_table(path, table.replace_schema_metadata(features(label=CLASSES)))
    names = ["top up", "lost card", "top up"]
    assert read_columns(path, ["label"]) == {"label": names}
    assert read_all(open_embeddings(path))[1] == names


def test_classes_of_a_data_set(tmp_path):
    data_set = datasets.Dataset.from_dict(
        {"label": [1, 0, 1]}, datasets.Features({"label": datasets.ClassLabel(names=["x", "y"])})
    )
    data_set.save_to_disk(tmp_path / "a")
    data_set.to_parquet(tmp_path / "a.parquet")
    for path in (tmp_path / "a", tmp_path / "a.parquet"):
        assert read_columns(path, ["label"]) == {"label": ["y", "x", "y"]}


@pytest.mark.parametrize(
    ("number", "message"), [(-1, "row 1: a text is empty"), (2, "has no texts")]
)
def test_a_class_without_a_name(tmp_path, number, message):
    path = tmp_path / "a.parquet"
    table = pa.table({"label": [0, number]})
    write_table(path, table.replace_schema_metadata(features(label=CLASSES)))
    with pytest.raises(InputDataError, match=message):
        read_columns(path, ["label"])


@pytest.mark.parametrize(
    "metadata",
    [
        {b"huggingface": b"{"},
        {b"huggingface": b"[]"},
        {b"huggingface": b'{"info": {"features": {"label": {"names": [1, 2]}}}}'},
        {b"huggingface": b'{"info": {"features": {"label": {"names": "ab"}}}}'},
        {b"huggingface": b'{"info": {"features": {"label": 1}}}'},
        {b"huggingface": b"[" * 100_000},
        features(text=CLASSES),
    ],
)
def test_odd_metadata_names_no_classes(tmp_path, metadata):
    path = tmp_path / "a.parquet"
    table = pa.table({"label": [0, 1], "text": ["a", "b"]})
    write_table(path, table.replace_schema_metadata(metadata))
    assert read_columns(path, ["label", "text"]) == {"label": ["0", "1"], "text": ["a", "b"]}
