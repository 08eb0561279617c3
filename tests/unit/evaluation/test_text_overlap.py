from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.functional.text import chrf_score, sacre_bleu_score
from torchmetrics.functional.text.rouge import rouge_score

from lightweight_decoder.errors import InputDataError
from lightweight_decoder.evaluation.text_overlap import text_overlap_metrics, text_overlap_values

WORDS = ["road", "a", "wide", "fast", "Traffic", "card", "lost", "42", "very"]
PHRASES = st.lists(st.sampled_from(WORDS), min_size=1, max_size=8).map(" ".join)
LONG_PHRASES = PHRASES.filter(lambda text: len(text.replace(" ", "")) >= 6)


@given(PHRASES, st.lists(PHRASES, min_size=1, max_size=3))
def test_rouge_l_agrees_with_torchmetrics(decoded, targets):
    reference = rouge_score(decoded, [targets], rouge_keys="rougeL", accumulate="best")

    values = text_overlap_values([decoded], [targets])

    assert values["rouge_l"][0] == pytest.approx(float(reference["rougeL_fmeasure"]), abs=1e-6)


@given(LONG_PHRASES, LONG_PHRASES)
def test_chrf_agrees_with_torchmetrics(decoded, target):
    """Of texts shorter than six characters torchmetrics averages over n-grams that cannot be."""
    reference = chrf_score([decoded], [[target]], n_word_order=0, lowercase=True)

    values = text_overlap_values([decoded], [[target]])

    assert values["chrf"][0] == pytest.approx(float(reference), abs=1e-4)


def test_bleu_agrees_with_torchmetrics_on_whole_sentences():
    decoded = "the cat sat on the mat near the old door"
    target = "the cat sat on a mat near the new door"
    reference = sacre_bleu_score([decoded], [[target]], tokenize="13a", lowercase=True)

    values = text_overlap_values([decoded], [[target]])

    assert values["bleu"][0] == pytest.approx(float(reference), abs=1e-4)


def test_short_and_equal_texts_score_one():
    values = text_overlap_values(["card"], [["card", "bank card"]])

    assert {name: float(value[0]) for name, value in values.items()} == {
        "bleu": 1,
        "chrf": 1,
        "rouge_l": 1,
    }


def test_nothing_shared_or_nothing_decoded_scores_zero():
    values = text_overlap_values(["xyz", ""], [["card"], ["card"]])

    for value in values.values():
        np.testing.assert_array_equal(value, [0, 0])


def test_upper_case_is_ignored():
    values = text_overlap_values(["Lost Card"], [["lost card"]])

    assert [float(value[0]) for value in values.values()] == pytest.approx([1, 1, 1])


def test_metrics_are_the_means():
    decoded, targets = ["lost card", "road"], [["lost card"], ["lost card"]]
    values = text_overlap_values(decoded, targets)

    assert text_overlap_metrics(decoded, targets) == {n: v.mean() for n, v in values.items()}


@pytest.mark.parametrize(
    ("decoded", "targets", "message"),
    [
        (["a"], [["a"], ["b"]], "do not go together.*found 1 and 2"),
        ([], [], "do not go together.*found 0 and 0"),
        (["a", "b"], [["a"], []], "row 1: a query has no target text"),
        (["a", "b"], [[""], ["b"]], "row 0: a query has no target text"),
    ],
)
def test_texts_that_cannot_be_compared_are_refused(decoded, targets, message):
    with pytest.raises(InputDataError, match=message):
        text_overlap_values(decoded, targets)
