"""Building a bank: what is written, what is refused, and that nothing half-made stays."""

from __future__ import annotations

import errno
import json
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lightweight_decoder.bank import BankRows, EncoderInfo, PhraseBank, write_bank
from lightweight_decoder.errors import BankBuildError


def build_from(folder, rows, **options):
    """Build a bank from blocks, and open it."""
    write_bank(folder, rows, **options)
    return PhraseBank.open(folder)


def ones(num_rows, dim=2):
    return np.ones((num_rows, dim), dtype=np.float32)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_blocks_are_put_behind_each_other(tmp_path, texts, vectors, dtype):
    blocks = [BankRows(texts[:3], vectors[:3]), BankRows(texts[3:], vectors[3:])]
    bank = build_from(tmp_path / "bank", blocks, dtype=dtype)
    whole = PhraseBank.build(tmp_path / "whole", texts, vectors, dtype=dtype)
    assert bank.vectors.dtype == dtype
    assert bank.texts(range(4)) == ["red", "green", "blue", "deep blue sea"]
    assert bank.fingerprint == whole.fingerprint
    expected = vectors / np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    tolerance = 1e-6 if dtype == "float32" else 2.0**-11
    np.testing.assert_allclose(bank.vectors.astype(np.float64), expected, atol=tolerance)


def test_the_encoder_is_kept(tmp_path):
    encoder = EncoderInfo("all-MiniLM-L6-v2", "0123")
    write_bank(tmp_path / "bank", [BankRows(["a"], ones(1))], encoder=encoder)
    assert PhraseBank.open(tmp_path / "bank").manifest.encoder == encoder


def test_an_empty_block_changes_nothing(tmp_path):
    blocks = [BankRows(["a"], ones(1)), BankRows([], ones(0)), BankRows(["b"], ones(1))]
    assert build_from(tmp_path / "bank", blocks).num_vectors == 2


def test_parents_are_made_and_nothing_else_is_left(tmp_path):
    PhraseBank.build(tmp_path / "some" / "where" / "bank", ["a"], ones(1))
    assert [path.name for path in (tmp_path / "some" / "where").iterdir()] == ["bank"]
    assert sorted(path.name for path in (tmp_path / "some" / "where" / "bank").iterdir()) == [
        "manifest.json",
        "owners.npy",
        "phrases.arrow",
        "vectors.npy",
    ]


def test_vectors_of_any_magnitude_are_scaled(tmp_path):
    vectors = np.array([[3e38, 3e38], [1e-40, 0], [3, -4], [3e200, 4e200], [-5e-320, 0]])
    bank = PhraseBank.build(tmp_path / "bank", list("abcde"), vectors)
    expected = [[0.5**0.5, 0.5**0.5], [1, 0], [0.6, -0.8], [0.6, 0.8], [-1, 0]]
    np.testing.assert_allclose(bank.vectors, expected, rtol=1e-6)


def test_the_caller_s_vectors_are_not_changed(tmp_path, texts, vectors):
    before = vectors.copy()
    vectors.flags.writeable = False
    PhraseBank.build(tmp_path / "bank", texts, vectors)
    np.testing.assert_array_equal(vectors, before)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(texts=st.lists(st.text(min_size=1, max_size=4).filter(str.strip), min_size=1, max_size=20))
def test_any_texts_are_kept_in_order(tmp_path, texts):
    vectors = ones(len(texts))
    bank = PhraseBank.build(tmp_path / "bank", texts, vectors, overwrite=True)
    bank.verify()
    assert bank.find(texts).tolist() == bank.owners.tolist()
    first_rows = [bank.owners.tolist().index(i) for i in range(bank.num_phrases)]
    assert first_rows == sorted(first_rows)


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ([np.nan, 1], "nan in column 0"),
        ([1, -np.inf], "-inf in column 1"),
        ([0, 0], "only zeros"),
    ],
)
def test_a_vector_without_direction_is_refused_by_its_row(tmp_path, values, found):
    bad = ones(5).astype(np.float64)
    bad[3] = values
    blocks = [BankRows(list("abcd"), ones(4)), BankRows(list("efghi"), bad)]
    with pytest.raises(BankBuildError, match=rf"row 7: .*found {found}"):
        build_from(tmp_path / "bank", blocks)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["", " \n\u00a0", None, 5, b"bytes", "\ud800"])
def test_a_text_that_cannot_be_a_phrase_is_refused_by_its_row(tmp_path, text):
    blocks = [BankRows(["a", "b"], ones(2)), BankRows(["c", text], ones(2))]
    with pytest.raises(BankBuildError, match=r"row 3: a text cannot be a phrase"):
        build_from(tmp_path / "bank", blocks)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("blocks", [[], [BankRows([], ones(0))]])
def test_no_rows_are_refused(tmp_path, blocks):
    with pytest.raises(BankBuildError, match="expected at least one row, found none"):
        build_from(tmp_path / "bank", blocks)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (BankRows(["b"], ones(1, dim=3)), r"rows from 1: .*expected \(rows, 2\), found \(1, 3\)"),
        (BankRows(["b"], np.ones(2)), r"rows from 1: .*expected \(rows, 2\), found \(2,\)"),
        (BankRows(["b", "c"], ones(1)), r"rows from 1: .*expected 1 texts .*, found 2"),
        (BankRows(["b", "c"], [[1, 2], [3]]), r"rows from 1: .*not an array of numbers"),
        (BankRows(["b"], [["x", "y"]]), r"rows from 1: .*not an array of numbers"),
        (BankRows(["b"], ones(1), {"size": [1]}), r"rows from 1: the metadata columns change"),
    ],
)
def test_a_block_that_does_not_go_with_the_others_is_refused(tmp_path, block, message):
    with pytest.raises(BankBuildError, match=message):
        build_from(tmp_path / "bank", [BankRows(["a"], ones(1)), block])
    assert list(tmp_path.iterdir()) == []


def test_vectors_without_width_are_refused(tmp_path):
    with pytest.raises(BankBuildError, match=r"expected \(rows, width\), found \(1, 0\)"):
        PhraseBank.build(tmp_path / "bank", ["a"], ones(1, dim=0))


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"text": ["x", "y"]}, "may not be called 'text'"),
        ({"size": [1]}, "'size' has another length: expected 2 values .*, found 1"),
        (
            {"size": [1, "two"]},
            "row 1: a value does not fit .* 'size': expected int64, found 'two'",
        ),
        ({"size": [object(), 1]}, "row 0: .*'size': expected a number, a text"),
    ],
)
def test_metadata_that_does_not_fit_is_refused(tmp_path, metadata, message):
    with pytest.raises(BankBuildError, match=message):
        PhraseBank.build(tmp_path / "bank", ["a", "b"], ones(2), metadata=metadata)
    assert list(tmp_path.iterdir()) == []


def test_missing_metadata(tmp_path):
    metadata = {"size": [1.5, None], "source": [None, None]}
    bank = PhraseBank.build(tmp_path / "bank", ["a", "b"], ones(2), metadata=metadata)
    np.testing.assert_array_equal(bank.column("size"), [1.5, np.nan])
    assert bank.column("source").tolist() == [None, None]


def test_an_existing_bank_is_kept_unless_it_may_be_replaced(tmp_path, bank):
    rows = [BankRows(["new"], ones(1))]
    with pytest.raises(BankBuildError, match=r"bank: the output exists already"):
        build_from(bank.path, rows)
    assert PhraseBank.open(bank.path).fingerprint == bank.fingerprint
    replaced = build_from(bank.path, rows, overwrite=True)
    assert replaced.texts([0]) == ["new"]
    assert bank.texts([0]) == ["red"]  # what is open stays readable
    assert [path.name for path in tmp_path.iterdir()] == ["bank"]


def test_a_failed_replacement_leaves_the_old_bank(tmp_path, bank):
    with pytest.raises(BankBuildError, match="row 0"):
        PhraseBank.build(bank.path, [""], ones(1), overwrite=True)
    assert PhraseBank.open(bank.path).fingerprint == bank.fingerprint
    assert [path.name for path in tmp_path.iterdir()] == ["bank"]


def test_an_output_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(BankBuildError, match=r"file/bank: the output folder cannot be written"):
        PhraseBank.build(tmp_path / "file" / "bank", ["a"], ones(1))


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError("the input's own"), ValueError])
def test_an_interrupted_input_passes_through_and_leaves_nothing(tmp_path, error):
    def rows():
        yield BankRows(["a"], ones(1))
        raise error

    with pytest.raises(error if isinstance(error, type) else type(error)):
        build_from(tmp_path / "bank", rows())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["vectors.npy", "owners.npy", "phrases.arrow"])
def test_a_full_disk_is_reported_by_file_and_leaves_nothing(tmp_path, monkeypatch, name):
    if not Path("/dev/full").exists():
        pytest.skip("needs a device that is always full")
    open_path = Path.open

    def open_full(path, *args, **options):
        return open_path(Path("/dev/full") if path.name == name else path, *args, **options)

    monkeypatch.setattr(Path, "open", open_full)
    rows = [BankRows([f"phrase {i}" for i in range(3000)], ones(3000, 30))]
    message = rf"{name}: the file cannot be written: expected room for [\d,]+ more bytes, found No"
    with pytest.raises(BankBuildError, match=message) as caught:
        build_from(tmp_path / "bank", rows)
    assert caught.value.__cause__.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []


def run_python(code, *arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def test_a_real_limit_on_file_size_is_reported_and_leaves_nothing(tmp_path):
    code = """
        import resource, sys
        import numpy as np
        from lightweight_decoder.bank import BankRows, write_bank
        from lightweight_decoder.errors import BankBuildError
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        rows = (BankRows([f"phrase {i}"], np.ones((1, 100))) for i in range(1000))
        try:
            write_bank(sys.argv[1], rows)
        except BankBuildError as error:
            print(error)
    """
    output, errors = run_python(code, tmp_path / "bank").communicate(timeout=120)
    assert "vectors.npy: the file cannot be written: expected room for" in output, errors
    assert "File too large" in output
    assert list(tmp_path.iterdir()) == []


def test_a_killed_build_leaves_what_the_next_one_replaces(tmp_path, caplog):
    code = """
        import sys, time
        import numpy as np
        from lightweight_decoder.bank import BankRows, write_bank
        def rows():
            yield BankRows(["a"], np.ones((1, 2)))
            print("writing", flush=True)
            time.sleep(100)
        write_bank(sys.argv[1], rows())
    """
    with run_python(code, tmp_path / "bank") as process:
        assert process.stdout.readline() == "writing\n"
        process.send_signal(signal.SIGKILL)
    assert [path.name for path in tmp_path.iterdir()] == [".bank.partial"]
    assert PhraseBank.build(tmp_path / "bank", ["a"], ones(1)).num_vectors == 1
    assert "removing what an interrupted build left" in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == ["bank"]


@pytest.mark.parametrize("overwrite", [True, False])
def test_the_second_of_two_builds_waits_for_the_first(tmp_path, caplog, overwrite):
    def rows():
        yield BankRows(["first"], ones(1))
        second.start()
        while "waiting for another process" not in caplog.text:
            time.sleep(0.01)

    def build_second():
        try:
            write_bank(tmp_path / "bank", [BankRows(["second"], ones(1))], overwrite=overwrite)
        except BankBuildError as error:
            errors.append(str(error))

    errors = []
    second = threading.Thread(target=build_second)
    write_bank(tmp_path / "bank", rows())
    second.join()
    assert PhraseBank.open(tmp_path / "bank").texts([0]) == ["second" if overwrite else "first"]
    assert ["exists already" in error for error in errors] == ([] if overwrite else [True])
    assert [path.name for path in tmp_path.iterdir()] == ["bank"]


def test_progress_is_shown_when_asked_for(tmp_path, capsys):
    rows = [BankRows(["a", "b"], ones(2))]
    build_from(tmp_path / "quiet", rows)
    assert capsys.readouterr() == ("", "")
    build_from(tmp_path / "loud", rows, show_progress=True, total=2)
    assert "2/2" in capsys.readouterr().out


def test_the_manifest_is_readable_by_people(bank):
    written = json.loads((bank.path / "manifest.json").read_text())
    assert written["fingerprint"] == bank.fingerprint
    assert written["manifest"]["num_phrases"] == 4
