from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from lightweight_decoder.commands.decode import answer_table, write_answers
from lightweight_decoder.datatypes import NO_ID, Decoded
from lightweight_decoder.decoder.calibration import Calibration
from lightweight_decoder.decoder.phrase_bank_decoder import PhraseBankDecoder
from lightweight_decoder.errors import EmbeddingError, InputDataError
from lightweight_decoder.search import ExactSearch
from lightweight_decoder.vectors import open_embeddings


@pytest.fixture
def decoder(tiny_bank):
    return PhraseBankDecoder(tiny_bank)


@pytest.fixture
def calibrated(tiny_bank, queries):
    decoder = PhraseBankDecoder(tiny_bank)
    found = decoder.candidates(queries, 8)
    similarity = decoder.similarities(queries, found)
    right = found.values[:, 0].numpy() > found.values[:, 0].median().item()
    decoder.calibration = Calibration.fit(
        found.values.numpy(), right, similarity=similarity.numpy()
    )
    return decoder


@pytest.fixture
def reader(tmp_path, queries):
    np.save(tmp_path / "q.npy", queries.numpy())
    return open_embeddings(tmp_path / "q.npy")


def answers(decoder, reader, **limits):
    return (decoder.decode(block.vectors, **limits) for block in reader.blocks())


def lines_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_each_line_is_what_decode_answers(decoder, reader, queries, tmp_path):
    assert write_answers(answers(decoder, reader, top_k=3), tmp_path / "out.jsonl") == 30

    expected = decoder.decode(queries, top_k=3)
    lines = lines_of(tmp_path / "out.jsonl")
    assert [line["query"] for line in lines] == list(range(30))
    assert [line["phrases"] for line in lines] == expected.texts
    assert [line["text"] for line in lines] == [texts[0] for texts in expected.texts]
    np.testing.assert_allclose([line["values"] for line in lines], expected.values, atol=1e-6)
    assert {line["kind"] for line in lines} == {"cosine"}
    assert {line["confidence"] for line in lines} == {None}


def test_no_phrase_below_the_threshold(calibrated, reader, queries, tmp_path):
    confidence = calibrated.decode(queries).confidence
    threshold = float(np.median(confidence))
    answered = answers(calibrated, reader, top_k=2, abstain_below=threshold)
    assert write_answers(answered, tmp_path / "o", num_queries=30) == 30

    lines = lines_of(tmp_path / "o")
    assert [line["text"] is None for line in lines] == list(confidence < threshold)
    assert 0 < sum(line["text"] is None for line in lines) < 30
    assert all(len(line["phrases"]) == 2 for line in lines)
    np.testing.assert_allclose([line["confidence"] for line in lines], confidence, atol=1e-6)


class FindsTwo:
    """A search that finds two phrases of each query, like an index that looks at few of them."""

    def __init__(self, bank):
        self._exact = ExactSearch(bank)

    def search(self, queries, k, **_):
        found = self._exact.search(queries, k)
        missing = torch.arange(found.values.shape[1]) >= 2
        return replace(
            found,
            phrase_ids=found.phrase_ids.masked_fill(missing, NO_ID),
            vector_ids=found.vector_ids.masked_fill(missing, NO_ID),
            values=found.values.masked_fill(missing, -torch.inf),
        )


def test_what_an_approximate_search_did_not_find_is_left_out(tiny_bank, reader, queries, tmp_path):
    decoder = PhraseBankDecoder(tiny_bank, search=FindsTwo(tiny_bank))
    write_answers(answers(decoder, reader, top_k=5), tmp_path / "out.jsonl")
    expected = PhraseBankDecoder(tiny_bank).decode(queries, top_k=2)
    lines = lines_of(tmp_path / "out.jsonl")
    assert [line["phrases"] for line in lines] == expected.texts
    np.testing.assert_allclose([line["values"] for line in lines], expected.values, atol=1e-6)


def test_an_error_leaves_what_was_there(decoder, tmp_path):
    np.save(tmp_path / "q.npy", np.ones((3, 5), dtype=np.float32))
    (tmp_path / "out.jsonl").write_text("of another run\n")
    answered = answers(decoder, open_embeddings(tmp_path / "q.npy"))
    with pytest.raises(EmbeddingError, match=r"expected \(q, 16\)"):
        write_answers(answered, tmp_path / "out.jsonl")

    assert (tmp_path / "out.jsonl").read_text() == "of another run\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.jsonl", "q.npy"]


@pytest.mark.parametrize("output", ["missing/out.jsonl", "q.npy/out.jsonl"])
def test_an_output_that_cannot_be_written_is_named(decoder, reader, tmp_path, output):
    with pytest.raises(InputDataError, match=rf"{output}: the file cannot be written.*output=FILE"):
        write_answers(answers(decoder, reader), tmp_path / output)


def test_standard_output_gets_the_same_lines(decoder, reader, tmp_path, capsys):
    write_answers(answers(decoder, reader), tmp_path / "out.jsonl", show_progress=False)
    assert write_answers(answers(decoder, reader), Path("-"), num_queries=30) == 30

    assert capsys.readouterr().out == (tmp_path / "out.jsonl").read_text(encoding="utf-8")


def shown(table):
    console = Console(width=100, record=True, quiet=False, file=None, force_terminal=False)
    with console.capture() as captured:
        console.print(table)
    return captured.get()


def test_a_table_has_the_phrases_in_order(decoder, queries):
    decoded = decoder.decode(queries[:1], top_k=3)
    text = shown(answer_table(decoded, title="what is it"))

    places = [text.index(phrase.strip()) for phrase in decoded.texts[0]]
    assert places == sorted(places)
    assert "what is it" in text
    assert f"{decoded.values[0, 0]:.3f}" in text
    assert "confidence" not in text


def test_a_table_says_when_there_is_no_phrase(calibrated, queries):
    sure = calibrated.decode(queries[:1])
    unsure = calibrated.decode(queries[:1], abstain_below=1.0)

    assert f"answer: {sure.texts[0][0]}, confidence {sure.confidence[0]:.2f}" in shown(
        answer_table(sure, title="t")
    )
    assert "answer: no phrase" in shown(answer_table(unsure, title="t"))


def test_hostile_texts_are_shown_and_not_obeyed():
    texts = ["[/]", "[red]x[/red]", "\x1b[31mred"]
    decoded = Decoded(
        texts=[texts],
        phrase_ids=np.array([[0, 1, 2]]),
        values=np.array([[0.9, 0.8, 0.7]], dtype=np.float32),
        kind="cosine",
        confidence=np.array([0.5], dtype=np.float32),
        abstained=np.array([False]),
    )
    console = Console(width=100, force_terminal=True, color_system=None)
    with console.capture() as capture:
        console.print(answer_table(decoded, title="[bold]\x1b[0m"))

    shown = capture.get()
    for text in ("[bold]\\x1b[0m", "[/]", "[red]x[/red]", "\\x1b[31mred", "answer: [/], confid"):
        assert text in shown
    assert "\x1b" not in shown
