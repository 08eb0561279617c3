from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import subprocess
import sys
from contextlib import closing

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lightweight_decoder.encoder import EmbeddingCache, embedding_cache

WRITER = """
import sys
from pathlib import Path
import numpy as np
from lightweight_decoder.encoder.embedding_cache import EmbeddingCache
cache, name = EmbeddingCache(Path(sys.argv[1])), sys.argv[2]
for chunk in range(30):
    texts = [f"{name} {chunk} {i}" for i in range(20)] + [f"both {chunk}"]
    cache.put(texts, np.full((21, 4), chunk, dtype=np.float32))
"""


def vectors_of(count, dim=4, seed=0):
    return np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)


@pytest.fixture
def cache(tmp_path):
    return EmbeddingCache(tmp_path / "folder" / "vectors.sqlite")


def assert_empty(found):
    places, vectors, _ = found
    assert len(places) == 0
    assert len(vectors) == 0


def test_what_was_put_comes_back_in_the_order_asked_for(cache):
    texts, vectors = [f"text {i}" for i in range(1_500)], vectors_of(1_500)
    cache.put(texts, vectors)

    places, found, _ = cache.get(["absent", *reversed(texts), "also absent"])

    np.testing.assert_array_equal(places, np.arange(1, 1_501))
    np.testing.assert_array_equal(found, vectors[::-1])
    assert found.dtype == np.float32
    assert found.flags.writeable


def test_which_texts_were_cut_comes_back(cache):
    cut_at = np.where(np.arange(1_500) % 7 == 0, 256, 0)
    cache.put(TEXTS[:1_500], vectors_of(1_500), cut_at)
    np.testing.assert_array_equal(cache.get(TEXTS).cut_at, cut_at)
    spoil(cache, "UPDATE notes SET cut_at = 0 WHERE rowid = 8")
    assert 7 not in cache.get(TEXTS).places


def test_dim_is_that_of_the_first_vectors(cache):
    assert cache.dim() is None
    cache.put(["a"], vectors_of(1, dim=7))
    assert cache.dim() == 7


def test_an_empty_cache_has_nothing_and_makes_no_file(cache):
    assert_empty(cache.get(["a"]))
    assert not cache.path.parent.exists()


def test_a_text_put_again_has_its_newest_vector(cache):
    cache.put(["a"], vectors_of(1, seed=1))
    cache.put(["a"], vectors_of(1, seed=2))
    np.testing.assert_array_equal(cache.get(["a"])[1], vectors_of(1, seed=2))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(texts=st.lists(st.text(st.characters(exclude_categories=[])), min_size=1, unique=True))
def test_any_text_is_a_key_of_its_own(cache, texts):
    vectors = vectors_of(len(texts), seed=len(texts))
    cache.put(texts, vectors)
    places, found, _ = cache.get(texts)
    np.testing.assert_array_equal(places, np.arange(len(texts)))
    np.testing.assert_array_equal(found, vectors)


TEXTS = [f"text {i}" for i in range(3_000)]

CHANGES = {
    "other tables": "DROP TABLE vectors; CREATE TABLE vectors (other INTEGER)",
    "a view": "ALTER TABLE vectors RENAME TO v; CREATE VIEW vectors AS SELECT 1 AS other",
    "width 0": "UPDATE width SET dim = 0",
    "width below 0": "UPDATE width SET dim = -4",
    "width of text": "UPDATE width SET dim = 'four'",
    "width beyond memory": "UPDATE width SET dim = 1000000000000",
    "no unicode": "UPDATE vectors SET vector = CAST(x'ff' AS TEXT) WHERE rowid = 5",
}


@pytest.mark.parametrize("damage", ["garbage", "cut", *CHANGES])
def test_a_damaged_file_is_set_aside_and_rebuilt(cache, caplog, damage):
    cache.put(TEXTS, vectors_of(3_000))
    if damage == "garbage":
        cache.path.write_bytes(b"not a database" * 1_000)
    elif damage == "cut":
        cache.path.write_bytes(cache.path.read_bytes()[: cache.path.stat().st_size // 2])
    else:
        spoil(cache, CHANGES[damage])

    with caplog.at_level(logging.WARNING):
        assert cache.dim() in {4, None}
        assert_empty(cache.get(TEXTS))
    assert "set aside" in caplog.text
    assert len(list(cache.path.parent.glob("*.damaged-*"))) == 1

    cache.put(["new"], vectors_of(1))
    np.testing.assert_array_equal(cache.get(["new"])[1], vectors_of(1))


def spoil(cache, statements):
    with closing(sqlite3.connect(cache.path)) as connection:
        connection.executescript(statements)


EXCHANGED = """
UPDATE vectors SET vector = (SELECT vector FROM vectors WHERE rowid = 7) WHERE rowid = 5;
"""
WITH_ITS_SUM = """
UPDATE notes SET sum = (SELECT sum FROM notes WHERE rowid = 7) WHERE rowid = 5;
"""


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE vectors SET vector = x'00' WHERE rowid = 5",
        "UPDATE vectors SET vector = x'0000c07f0000c07f0000c07f0000c07f' WHERE rowid = 5",
        "UPDATE vectors SET vector = 'text' WHERE rowid = 5",
        "UPDATE vectors SET vector = 17 WHERE rowid = 5",
        EXCHANGED,
        EXCHANGED + WITH_ITS_SUM,
        "UPDATE notes SET sum = x'00' WHERE rowid = 5",
    ],
    ids=["short", "nan", "text", "number", "exchanged", "exchanged with its sum", "sum"],
)
def test_a_vector_that_is_not_the_one_stored_counts_as_missing(cache, caplog, damage):
    vectors = vectors_of(3_000)
    cache.put(TEXTS, vectors)
    spoil(cache, damage)

    with caplog.at_level(logging.WARNING):
        places, found, _ = cache.get(TEXTS)
    assert len(places) == 2_999
    np.testing.assert_array_equal(found, vectors[places])
    assert "1 vectors are not those that were stored, and are encoded anew" in caplog.text

    (missing,) = set(range(3_000)).difference(places)
    cache.put([TEXTS[missing]], vectors[[missing]])
    np.testing.assert_array_equal(cache.get(TEXTS)[1], vectors)


def test_vectors_that_version_01_stored_are_found(cache):
    cache.put(TEXTS, vectors_of(3_000))
    spoil(cache, "DROP TABLE notes")
    np.testing.assert_array_equal(cache.get(TEXTS)[1], vectors_of(3_000))
    spoil(cache, "UPDATE vectors SET vector = x'0000c07f0000c07f0000c07f0000c07f' WHERE rowid = 5")
    assert len(cache.get(TEXTS)[0]) == 2_999


def connect_read_only(path, *, timeout, connect=sqlite3.connect):
    return connect(f"file:{path}?mode=ro", uri=True, timeout=timeout)


@pytest.mark.parametrize("kind", ["folder", "pipe", "read-only", "locked"])
def test_what_cannot_be_used_is_gone_without_after_one_warning(tmp_path, caplog, kind, monkeypatch):
    cache = EmbeddingCache(tmp_path / "vectors.sqlite")
    monkeypatch.setattr(embedding_cache, "_BUSY_SECONDS", 0.05)
    with contextlib.ExitStack() as stack:
        if kind == "folder":
            cache.path.mkdir()
        elif kind == "pipe":
            os.mkfifo(cache.path)
        else:
            cache.put(TEXTS, vectors_of(3_000))
            if kind == "locked":
                other = stack.enter_context(closing(sqlite3.connect(cache.path)))
                other.execute("PRAGMA locking_mode = EXCLUSIVE")
                other.execute("DELETE FROM width")
            else:
                monkeypatch.setattr(embedding_cache.sqlite3, "connect", connect_read_only)
        with caplog.at_level(logging.WARNING):
            for _ in range(2):
                cache.put(["new"], vectors_of(1))
        if kind != "read-only":
            assert_empty(cache.get(["new"]))
    assert caplog.text.count("going on without") == 1
    assert "set aside" not in caplog.text


def test_vectors_of_another_width_start_a_new_file(cache, caplog):
    cache.put(["a"], vectors_of(1, dim=4))
    with caplog.at_level(logging.WARNING):
        cache.put(["a"], vectors_of(1, dim=6))
    assert "width 4, not 6" in caplog.text
    cache.put(["a"], vectors_of(1, dim=6))
    assert cache.dim() == 6


def test_without_a_folder_it_goes_on_after_one_warning(tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    cache = EmbeddingCache(tmp_path / "file" / "vectors.sqlite")
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            cache.put(["a"], vectors_of(1))
            assert_empty(cache.get(["a"]))
    assert caplog.text.count("going on without") == 1


def test_two_processes_may_write_at_once(tmp_path):
    path = tmp_path / "vectors.sqlite"
    command = [sys.executable, "-c", WRITER, str(path)]
    writers = [subprocess.Popen([*command, name]) for name in ("one", "two")]
    assert [writer.wait(timeout=120) for writer in writers] == [0, 0]

    texts = [
        f"{name} {chunk} {i}" for name in ("one", "two") for chunk in range(30) for i in range(20)
    ]
    places, found, _ = EmbeddingCache(path).get([*texts, *(f"both {chunk}" for chunk in range(30))])
    assert len(places) == 1_230
    np.testing.assert_array_equal(found[-30:, 0], np.arange(30))
