"""Which encoder the commands use: the bank's, a moved one, one of the user's own."""

from __future__ import annotations

import json
import shutil
from functools import partial

import numpy as np
import pytest

from lightweight_decoder.bank import PhraseBank
from lightweight_decoder.commands.build_bank import build_bank
from lightweight_decoder.commands.decode import decode_file
from lightweight_decoder.commands.finished_run import find_run
from lightweight_decoder.commands.opening import one_device
from lightweight_decoder.decoder.bank_encoder import encoder_of
from lightweight_decoder.decoder.phrase_bank_decoder import PhraseBankDecoder
from lightweight_decoder.encoder import TextEncoder, custom_encoder
from lightweight_decoder.errors import ConfigError, EncoderError

OWN = """
import pathlib
pathlib.Path("was_imported").touch()

class Letters:
    def encode_queries(self, texts):
        return [[0.1 + text.count(letter) for letter in "abcdefgh"] for text in texts]

    encode_phrases = encode_queries
"""


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A folder to stand in, with three phrases, a module, and a cache of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIGHTWEIGHT_DECODER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "phrases.txt").write_text("abba\ncafe\nhead\n")
    (tmp_path / "own_letters.py").write_text(OWN)
    return tmp_path


on_cpu = partial(one_device, accelerator="cpu")
own = partial(custom_encoder, factory="own_letters:Letters")


def build(work, **options):
    paths = {"input": work / "phrases.txt", "output": work / "bank"}
    build_bank(**paths, accelerator=on_cpu, **options)
    return PhraseBank.open(work / "bank")


def answers(work, capsys, text, **options):
    capsys.readouterr()
    decode_file(bank=work / "bank", text=text, accelerator=on_cpu, **options)
    return capsys.readouterr().out


def test_an_encoder_of_ones_own_is_used_where_it_is_typed_and_nowhere_else(work, capsys):
    bank = build(work, embeddings=own)
    expected = custom_encoder("own_letters:Letters").encode_phrases(["abba", "cafe", "head"])
    unit = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(bank.vectors, unit, atol=1e-6)
    shown = answers(work, capsys, "a cafe", embeddings=own)
    assert shown.index("cafe ", shown.index("phrase")) < shown.index("head")

    (work / "was_imported").unlink()
    with pytest.raises(EncoderError, match=r"embeddings\.factory=own_letters:Letters"):
        decode_file(bank=work / "bank", text="a cafe", accelerator=on_cpu)
    assert not (work / "was_imported").exists()


def test_a_bank_that_is_not_there_yet_has_no_encoder(work):
    with pytest.raises(ConfigError, match=r"embeddings: .*minilm or custom, found that of a bank"):
        build(work, embeddings=encoder_of)


def test_a_model_that_moved_is_said_where_it_is(work, capsys):
    source = TextEncoder().folder
    shutil.copytree(source, work / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    (work / "model" / "model.safetensors").symlink_to(source / "model.safetensors")
    bank = build(work, embeddings=partial(TextEncoder, model="model", truncate_dim=50))
    assert "cafe" in answers(work, capsys, "a coffee shop")
    (work / "model").rename(work / "moved")
    with pytest.raises(EncoderError, match=r"embeddings\.model=FOLDER"):
        decode_file(bank=bank.path, text="a coffee shop", accelerator=on_cpu)
    moved = partial(encoder_of, model="moved")
    assert "1.000" in answers(work, capsys, "cafe", embeddings=moved)


def test_a_run_of_a_stranger_imports_nothing(work):
    bank = PhraseBank.build(work / "bank", ["a", "b"], np.eye(2))
    (work / "run" / "checkpoints").mkdir(parents=True)
    PhraseBankDecoder(bank).save(work / "run" / "checkpoints" / "best.ckpt")
    settings = {
        "_target_": "lightweight_decoder.encoder.custom_encoder.custom_encoder",
        "factory": "own_letters:Letters",
    }
    (work / "run" / "config.yaml").write_text(json.dumps({"data": settings}))
    with pytest.raises(ConfigError, match=r"data\._target_: .*expected one of reverse_dictionary"):
        find_run(work / "run")
    assert not (work / "was_imported").exists()
