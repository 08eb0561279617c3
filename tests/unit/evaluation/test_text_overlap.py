from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.functional.text import sacre_bleu_score
from torchmetrics.functional.text.rouge import rouge_score

from lightweight_decoder.errors import InputDataError
from lightweight_decoder.evaluation.summary import text_overlap_values

WORDS = ["road", "a", "wide", "fast", "Traffic", "card", "lost", "42", "very"]
PHRASES = st.lists(st.sampled_from(WORDS), min_size=1, max_size=8).map(" ".join)


@given(PHRASES, st.lists(PHRASES, min_size=1, max_size=3))
def test_rouge_l_agrees_with_torchmetrics(decoded, targets):
    reference = rouge_score(decoded, [targets], rouge_keys="rougeL", accumulate="best")

    values = text_overlap_values([decoded], [targets])

    assert values["rouge_l"][0] == pytest.approx(float(reference["rougeL_fmeasure"]), abs=1e-6)


def chrf_by_hand(decoded, target, beta=2):
    """F of mean precision and mean recall over n-grams of one to six that both texts have."""
    precisions, recalls = [], []
    first, second = (text.lower().replace(" ", "") for text in (decoded, target))
    for n in range(1, 1 + min(6, len(first), len(second))):
        grams = [
            Counter(text[i : i + n] for i in range(len(text) - n + 1)) for text in (first, second)
        ]
        shared = (grams[0] & grams[1]).total()
        precisions.append(shared / grams[0].total())
        recalls.append(shared / grams[1].total())
    precision, recall = np.mean(precisions), np.mean(recalls)
    if precision + recall == 0:
        return 0.0
    return (1 + beta**2) * precision * recall / (beta**2 * precision + recall)


@given(PHRASES, PHRASES)
def test_chrf_agrees_with_its_definition(decoded, target):
    values = text_overlap_values([decoded], [[target]])

    assert values["chrf"][0] == pytest.approx(chrf_by_hand(decoded, target))


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


@pytest.mark.parametrize(
    ("decoded", "targets", "message"),
    [
        (["a"], [["a"], ["b"]], "decoded texts and targets: .*found 1 and 2"),
        ([], [], "decoded texts and targets: .*found 0 and 0"),
        (["a", "b"], [["a"], []], "row 1: a query has no target text"),
        (["a", "b"], [[""], ["b"]], "row 0: a query has no target text"),
    ],
)
def test_texts_that_cannot_be_compared_are_refused(decoded, targets, message):
    with pytest.raises(InputDataError, match=message):
        text_overlap_values(decoded, targets)
