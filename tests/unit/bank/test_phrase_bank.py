"""Opening, reading and verifying a bank; refusing one that was cut or altered."""

from __future__ import annotations

import os
import pickle

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lightweight_decoder.bank import PhraseBank, phrase_bank
from lightweight_decoder.datatypes import NO_ID
from lightweight_decoder.errors import BankError

FILES = ["vectors.npy", "owners.npy", "phrases.arrow"]


def test_counts_and_arrays(bank, vectors):
    assert (bank.num_vectors, bank.num_phrases, bank.dim) == (7, 4, 5)
    assert bank.owners.tolist() == [0, 1, 2, 0, 3, 1, 0]
    expected = vectors / np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    np.testing.assert_allclose(bank.vectors, expected, atol=1e-6)


def test_mapped_vectors_can_be_shared_with_torch_and_never_change_the_file(bank):
    before = (bank.path / "vectors.npy").read_bytes()
    torch.from_numpy(bank.vectors)[0] = 5  # no warning about a read-only array either
    assert (bank.path / "vectors.npy").read_bytes() == before


def test_texts_come_back_in_the_shape_of_the_ids(bank):
    assert bank.texts([3, 0, 3]) == ["deep blue sea", "red", "deep blue sea"]
    assert bank.texts(np.array([[1, 2], [NO_ID, 0]])) == [["green", "blue"], ["", "red"]]
    assert bank.texts([]) == []


@pytest.mark.parametrize("wrong", [-2, 4])
def test_texts_of_unknown_phrases_are_refused(bank, wrong):
    with pytest.raises(BankError, match=rf"expected a phrase id from 0 to 3, found {wrong}"):
        bank.texts([0, wrong])


def test_metadata_of_the_first_appearance(bank):
    assert bank.column("frequency", np.array([3, 0, 3])).tolist() == [3, 7, 3]
    assert bank.column("source", np.array([], dtype=np.int64)).tolist() == []
    with pytest.raises(BankError, match=r"phrase id from 0 to 3, found 4"):
        bank.column("source", np.array([1, 4]))
    assert bank.column_names == ("frequency", "source")
    assert bank.column("frequency").tolist() == [7, 6, 5, 3]
    assert bank.column("source").tolist() == ["a", "b", "c", "e"]


def test_an_unknown_column_is_refused_with_those_there_are(bank):
    with pytest.raises(BankError, match=r"expected one of frequency, source, found size"):
        bank.column("size")


def test_find_normalizes_as_the_build_did(bank):
    found = bank.find(["deep\u00a0blue\nsea ", "purple", "green", "green", "", "\ud800"])
    assert found.tolist() == [3, NO_ID, 1, 1, NO_ID, NO_ID]
    assert bank.find([]).shape == (0,)


def test_texts_and_find_across_record_batches(tmp_path):
    num_phrases = 40_000
    texts = [f"phrase {i}" for i in range(num_phrases)]
    ones = np.ones((num_phrases, 1), dtype=np.float32)
    bank = PhraseBank.build(tmp_path / "bank", texts, ones, metadata={"row": range(num_phrases)})
    ids = np.random.default_rng(0).integers(num_phrases, size=(50, 3))
    assert bank.texts(ids) == [[texts[i] for i in row] for row in ids]
    assert bank.find([texts[i] for i in ids[:, 0]]).tolist() == ids[:, 0].tolist()
    assert bank.column("row").tolist() == list(range(num_phrases))


def test_vectors_of_phrases_are_padded(bank):
    expected = [[0, 3, 6], [NO_ID] * 3, [2, NO_ID, NO_ID], [1, 5, NO_ID]]
    assert bank.vector_ids_of([0, NO_ID, 2, 1]).tolist() == expected
    assert bank.vector_ids_of([2, 3]).tolist() == [[2], [4]]
    assert bank.vector_ids_of([]).shape == (0, 0)
    with pytest.raises(BankError, match=r"entry 1: .*phrase id from 0 to 3, found 4"):
        bank.vector_ids_of([0, 4])


def test_vectors_of_phrases_that_come_in_order(tmp_path, vectors):
    bank = PhraseBank.build(tmp_path / "bank", list("aabbbcd"), vectors)
    assert bank.vector_ids_of([1, 0]).tolist() == [[2, 3, 4], [0, 1, NO_ID]]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_gather_reads_rows(tmp_path, texts, vectors, dtype):
    bank = PhraseBank.build(tmp_path / "bank", texts, vectors, dtype=dtype)
    found = bank.gather(torch.tensor([[6, NO_ID], [0, 6]]))
    assert found.dtype == torch.float32
    rows = bank.vectors.astype(np.float32)
    np.testing.assert_array_equal(found, [[rows[6], np.zeros(5)], [rows[0], rows[6]]])


@pytest.mark.parametrize("wrong", [-2, 7])
def test_gather_refuses_unknown_vectors(bank, wrong):
    with pytest.raises(BankError, match=rf"entry 1: .*vector id from 0 to 6, found {wrong}"):
        bank.gather(torch.tensor([0, wrong]))


def test_pickling_maps_the_files_again(bank):
    copied = pickle.loads(pickle.dumps(bank))  # noqa: S301, our own bytes
    assert len(pickle.dumps(bank)) < 500
    assert copied.fingerprint == bank.fingerprint
    np.testing.assert_array_equal(copied.vectors, bank.vectors)


def test_a_pickle_is_of_the_bank_that_it_was_made_of(bank):
    pickled = pickle.dumps(bank)
    PhraseBank.build(bank.path, ["new"], np.ones((1, 5)), overwrite=True)
    with pytest.raises(BankError, match=r"bank: the bank was replaced since it was pickled"):
        pickle.loads(pickled)  # noqa: S301, our own bytes


@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
def test_a_pipe_is_refused_and_not_waited_for(bank, name):
    (bank.path / name).unlink()
    os.mkfifo(bank.path / name)
    with pytest.raises(BankError, match="found a pipe, no file"):
        PhraseBank.open(bank.path)


@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
def test_a_link_to_a_file_is_a_file(bank, tmp_path, name):
    (bank.path / name).rename(tmp_path / name)
    (bank.path / name).symlink_to(tmp_path / name)
    assert PhraseBank.open(bank.path).fingerprint == bank.fingerprint


def test_fingerprint_follows_the_content(tmp_path, texts, vectors):
    def fingerprint(name, texts, vectors):
        return PhraseBank.build(tmp_path / name, texts, vectors).fingerprint

    same = fingerprint("a", texts, vectors)
    assert fingerprint("b", texts, vectors) == same
    assert fingerprint("c", [*texts[:-1], "pink"], vectors) != same
    assert fingerprint("d", texts, vectors + 0.1) != same


def test_a_missing_bank_is_refused(tmp_path):
    with pytest.raises(BankError, match=r"nowhere: there is no phrase bank here"):
        PhraseBank.open(tmp_path / "nowhere")


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_refused(bank, name):
    (bank.path / name).unlink()
    with pytest.raises(BankError, match=rf"{name}: .*expected \d+ bytes, found No such file"):
        PhraseBank.open(bank.path)


@pytest.mark.parametrize("name", FILES)
@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_a_file_cut_anywhere_is_refused(bank, name, data):
    whole = (bank.path / name).read_bytes()
    kept = data.draw(st.integers(0, len(whole) - 1))
    (bank.path / name).write_bytes(whole[:kept])
    try:
        with pytest.raises(BankError, match=rf"expected {len(whole)} bytes, found {kept} bytes"):
            PhraseBank.open(bank.path)
    finally:
        (bank.path / name).write_bytes(whole)


@pytest.mark.parametrize("name", FILES)
def test_a_file_with_one_other_byte_is_refused(bank, name):
    content = bytearray((bank.path / name).read_bytes())
    content[len(content) // 2] ^= 1
    (bank.path / name).write_bytes(content)
    with pytest.raises(BankError, match=rf"{name}: .*expected sha256 \w+, found sha256 \w+"):
        PhraseBank.open(bank.path)


def test_a_large_bank_is_opened_without_reading_it_and_verify_reads_it(bank, monkeypatch):
    monkeypatch.setattr(phrase_bank, "CHECKSUM_LIMIT_BYTES", 100)
    content = bytearray((bank.path / "vectors.npy").read_bytes())
    content[-1] ^= 1
    (bank.path / "vectors.npy").write_bytes(content)
    opened = PhraseBank.open(bank.path)
    with pytest.raises(BankError, match=r"vectors\.npy, bytes 0 to 267: .*crc32"):
        opened.verify()


def test_verify_accepts_what_a_build_wrote(bank, tmp_path, texts, vectors):
    bank.verify()
    PhraseBank.build(tmp_path / "half", texts, vectors, dtype="float16").verify()


@pytest.mark.parametrize(
    ("row", "value", "found"),
    [(2, np.nan, "length nan"), (4, np.inf, "length inf"), (6, 0, r"length 0\."), (1, 2, "length")],
)
def test_verify_names_a_vector_that_is_not_of_unit_length(bank, reseal, row, value, found):
    vectors = np.load(bank.path / "vectors.npy")
    vectors[row] = value
    np.save(bank.path / "vectors.npy", vectors)
    reseal(bank.path)
    with pytest.raises(BankError, match=rf"vectors\.npy, row {row}: .*found {found}"):
        PhraseBank.open(bank.path).verify()


@pytest.mark.parametrize("owner", [-1, 4])
def test_verify_names_an_owner_out_of_range(bank, reseal, owner):
    np.save(bank.path / "owners.npy", np.array([0, 1, 2, owner, 3, 1, 0]))
    reseal(bank.path)
    with pytest.raises(BankError, match=rf"owners\.npy, row 3: .*from 0 to 3, found {owner}"):
        PhraseBank.open(bank.path).verify()


def test_verify_names_a_phrase_without_vectors(bank, reseal):
    np.save(bank.path / "owners.npy", np.array([0, 1, 1, 0, 3, 1, 0]))
    reseal(bank.path)
    with pytest.raises(BankError, match=r"phrases\.arrow, row 2: .*found none in owners\.npy"):
        PhraseBank.open(bank.path).verify()


@pytest.mark.parametrize(
    ("array", "found"),
    [
        (np.zeros((7, 6), np.float32), r"shape \(7, 6\) of float32"),
        (np.zeros((7, 5), np.float64), r"shape \(7, 5\) of float64"),
        (np.zeros((5, 7), np.float32).T, r"shape \(7, 5\) of float32 stored by columns"),
    ],
)
def test_an_array_that_is_not_the_promised_one_is_refused(bank, reseal, array, found):
    np.save(bank.path / "vectors.npy", array)
    reseal(bank.path)
    expected = r"expected shape \(7, 5\) of float32"
    with pytest.raises(BankError, match=rf"vectors\.npy: .*{expected}, found {found}"):
        PhraseBank.open(bank.path)


class Trap:
    """Leaves a trace when it is unpickled."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return open, (str(self.trace), "w")


@pytest.mark.parametrize("how", ["object array", "pickle"])
def test_a_pickle_is_refused_and_not_run(bank, reseal, tmp_path, how):
    trap = Trap(tmp_path / "trace")
    path = bank.path / "owners.npy"
    if how == "pickle":
        path.write_bytes(pickle.dumps(trap))
    else:
        np.save(path, np.array([trap] * 7, dtype=object), allow_pickle=True)
    reseal(bank.path)
    with pytest.raises(BankError, match=r"owners\.npy: .*the array does not match the manifest"):
        PhraseBank.open(bank.path)
    assert not (tmp_path / "trace").exists()


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(position=st.integers(0, 127), byte=st.integers(0, 255))
def test_any_npy_header_is_read_or_refused(bank, reseal, position, byte):
    path = bank.path / "vectors.npy"
    whole = path.read_bytes()
    path.write_bytes(whole[:position] + bytes([byte]) + whole[position + 1 :])
    reseal(bank.path)
    try:
        PhraseBank.open(bank.path)
    except BankError as error:
        assert error.where == str(path)  # noqa: PT017, either outcome is right
    finally:
        path.write_bytes(whole)


def write_table(path, table):
    with pa.ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(table)


def texts_column(*texts):
    return pa.array(texts, type=pa.large_string())


@pytest.mark.parametrize(
    ("table", "found"),
    [
        ({"text": texts_column("a", "b", "c")}, "3 rows"),
        ({"word": texts_column("a", "b", "c", "d")}, "word: large_string"),
        ({"text": pa.array([1, 2, 3, 4])}, "text: int64"),
    ],
)
def test_a_phrase_table_that_is_not_the_promised_one_is_refused(bank, reseal, table, found):
    write_table(bank.path / "phrases.arrow", pa.table(table))
    reseal(bank.path)
    with pytest.raises(BankError, match=rf"phrases\.arrow: .*found.* {found}"):
        PhraseBank.open(bank.path)


@pytest.mark.parametrize(
    ("damaged", "row", "found"),
    [
        (("a", "b", "a", "d"), 2, "'a', also in row 0"),
        (("a", "b", "c", None), 3, "None"),
        (("a", "", "c", "d"), 1, "''"),
        (("a", "b", "c ", "d"), 2, "'c '"),
    ],
)
def test_verify_names_a_text_that_no_build_would_write(bank, reseal, damaged, row, found):
    write_table(bank.path / "phrases.arrow", pa.table({"text": texts_column(*damaged)}))
    reseal(bank.path)
    with pytest.raises(BankError, match=rf"phrases\.arrow, row {row}: .*found {found}"):
        PhraseBank.open(bank.path).verify()


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_phrase_table_is_read_or_refused(bank, reseal, data):
    path = bank.path / "phrases.arrow"
    whole = path.read_bytes()
    position = data.draw(st.integers(0, len(whole) - 1))
    byte = data.draw(st.integers(0, 255))
    path.write_bytes(whole[:position] + bytes([byte]) + whole[position + 1 :])
    reseal(bank.path)
    try:
        opened = PhraseBank.open(bank.path)
        opened.texts(np.arange(4))
        for name in opened.column_names:
            opened.column(name)
    except BankError as error:
        assert error.where == str(path)  # noqa: PT017, either outcome is right
    finally:
        path.write_bytes(whole)
