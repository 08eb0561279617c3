"""CSV: layouts, delimiters, and cells that are no vectors."""

from __future__ import annotations

import csv
import re

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lightweight_decoder.errors import InputDataError
from lightweight_decoder.vectors import csv_dialect, open_embeddings, streams
from lightweight_decoder.vectors.text_tables import stream_columns


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
        ("text,v\ra,[1]\rb,[2]\r", [[1], [2]], ["a", "b"]),
        ("text,v\nä,[1]\n".encode("utf-16"), [[1]], ["ä"]),
        (b"\xfe\xff" + "text,v\nä,[1]\n".encode("utf-16-be"), [[1]], ["ä"]),
        # vectors as others spell them
        ('text,v\na,"[ 0.5  2. \n 3. ]"\nb,[1. 2. 3.]\n', [[0.5, 2, 3], [1, 2, 3]], ["a", "b"]),
        ('text,v\na,"array([0.5, 2.], dtype=float32)"\n', [[0.5, 2]], ["a"]),
        ("text,v\na,\"tensor([0.5, 2.], device='cuda:0')\"\n", [[0.5, 2]], ["a"]),
        ('text,v\na,"(0.5, 2)"\nb,"{3,4}"\n', [[0.5, 2], [3, 4]], ["a", "b"]),
        ('text,v\na,"[np.float64(0.5), np.float64(2)]"\n', [[0.5, 2]], ["a"]),
        ("text,v\na,0.5 2\nb,3.0 4\n", [[0.5, 2], [3, 4]], ["a", "b"]),
        ("text,v\na,AACAPwAAAEA=\nb,AABAQAAAgD8=\n", [[1, 2], [3, 1]], ["a", "b"]),
        # a first line that is data
        ('"[1,2]"\n"[3,4]"\n', [[1, 2], [3, 4]], None),
        ('salt,"[1,2]"\npepper,"[3,4]"\n', [[1, 2], [3, 4]], ["salt", "pepper"]),
        ("7;salt;[1,2]\n9;pepper;[3,4]\n", [[1, 2], [3, 4]], ["salt", "pepper"]),
        ("salt,0.5,2\npepper,3,4\n", [[0.5, 2], [3, 4]], ["salt", "pepper"]),
        ("0.5 2\n3.0 4\n", [[0.5, 2], [3, 4]], None),
        ("a,5,7,3\nb,1,1,1\n", [[5, 7, 3], [1, 1, 1]], ["a", "b"]),
        # one that is names
        ("text,5,7\na,0.5,2\n", None, None),
        ("text,2019,2020,2021\na,5,2,1\n", [[5, 2, 1]], ["a"]),
        ("# a0, a1, a2\n1,2,3\n", [[1, 2, 3]], None),
        ("#a0\ta1\n1\t2\n", [[1, 2]], None),
        # row numbers
        ("0,0.5,2\n1,3,4\n", [[0.5, 2], [3, 4]], None),
        ("1,salt,0.5,2\n2,pepper,3,4\n", [[0.5, 2], [3, 4]], ["salt", "pepper"]),
        ("3,0.5,2\n4,3,4\n", [[3, 0.5, 2], [4, 3, 4]], None),
        ("1,5,2\n2,3,4\n", [[1, 5, 2], [2, 3, 4]], None),
        ("31,0.5,2.5\n7,3.5,4.5\n", [[0.5, 2.5], [3.5, 4.5]], None),
        ("0,0.5,2.5\n0,3.5,4.5\n", [[0, 0.5, 2.5], [0, 3.5, 4.5]], None),
        # comments in front, as numpy writes them
        ("# made in May\n# a0,a1\n1,2\n", [[1, 2]], None),
        ('# vectors; of; 2 "quoted\n0.5;2.5\n3;4\n', [[0.5, 2.5], [3, 4]], None),
        ("#love,0.5,2\n#hate,3,4\n", [[0.5, 2], [3, 4]], ["#love", "#hate"]),
        ("text,v[0],v[1]\na,1,2\n", [[1, 2]], ["a"]),
        # decimal commas, and what Excel adds
        ("text;d0;d1\na;0,5;-2\n", [[0.5, -2]], ["a"]),
        ("0,5;2,0\n3,0;4,5\n", [[0.5, 2], [3, 4.5]], None),
        ("sep=;\r\ntext;d0;d1\r\na, b;1;2\r\n", [[1, 2]], ["a, b"]),
        # texts that look like something else
        ("text,d0,d1\n1984,1,2\n2001,3,4\n", [[1, 2], [3, 4]], ["1984", "2001"]),
        ("id,day,v\n1,2024-01-31,[1]\n", [[1]], ["2024-01-31"]),
        ("answer,v\ntrue,[1]\nfalse,[2]\n", [[1], [2]], ["true", "false"]),
        ("title,day,ok,v\na,2024-01-31,true,[1]\n", [[1]], ["a"]),
        ("code,v\n01234,[1]\n1_001,[2]\n", [[1], [2]], ["01234", "1_001"]),
    ],
)
def test_layouts(write, read_all, content, vectors, texts):
    if vectors is None:
        with pytest.raises(InputDataError):
            open_embeddings(write(content))
        return
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
        ('v\n"[1,2]"\n""\n', r"row 1: .*nothing \(null\)"),
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
        ("text,score\na,1\n", "no column could hold the vectors.*'score' \\(number\\)"),
        ('text,v\na,"[0.1 0.2 ... 0.3]"\n', "row 0: .*found '...'. What printed the vectors left"),
        ("text,d0,d1,d3\na,1,2,3\n", "columns numbered without a gap"),
        ("text,d0,d00,d1\na,1,2,3\n", "columns numbered without a gap"),
        ("text,d0,d1\na,1,x\n", "columns numbered without a gap.*'d1' \\(text\\)"),
        ('text,d0,d1\n"a,1,2\nb,3,4\n', "line 2 or later: a quotation mark opens a cell"),
        ('text,d0,d1\na,1,2\n"b"c,3,4\n', "line 3: a quotation mark opens a cell"),
        (b'text,v\n\xff,"[1]"\n', "row 0: the text is not valid UTF-8"),
        (b'\xff,v\na,"[1]"\n', "line 1: the text is not valid UTF-8"),
        ("v,v\n[1],[2]\n", "there are several columns 'v'"),
        ("1,0.5,2.5\n1,3.5,4.5\n", "column_1: this column may hold labels.*found.*: 1, 1"),
        ("0.5,2.5,2\n3.5,4.5,0\n", "column_3: this column may hold labels"),
        ("text,,\na,1,2\n", "no column could hold the vectors"),  # found by fuzzing
    ],
)
def test_bad_table_is_refused(write, content, message):
    with pytest.raises(InputDataError, match=message):
        list(open_embeddings(write(content)).blocks())


def test_content_tells_csv_without_its_suffix(write, read_all):
    path = write("text,d0,d1\na,1,2\n", name="a")
    np.testing.assert_array_equal(read_all(open_embeddings(path))[0], [[1, 2]])


TSV = "text\ttopic\td0\td1\n"


@pytest.mark.parametrize(
    ("rows", "texts"),
    [
        # parts of the texts
        ('"no entry\tx\t1\t2\nhe said "later"\tx\t1\t2\n', ['"no entry', 'he said "later"']),
        ('3" pipe\tx\t1\t2\n"\tx\t1\t2\n', ['3" pipe', '"']),
        ('"whole"\tx\t1\t2\nb\tx\t1\t2\n', ['"whole"', "b"]),
        ('" mark\tx\t1\t2\n3"\tx\t1\t2\n', ['" mark', '3"']),
        ('"a ""b"" c"\tx\t1\t2\n"d\tx\t1\t2\n', ['"a ""b"" c"', '"d']),
        # around cells that need them
        ('"a ""b"""\tx\t1\t2\nc\tx\t1\t2\n', ['a "b"', "c"]),
        ('"a\nb"\tx\t1\t2\n"c\td"\tx\t1\t2\n', ["a\nb", "c\td"]),
        ('"a, b"\tx\t1\t2\nc\tx\t1\t2\n', ["a, b", "c"]),
    ],
)
def test_quotation_marks_between_tabs(write, read_all, rows, texts):
    vectors, read_texts = read_all(open_embeddings(write(TSV + rows, "a.tsv"), text_column="text"))
    assert read_texts == texts
    np.testing.assert_array_equal(vectors, [[1, 2], [1, 2]])


def test_quotation_marks_around_all_texts(write, read_all):
    rows = '"text"\t"d0"\t"d1"\n"a"\t1\t2\n"b"\t3\t4\n'
    assert read_all(open_embeddings(write(rows, "a.tsv")))[1] == ["a", "b"]


def test_a_mark_far_down_decides_for_the_whole_file(write, read_all, monkeypatch):
    monkeypatch.setattr(csv_dialect, "CHUNK_BYTES", 2**10)
    monkeypatch.setattr(streams, "CHUNK_BYTES", 2**10)
    rows = '"a, b"\tx\t1\t2\n' * 500 + '"open\tx\t1\t2\n'
    texts = read_all(open_embeddings(write(TSV + rows, "a.tsv"), text_column="text"))[1]
    assert texts == ['"a, b"'] * 500 + ['"open']


def test_texts_that_are_not_told_apart_are_asked_for(write):
    reader = open_embeddings(write("title,body,v\na,b,[1]\n"))
    assert (reader.has_texts, reader.text_choices) == (False, ["title", "body"])
    reader = open_embeddings(write("id,year,v\n1,1984,[1]\n"))
    assert (reader.has_texts, reader.text_choices) == (False, ["id", "year"])


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("text,d0,d1,score\na,1,2,3\n", "2 columns from 'd0' to 'd1'.*'score'"),
        ("0,0.5,2\n1,3,4\n", "column_1 numbers the rows"),
    ],
)
def test_columns_left_out_are_told(write, caplog, content, expected):
    with caplog.at_level("INFO"):
        open_embeddings(write(content))
    assert re.search(expected, caplog.text)


CELLS = st.text(st.sampled_from('ab"\t,;|\n 1.'), max_size=6)


@settings(deadline=None)
@given(
    rows=st.lists(st.lists(CELLS, min_size=3, max_size=3), min_size=1, max_size=12),
    dialect=st.sampled_from(csv_dialect.DELIMITERS),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    chunk=st.integers(1, 40),
)
def test_cells_are_those_that_were_written(tmp_path_factory, rows, dialect, quoting, chunk):
    path = tmp_path_factory.mktemp("csv") / ("a.tsv" if dialect == "\t" else "a.csv")
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=dialect, quoting=quoting, lineterminator="\n")
        writer.writerows([["one", "two", "three"], *rows])
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    num_tabs = {line.count("\t") for line in lines if line}
    # where line ends in cells break no line too short, the marks around them are parts of texts
    assume(dialect != "\t" or len(lines) == 1 + len(rows) or num_tabs != {2})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams, "CHUNK_BYTES", chunk)
        blocks = list(stream_columns(path, ["three", "one"], may_be_blank=["one", "three"]))
    read = [row for block in blocks for row in zip(block["one"], block["three"], strict=True)]
    assert read == [(row[0], row[2]) for row in rows]
