from __future__ import annotations

from hashlib import blake2b

import numpy as np
import pytest

from lightweight_decoder.training.sources.reverse_dictionary import read_wordnet

DIM = 16

LICENSE = "  1 This software and database is being provided to you, the LICENSEE  \n"
DATA = {
    "data.noun": [
        '00000010 06 n 02 highway 0 main_road 0 000 | a major road; "take it"; "wide ones"  ',
        "00000020 06 n 01 road 0 000 | an open way for travel",
        "00000030 15 n 02 Turkey 0 Republic_of_Turkey 0 000 | a Eurasian republic",
        "00000040 05 n 01 turkey 0 000 | large gallinaceous bird",
        "00000050 06 n 01 thoroughfare 0 000 | an open way for travel",
    ],
    "data.verb": ['00000010 38 v 01 run 0 001 @ 00000020 v 0000 01 + 02 00 | move fast; "do run"'],
    "data.adj": [
        "00000010 00 a 01 afraid(p) 0 000 | filled with fear",
        "00000020 00 s 02 galore(ip) 0 main(a) 0 000 | in great numbers",
    ],
    "data.adv": ["00000010 02 r 01 fast 0 000 | quickly"],
}
SENSES = [
    "afraid%3:00:00:: 00000010 1 11",
    "galore%5:00:00:abundant:00 00000020 1 1",
    "highway%1:06:00:: 00000010 1 12",
    "republic_of_turkey%1:15:00:: 00000030 1 2",
    "road%1:06:00:: 00000020 1 76",
    "run%2:38:00:: 00000010 1 106",
    "turkey%1:05:00:: 00000040 2 0",
    "turkey%1:15:00:: 00000030 1 3",
]


class HashingEncoder:
    """A vector follows from its text; what was asked for is written down."""

    settings, knows_sides = None, False

    def __init__(self, name="hashing"):
        self.name = name
        self.fingerprint = blake2b(name.encode(), digest_size=32).hexdigest()
        self.encoded = []

    def vector(self, text):
        seed = int.from_bytes(blake2b(f"{self.name} {text}".encode(), digest_size=8).digest())
        return np.random.default_rng(seed).standard_normal(DIM).astype(np.float32)

    def unit_vector(self, text):
        vector = self.vector(text).astype(np.float64)
        return (vector / np.linalg.norm(vector)).astype(np.float32)

    def encode_phrases(self, texts):
        self.encoded += texts
        return np.array([self.vector(text) for text in texts]).reshape(len(texts), DIM)

    encode_queries = encode_phrases


@pytest.fixture
def encoder():
    return HashingEncoder()


@pytest.fixture
def other_encoder():
    return HashingEncoder("another model")


@pytest.fixture
def wordnet_folder(tmp_path):
    """A WordNet of nine synsets, in the format of the real one."""
    folder = tmp_path / "wordnet"
    folder.mkdir()
    for name, lines in DATA.items():
        (folder / name).write_text(LICENSE + "".join(f"{line}\n" for line in lines))
    (folder / "index.sense").write_text("".join(f"{line}\n" for line in SENSES))
    return folder


@pytest.fixture(scope="session")
def real_wordnet():
    return read_wordnet()
