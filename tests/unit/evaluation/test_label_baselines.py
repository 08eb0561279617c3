from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from lightweight_decoder.evaluation.label_baselines import LABEL_BASELINES, label_baselines

LABELS = np.array([3, 8, 9, 40])


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture
def task():
    """Examples, labels, queries and targets of a task that is not too easy."""
    random = np.random.default_rng(0)
    middles = random.normal(size=(len(LABELS), 6))
    places = random.integers(len(LABELS), size=(2, 60))
    examples, queries = (middles[each] + 1.2 * random.normal(size=(60, 6)) for each in places)
    return examples.astype(np.float32), LABELS[places[0]], queries, LABELS[places[1]]


def test_first_labels_are_those_of_scikit_learn(task):
    examples, labels, queries, targets = task
    found = label_baselines(*task)
    nearest = KNeighborsClassifier(1, metric="cosine").fit(examples, labels)
    means = np.stack([unit(examples)[labels == label].mean(axis=0) for label in LABELS])
    regression = LogisticRegression(C=30, max_iter=1_000).fit(unit(examples), labels)
    right = {
        "nearest_example": nearest.predict(queries) == targets,
        "centroid": LABELS[(unit(queries) @ unit(means).T).argmax(axis=1)] == targets,
        "logistic_regression": regression.predict(unit(queries)) == targets,
    }
    assert set(right) == set(LABEL_BASELINES)
    for system, is_right in right.items():
        assert 0.3 < is_right.mean() < 1
        assert found[f"{system}/recall@1"] == pytest.approx(is_right.mean(), abs=1e-9)


def test_ranks_count_labels_that_stand_before_the_right_one(task):
    examples, labels, queries, targets = task
    means = np.stack([unit(examples)[labels == label].mean(axis=0) for label in LABELS])
    cosines = unit(queries) @ unit(means).T
    ranks = [
        list(LABELS[np.argsort(-row)]).index(target) + 1
        for row, target in zip(cosines, targets, strict=True)
    ]
    assert label_baselines(*task)["centroid/mrr"] == pytest.approx(np.mean(1 / np.array(ranks)))


def test_two_labels_have_a_logistic_regression_too(task):
    examples, labels, queries, targets = task
    few, asked = np.isin(labels, LABELS[:2]), np.isin(targets, LABELS[:2])
    found = label_baselines(examples[few], labels[few], queries[asked], targets[asked])
    regression = LogisticRegression(C=30, max_iter=1_000).fit(unit(examples[few]), labels[few])
    right = regression.predict(unit(queries[asked])) == targets[asked]
    assert found["logistic_regression/recall@1"] == pytest.approx(right.mean())


def test_a_label_without_examples_is_never_found(task):
    examples, labels, queries, _ = task
    found = label_baselines(examples, labels, queries, np.full(len(queries), 41))
    assert all(found[f"{system}/mrr"] == 0 for system in LABEL_BASELINES)


@pytest.mark.parametrize("labels", [np.arange(60), np.zeros(60, dtype=np.int64)])
def test_without_labels_to_speak_of_there_are_none(task, labels):
    examples, _, queries, targets = task
    assert label_baselines(examples, labels, queries, targets) == {}
