"""Word vectors as text and in word2vec's binary file."""

from __future__ import annotations

import gzip
import tracemalloc

import numpy as np
import pytest

from lightweight_decoder.errors import InputDataError
from lightweight_decoder.vectors import open_embeddings


@pytest.fixture
def write(tmp_path):
    def write_to(content, name="a.txt"):
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write_to


@pytest.mark.parametrize("header", ["", "3 2\n"], ids=["glove", "word2vec"])
def test_last_fields_are_the_vector(write, read_all, header):
    path = write(f"{header}at name@domain.com 1 2\nthe 3 4\n. . . -5e-1 6\n")
    vectors, texts = read_all(open_embeddings(path))
    np.testing.assert_array_equal(vectors, [[1, 2], [3, 4], [-0.5, 6]])
    assert texts == ["at name@domain.com", "the", ". . ."]


def test_with_a_header_tokens_may_be_numbers(write, read_all):
    vectors, texts = read_all(open_embeddings(write("2 2\n2024 1 2\npage 7 3 4\n")))
    np.testing.assert_array_equal(vectors, [[1, 2], [3, 4]])
    assert texts == ["2024", "page 7"]


def test_with_a_header_a_token_may_be_empty(write, read_all):
    assert read_all(open_embeddings(write("2 2\nb 3 4\n 1 2\n")))[1] == ["b", ""]


def test_numbers_beyond_float32_keep_their_direction(write, read_all):
    vectors = read_all(open_embeddings(write("a 1e200 0\n")))[0]
    np.testing.assert_array_equal(vectors / vectors.max(), [[1, 0]])


def test_duplicate_tokens_are_rows_of_their_own(write, read_all):
    assert read_all(open_embeddings(write("a 1 2\nb 3 4\na 5 6\n")))[1] == ["a", "b", "a"]


def test_windows_line_ends_and_spaces_at_the_end(write, read_all):
    vectors, texts = read_all(open_embeddings(write("a 1 2 \r\nb 3 4\r\n")))
    np.testing.assert_array_equal(vectors, [[1, 2], [3, 4]])
    assert texts == ["a", "b"]


@pytest.mark.parametrize("header", ["", "3 2\n", "3\t2\n"], ids=["none", "space", "tab"])
@pytest.mark.parametrize(
    "lines",
    [
        "a\t1 2\nb c\t3 4\nd\t-5 6\n",
        "a\t1\t2\nb c\t3\t4\nd\t-5\t6\n",
        "a  1  2\nb c  3  4\nd -5  6\n",
        "a 1 2  \nb c   3\t4\t\nd\t -5 6 \r\n",
    ],
)
def test_white_space_of_any_kind_separates(write, read_all, header, lines):
    vectors, texts = read_all(open_embeddings(write(header + lines)))
    np.testing.assert_array_equal(vectors, [[1, 2], [3, 4], [-5, 6]])
    assert texts == ["a", "b c", "d"]


def test_numbers_are_rounded_once(write, read_all):
    numbers = np.random.default_rng(0).standard_normal((50, 4)).astype(np.float32)
    lines = "".join(f"w {' '.join(f'{float(n):.25g}' for n in row)}\n" for row in numbers)
    np.testing.assert_array_equal(read_all(open_embeddings(write(lines)))[0], numbers)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a 1 2\nb 3\n", "line 2: the vectors differ in width.*expected a token and 2"),
        ("a 1 2\nb 3 4 5\n", "line 2: the vectors differ in width.*found 4 fields"),
        ("2 2\na 1 2\nb 3\n", "line 3: the vectors differ in width.*found 2 fields"),
        ("2 2\na 1 2\nb 3 x\n", "line 3: this is not a number.*found b'x'"),
        ("a 1 2\nb  3\n", "line 2: the vectors differ in width.*found 2 fields"),
        ("a 1 2\nb 1_0 3\n", "line 2: this is not a number.*found b'1_0'"),
        ("a 1 2\nb nan 3\n", "row 1: .*nan in column 0"),
        ("a 1 2\nb 0 0\n", "row 1: .*only zeros"),
        ("a 1 2\nb 3 4", "last line has no end"),
        ("3 2\na 1 2\nb 3 4\n", "expected 3 rows, found 2 rows"),
        ("1 2\na 1 2\nb 3 4\n", "expected 1 rows, found 2 or more"),
        ("1000000000000000 2\na 1 2\n", "header promises more than there is"),
        ("99999999999999999999999 2\na 1 2\n", "not supported|differ|could be vectors"),
        ("0 2\na 1 2\n", "there are no vectors"),
        ("1 0\na\n", "width of the vectors"),
        ("1 9999999\na 1\n", "width of the vectors"),
        ("2 2\n", "header promises more"),
        ("1 2\n3 4\n", "header promises more|binary|width|number of rows"),
        ("0.1 0.2 0.3\n0.4 0.5 0.6\n", "vectors without tokens"),
        (b"a 1 2\n\xff\xfe 3 4\n", r"line 2: a token is not valid UTF-8.*\\xff\\xfe"),
    ],
)
def test_bad_text_is_refused(write, content, message):
    with pytest.raises(InputDataError, match=message):
        list(open_embeddings(write(content)).blocks())


def test_header_that_lies_inside_gzip_is_refused(write):
    path = write(gzip.compress(b"1000000000000000 2\na 1 2\n"))
    with pytest.raises(InputDataError, match="expected 1000000000000000 rows, found 1 rows"):
        list(open_embeddings(path).blocks())


@pytest.mark.parametrize("start", [b"a 1 2\nb ", b"1 2\nb "])
def test_endless_line_is_refused_in_bounded_memory(write, start):
    path = write(gzip.compress(start + b"1" * 50_000_000, compresslevel=1))
    tracemalloc.start()
    with pytest.raises(InputDataError, match=r"a line is too long|found 2 or more"):
        list(open_embeddings(path).blocks())
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 20e6


def binary(rows, *, end=b"\n", header=None):
    content = b"".join(token + b" " + np.array(row, "<f4").tobytes() + end for token, row in rows)
    return (header or b"%d %d\n" % (len(rows), len(rows[0][1]))) + content


ROWS = [(b"the", [1, 2]), ("naïve".encode(), [3, 4]), (b"the", [-5, 6])]


@pytest.mark.parametrize("end", [b"\n", b""], ids=["word2vec", "gensim"])
@pytest.mark.parametrize("block_rows", [1, 2, None])
def test_binary_with_and_without_line_ends(write, read_all, end, block_rows):
    reader = open_embeddings(write(binary(ROWS, end=end)))
    assert (reader.num_rows, reader.dim, reader.dtype) == (3, 2, "float32")
    vectors, texts = read_all(reader, block_rows=block_rows)
    np.testing.assert_array_equal(vectors, [[1, 2], [3, 4], [-5, 6]])
    assert texts == ["the", "naïve", "the"]


def test_binary_larger_than_the_buffer(write, read_all):
    vectors = np.random.default_rng(0).standard_normal((700, 1000)).astype(np.float32)
    rows = [(b"w" * (row % 50), vector) for row, vector in enumerate(vectors)]
    read_vectors, texts = read_all(open_embeddings(write(binary(rows))))
    np.testing.assert_array_equal(read_vectors, vectors)
    assert texts == [token.decode() for token, _ in rows]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (binary(ROWS)[:-3], "expected 3 rows, found 2 rows"),
        (binary(ROWS) + b"more", "expected 3 rows, found 4 or more"),
        (binary(ROWS, header=b"1000000000000000 2\n"), "header promises more than there is"),
        (binary(ROWS, header=b"4 2\n"), "header promises more|found 3 rows"),
        (binary(ROWS, header=b"2 2\n"), "expected 2 rows, found 3 or more"),
        (binary([(b"a", [1, 2]), (b"\xff", [3, 4])]), "row 1: a token is not valid UTF-8"),
        (binary([(b"a", [1, 2]), (b"b", [np.inf, 4])]), "row 1: .*inf in column 0"),
        (binary([(b"a", [0, 0])]), "row 0: .*only zeros"),
        (b"1 2\n" + b"\0" * 5_000_000, "expected 1 rows, found 0 rows"),
    ],
)
def test_bad_binary_is_refused(write, content, message):
    with pytest.raises(InputDataError, match=message):
        list(open_embeddings(write(content)).blocks())
