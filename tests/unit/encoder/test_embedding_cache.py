from __future__ import annotations

import logging
import sqlite3
import subprocess
import sys
from contextlib import closing

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lightweight_decoder.encoder import EmbeddingCache

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
    places, vectors = found
    assert len(places) == 0
    assert len(vectors) == 0


def test_what_was_put_comes_back_in_the_order_asked_for(cache):
    texts, vectors = [f"text {i}" for i in range(1_500)], vectors_of(1_500)
    cache.put(texts, vectors)

    places, found = cache.get(["absent", *reversed(texts), "also absent"])

    np.testing.assert_array_equal(places, np.arange(1, 1_501))
    np.testing.assert_array_equal(found, vectors[::-1])
    assert found.dtype == np.float32
    assert found.flags.writeable


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
    places, found = cache.get(texts)
    np.testing.assert_array_equal(places, np.arange(len(texts)))
    np.testing.assert_array_equal(found, vectors)


@pytest.mark.parametrize("damage", ["garbage", "cut", "other tables", "short vector", "nan"])
def test_a_damaged_file_is_set_aside_and_rebuilt(cache, caplog, damage):
    cache.put([f"text {i}" for i in range(3_000)], vectors_of(3_000))
    spoil(cache.path, damage)

    with caplog.at_level(logging.WARNING):
        assert_empty(cache.get([f"text {i}" for i in range(3_000)]))
    assert "set aside" in caplog.text
    assert len(list(cache.path.parent.glob("*.damaged-*"))) == 1

    cache.put(["new"], vectors_of(1))
    np.testing.assert_array_equal(cache.get(["new"])[1], vectors_of(1))


def spoil(path, damage):
    if damage == "garbage":
        path.write_bytes(b"not a database" * 1_000)
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    else:
        change = {
            "other tables": "DROP TABLE vectors; CREATE TABLE vectors (other INTEGER)",
            "short vector": "UPDATE vectors SET vector = x'00' WHERE rowid = 5",
            "nan": "UPDATE vectors SET vector = x'0000c07f0000c07f0000c07f0000c07f'",
        }
        with closing(sqlite3.connect(path)) as connection:
            connection.executescript(change[damage])


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
    places, found = EmbeddingCache(path).get([*texts, *(f"both {chunk}" for chunk in range(30))])
    assert len(places) == 1_230
    np.testing.assert_array_equal(found[-30:, 0], np.arange(30))
