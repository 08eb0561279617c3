"""CSV: layouts, delimiters, and cells that are no vectors."""

from __future__ import annotations

import numpy as np
import pytest

from lightweight_decoder.errors import InputDataError
from lightweight_decoder.vectors import open_embeddings


@pytest.fixture
def write(tmp_path):
    def write_to(content, name="a.csv"):
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write_to


@pytest.mark.parametrize(
    ("content", "vectors", "texts"),
    [
        ('text,v\na,"[1, 2]"\n"b,\n""c""","[3,4.5]"\n', [[1, 2], [3, 4.5]], ["a", 'b,\n"c"']),
        ("v;text\n[1,2];a\n[3,4];b\n", [[1, 2], [3, 4]], ["a", "b"]),
        ("v\ttext\n[1,2]\ta\n", [[1, 2]], ["a"]),
        ("id,text,d1,d0\n7,a,1,2\n", [[2, 1]], ["a"]),
        ("text,0,1,2\na,1,2,3\n", [[1, 2, 3]], ["a"]),
        ("0,1,2\n4,5,6\n", [[4, 5, 6]], None),
        (",0,1\n0,4,5\n1,6,7\n", [[4, 5], [6, 7]], None),
        ("0.5,1,2\n4,5,6\n", [[0.5, 1, 2], [4, 5, 6]], None),
        ("\ufefftext,v\r\na,[1]\r\n", [[1]], ["a"]),
    ],
)
def test_layouts(write, read_all, content, vectors, texts):
    read_vectors, read_texts = read_all(open_embeddings(write(content)))
    np.testing.assert_array_equal(read_vectors, vectors)
    assert read_texts == texts


def test_whole_numbers_as_texts(write, read_all):
    path = write("label,v\n7,[1]\n8,[2]\n")
    assert not open_embeddings(path).has_texts
    assert read_all(open_embeddings(path, text_column="label"))[1] == ["7", "8"]


def test_prefix_of_numbered_columns(write, read_all):
    path = write("a_0,a_1,b_0,b_1,c_0,c_2\n1,2,3,4,5,6\n")
    with pytest.raises(InputDataError, match=r"which vectors.*'a_', 'b_'. Name.*vector_column"):
        open_embeddings(path)
    np.testing.assert_array_equal(read_all(open_embeddings(path, vector_column="b_"))[0], [[3, 4]])


def test_texts_that_look_like_nothing_stay(write, read_all):
    path = write("text,v\nNA,[1]\n,[2]\nnull,[3]\n")
    assert read_all(open_embeddings(path))[1] == ["NA", "", "null"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('v\n"[1,2]"\n"[3,4"\n', "row 1: a vector cannot be read: expected a list.*'\\[3,4'"),
        ('v\n"[1,2]"\n"[[3],[4]]"\n', "row 1: a vector cannot be read: expected a list"),
        ('v\n"[1,2]"\n""\n', r"row 1: .*found nothing \(null\)"),
        ('v\n"[1,2]"\n"[3]"\n', "row 1: .*expected 2 numbers.*found 1 numbers"),
        ('v\n"[1,2]"\n"[3,]"\n', "row 1: a vector cannot be read: expected numbers only, found ''"),
        (
            'v\n"[1,2]"\n"[3,x]"\n',
            "row 1: .*expected numbers only, found 'x'",
        ),
        ('v\n"[1,2]"\n"[3,nan]"\n', "row 1: .*nan in column 1"),
        ('v\n"[1,2]"\n"[3,null]"\n', "row 1: .*nan in column 1"),
        ("d0,d1\n1,2\n3\n", "row 1: the rows differ in length: expected 2 cells.*found 1: '3'"),
        ("d0,d1\n1,2\n3,4,5\n", "row 1: the rows differ in length: expected 2 cells.*found 3"),
        ("d0,d1\n1,2\n3,x\n", "row 1: the column 'd1' is not all numbers: .*found 'x'"),
        ("d0,d1\n1,2\n3,\n", "row 1: .*nan in column 1"),
        ("d0,d1\n1,2\n3,NA\n", "row 1: .*nan in column 1"),
        ("d0,d1\n1,2\n0,0\n", "row 1: .*only zeros"),
        ("d0,d1\n1,2\n3,4", "last line has no end"),
        ("d0,d1\n", "the table is empty"),
        ("\n\n", "the table is empty"),
        ("text,score\na,1\n", "no entry that could hold embeddings"),
        (b'text,v\n\xff,"[1]"\n', "row 0: the text is not valid UTF-8"),
        (b'\xff,v\na,"[1]"\n', "line 1: the text is not valid UTF-8"),
        ("v,v\n[1],[2]\n", "there are several columns 'v'"),
        ("text,,\na,1,2\n", "no entry that could hold embeddings"),  # found by fuzzing
    ],
)
def test_bad_table_is_refused(write, content, message):
    with pytest.raises(InputDataError, match=message):
        list(open_embeddings(write(content)).blocks())


def test_content_tells_csv_without_its_suffix(write, read_all):
    path = write("text,d0,d1\na,1,2\n", name="a")
    np.testing.assert_array_equal(read_all(open_embeddings(path))[0], [[1, 2]])
