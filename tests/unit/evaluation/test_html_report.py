from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from lightweight_decoder.errors import InputDataError
from lightweight_decoder.evaluation.html_report import render_report
from lightweight_decoder.evaluation.predictions import IN_TRAINING, mark_training_texts
from lightweight_decoder.evaluation.summary import summarize_predictions

HOSTILE = '</script><script>alert("1")</script><img src=x onerror=alert(2)>&amp;\u2028'


class Page(HTMLParser):
    """Tags, texts by tag, and the data of a page."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.tags, self.attributes, self.texts, self.open = [], [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        self.open.append(tag)

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data):
        self.texts.append((self.open[-1] if self.open else None, data))

    @property
    def data(self):
        return json.loads(
            next(text for tag, text in self.texts if tag == "script" and text.startswith("{"))
        )


@pytest.fixture
def page(make_predictions, monkeypatch):
    def render(
        *, title="A run", facts=None, latencies_ms=None, max_examples=100, draw=False, **changes
    ):
        if not draw:  # figures take most of the time
            monkeypatch.setattr(
                "lightweight_decoder.evaluation.html_report._drawings", lambda *_: []
            )
        predictions = make_predictions(**changes)
        metrics = summarize_predictions(predictions, num_resamples=100)
        html = render_report(
            metrics,
            predictions,
            title=title,
            facts=facts,
            latencies_ms=latencies_ms,
            max_examples=max_examples,
        )
        return html, Page(html), metrics

    return render


def row_of(html, label):
    """Texts of the cells of one row of the metrics table."""
    row = next(row for row in re.findall(r"<tr.*?</tr>", html, re.DOTALL) if f">{label} <" in row)
    return [
        re.sub(r"<.*?>", "", cell).strip() for cell in re.findall(r"<td.*?</td>", row, re.DOTALL)
    ]


def test_the_table_says_what_metrics_json_says(page):
    html, _, metrics = page()

    baseline, _, decoder, interval, change, _, p_value = row_of(html, "MRR@25")
    assert baseline == f"{metrics['test/baseline/mrr@25']:.3f}"
    assert decoder == f"{metrics['test/decoder/mrr@25']:.3f}"
    low, high = (metrics[f"test/decoder/mrr@25/{end}"] for end in ("low", "high"))
    assert interval == f"{low:.3f} to {high:.3f}"
    assert change == f"{metrics['test/difference/mrr@25']:+.3f}"
    assert p_value == f"{metrics['test/difference/mrr@25/p_value']:.3f}"
    assert row_of(html, "Recall@10")[2] == f"{100 * metrics['test/decoder/recall@10']:.1f}%"


def test_a_clear_gain_is_marked_better_and_luck_is_not(page):
    html, *_ = page()
    assert 'class="change better"' in html
    equal, *_ = page(baseline_rank=np.ones(200, dtype=int), rank=np.ones(200, dtype=int))
    assert 'class="change better"' not in equal
    assert 'class="change worse"' not in equal
    losing, *_ = page(baseline_rank=np.ones(200, dtype=int), rank=np.full(200, 30))
    assert 'class="change worse"' in losing


def test_nothing_is_loaded_from_elsewhere(page):
    _, parsed, _ = page(latencies_ms=np.linspace(1, 2, 50), draw=True)

    loading = [
        (tag, name, value)
        for tag, name, value in parsed.attributes
        if name in {"src", "href", "xlink:href", "action", "data"} and not value.startswith("#")
    ]
    assert loading == []
    assert not {"link", "iframe", "img", "object"} & set(parsed.tags)
    assert parsed.tags.count("svg") == 5


def test_hostile_texts_stay_texts(page):
    html, parsed, _ = page(
        text=[HOSTILE] * 200,
        targets=[[HOSTILE]] * 200,
        title=HOSTILE,
        facts={HOSTILE: HOSTILE},
        metadata={HOSTILE: [HOSTILE] * 200},
    )

    assert parsed.tags.count("script") == 2
    assert "img" not in parsed.tags
    assert not any(name.startswith("on") for _, name, _ in parsed.attributes)
    assert html.count("alert(") > 0  # shown, not run
    example = dict(zip(parsed.data["example_columns"], parsed.data["examples"][0], strict=True))
    assert example["text"] == HOSTILE
    assert example["targets"] == [HOSTILE]
    assert ("h1", HOSTILE) in parsed.texts


def test_examples_and_slices_are_the_predictions(page, make_predictions):
    _, parsed, _ = page(max_examples=1000, out_of_bank=10)
    predictions = make_predictions(out_of_bank=10).to_pylist()

    assert len(parsed.data["examples"]) == 200
    for row, expected in zip(parsed.data["examples"], predictions, strict=True):
        example = dict(zip(parsed.data["example_columns"], row, strict=True))
        assert example["rank"] == expected["rank"]
        assert example["phrases"] == expected["phrases"]
        assert example["confidence"] == pytest.approx(expected["confidence"], abs=1e-4)
    assert {row["slice"] for row in parsed.data["slices"]} >= {"frequency", "seen", "confidence"}
    assert parsed.data["calibrated"] is True


def test_more_examples_than_fit_are_drawn_evenly_and_said(page):
    html, parsed, _ = page(max_examples=50)

    queries = [row[0] for row in parsed.data["examples"]]
    assert len(queries) == 50
    assert (queries[0], queries[-1]) == (0, 199)
    assert "50 of 200, drawn evenly." in html


def test_without_calibration_there_is_no_reliability_diagram(page):
    html, parsed, _ = page(calibrated=False, baseline_value=None, draw=True)

    assert "Reliability" not in html
    assert parsed.tags.count("svg") == 3
    assert parsed.data["calibrated"] is False


def test_figures_follow_the_colors_of_the_page(page):
    html, *_ = page(draw=True)

    svg = "".join(re.findall(r"<svg.*?</svg>", html, re.DOTALL))
    assert "var(--strong)" in svg
    assert set(re.findall(r"#[0-9a-f]{6}\b", svg)) == set()
    assert "<metadata>" not in svg


def test_metrics_of_another_split_are_refused(make_predictions):
    predictions = make_predictions()
    metrics = summarize_predictions(predictions, split="val", num_resamples=10)

    with pytest.raises(
        InputDataError, match=r"not of this split: expected test/decoder/.*found val"
    ):
        render_report(metrics, predictions, title="A run")


def test_paths_of_the_machine_are_not_told(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    html, parsed, _ = page(
        facts={
            "run": Path("outputs", "a run"),
            "same": tmp_path / "outputs" / "a run",
            "bank": Path("/home/ann/banks/WordNet"),
            "here": tmp_path,
            "text": "/said/as/it/is",
        }
    )

    facts = [data for tag, data in parsed.texts if tag == "dd"]
    told = str(Path("outputs", "a run"))
    assert facts == [told, told, "WordNet", tmp_path.name, "/said/as/it/is"]
    assert str(tmp_path) not in html


def test_without_a_baseline_the_page_has_only_the_decoder(page):
    html, parsed, _ = page(baseline_rank=None, baseline_value=None, draw=True)

    assert parsed.data["compared"] is False
    assert "plain search" not in html.split('<script type="application/json"')[0]
    assert parsed.tags.count("svg") == 4


def test_the_page_says_how_many_queries_were_trained_on(make_predictions, monkeypatch):
    monkeypatch.setattr("lightweight_decoder.evaluation.html_report._drawings", lambda *_: [])
    predictions = make_predictions(text=["seen"] * 12 + ["new"] * 188)
    marked = mark_training_texts(predictions, ["Seen"])
    metrics = summarize_predictions(marked, num_resamples=10)

    html = render_report(metrics, marked, title="A run")

    assert "12 of the first are training texts too" in html
    slices = Page(html).data["slices"]
    counts = {row["group"]: row["num_queries"] for row in slices if row["slice"] == IN_TRAINING}
    assert counts == {"no": 188, "yes": 12}
    metrics = summarize_predictions(predictions, num_resamples=10)
    assert "training texts" not in render_report(metrics, predictions, title="A run")
