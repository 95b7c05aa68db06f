"""Metrics against hand-made cases and scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score

from vitadapt.metrics import METRICS, per_class, performance_efficiency


def cases():
    rng = np.random.default_rng(0)
    for classes in (2, 3, 7):
        labels = rng.integers(0, classes, 60)
        yield labels, rng.dirichlet(np.ones(classes), 60)


@pytest.mark.parametrize(("labels", "probabilities"), cases())
def test_accuracies_agree_with_scikit_learn(labels, probabilities):
    predicted = probabilities.argmax(axis=1)
    assert METRICS["accuracy"](labels, probabilities) == pytest.approx(accuracy_score(labels, predicted))
    assert METRICS["mean-per-class"](labels, probabilities) == pytest.approx(balanced_accuracy_score(labels, predicted))


def test_a_class_that_does_not_occur_has_no_score_and_does_not_count():
    labels = np.array([0, 0, 2])
    probabilities = np.array([[0.2, 0.7, 0.1], [0.6, 0.3, 0.1], [0.1, 0.2, 0.7]])
    scores = per_class(labels, probabilities)
    assert scores[0] == 0.5 and np.isnan(scores[1]) and scores[2] == 1.0
    assert METRICS["mean-per-class"](labels, probabilities) == pytest.approx(0.75)


def test_eleven_point_average_precision_of_a_late_positive():
    labels = np.zeros((100, 1), dtype=np.uint8)
    labels[99] = 1
    scores = np.linspace(1, 0, 100)[:, None]
    assert METRICS["11-point-map"](labels, scores) == pytest.approx(0.01)
    assert METRICS["11-point-map"](labels, scores[::-1]) == pytest.approx(1.0)


def test_roc_auc_is_the_share_of_pairs_in_the_right_order():
    labels = np.array([0, 1, 0, 1])
    scores = np.array([0.1, 0.4, 0.5, 0.8])
    assert METRICS["roc-auc"](labels, np.stack([1 - scores, scores], axis=1)) == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("score", "parameters", "expected"),
    [  # the published scores and counts give these PE values
        (68.92, 79_699, 68.896),
        (65.08, 1_237_587, 64.733),
        (61.48, 176_979, 61.433),
        (65.49, 87_878_739, 49.800),
        (66.32, 29_523, 66.312),
    ],
)
def test_performance_efficiency_of_the_published_table(score, parameters, expected):
    assert performance_efficiency(score, parameters) == pytest.approx(expected, abs=1e-3)
