"""Metrics against hand-made cases and scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, roc_auc_score

from vitadapt.metrics.scores import (
    METRICS,
    RELEASED_METRICS,
    per_class,
    performance_efficiency,
    performance_per_tuned,
    share_interval,
)
from vitadapt.utils.errors import DataError, Diverged


def cases():
    rng = np.random.default_rng(0)
    for classes in (2, 3, 7):
        labels = rng.integers(0, classes, 60)
        yield labels, rng.dirichlet(np.ones(classes), 60)


@pytest.mark.parametrize(("labels", "probabilities"), list(cases()))
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


def test_released_mean_per_class_cannot_predict_a_class_without_images():
    labels = np.array([0, 0, 2])
    probabilities = np.array([[0.2, 0.7, 0.1], [0.6, 0.3, 0.1], [0.1, 0.2, 0.7]])
    assert RELEASED_METRICS["mean-per-class"](labels, probabilities) == 1.0


def test_released_eleven_points_give_every_class_one_for_nothing():
    labels = np.zeros((100, 1), dtype=np.uint8)
    labels[99] = 1
    scores = np.linspace(1, 0, 100)[:, None]
    assert RELEASED_METRICS["11-point-map"](labels, scores) == pytest.approx((10 * 0.01 + 1) / 11)
    assert RELEASED_METRICS["11-point-map"](labels, scores[::-1]) == pytest.approx(1.0)


def test_eleven_points_by_hand():
    """Positives at ranks 1, 3 and 6 of 6: precisions 1, 2/3, 1/2 at recalls 1/3, 2/3, 1."""
    labels = np.array([1, 0, 1, 0, 0, 1], dtype=np.uint8)[:, None]
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4])[:, None]
    expected = (4 * 1 + 3 * 2 / 3 + 4 / 2) / 11
    assert METRICS["11-point-map"](labels, scores) == pytest.approx(expected)
    assert RELEASED_METRICS["11-point-map"](labels, scores) == pytest.approx(expected)
    first_wrong = np.array([0.8, 0.9, 0.7, 0.6, 0.5, 0.4])[:, None]  # precisions 1/2, 2/3, 1/2: only recall 0 differs
    assert METRICS["11-point-map"](labels, first_wrong) == pytest.approx((7 * 2 / 3 + 4 / 2) / 11)
    assert RELEASED_METRICS["11-point-map"](labels, first_wrong) == pytest.approx((1 + 6 * 2 / 3 + 4 / 2) / 11)


def test_classes_without_images_do_not_count_in_average_precision():
    labels = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0]], dtype=np.uint8)
    scores = np.array([[0.9, 0.1, 0.5], [0.2, 0.8, 0.9], [0.8, 0.7, 0.1]])
    for metrics in (METRICS, RELEASED_METRICS):
        assert metrics["11-point-map"](labels, scores) == pytest.approx(metrics["11-point-map"](labels[:, :2], scores))


@pytest.mark.parametrize("name", METRICS)
def test_predictions_that_are_no_numbers_are_a_failure_and_not_a_score(name):
    multilabel = name == "11-point-map"
    labels = np.eye(2, dtype=np.uint8) if multilabel else np.array([0, 1])
    with pytest.raises(Diverged, match="not numbers"):
        METRICS[name](labels, np.full((2, 2), np.nan))
    released = RELEASED_METRICS[name](labels, np.full((2, 2), np.nan))
    assert released == (0.5 if name in ("accuracy", "mean-per-class") else 0.0)


@pytest.mark.parametrize(("labels", "probabilities"), list(cases()))
def test_released_metrics_are_the_usual_ones_where_all_classes_occur(labels, probabilities):
    for name in ("accuracy", "mean-per-class"):
        assert RELEASED_METRICS[name](labels, probabilities) == pytest.approx(METRICS[name](labels, probabilities))


def test_roc_auc_of_several_classes_is_one_against_the_rest():
    labels, probabilities = list(cases())[2]
    expected = roc_auc_score(labels, probabilities, multi_class="ovr")
    assert METRICS["roc-auc"](labels, probabilities) == pytest.approx(expected)
    onehot = np.eye(7, dtype=np.uint8)[labels]
    assert METRICS["roc-auc"](onehot, probabilities) == pytest.approx(expected)
    assert RELEASED_METRICS["roc-auc"](labels, probabilities) == 0.0
    some = labels < 5
    assert 0 < METRICS["roc-auc"](labels[some], probabilities[some]) < 1  # two classes without images


def test_roc_auc_of_two_classes_that_an_image_may_both_have_is_the_mean_over_both():
    labels = np.array([[1, 0], [1, 1], [0, 1], [0, 0]], dtype=np.uint8)
    scores = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.9], [0.2, 0.4]])
    assert METRICS["roc-auc"](labels, scores) == pytest.approx((1.0 + 0.75) / 2)


def test_roc_auc_of_one_class_says_what_is_missing():
    with pytest.raises(DataError, match="two classes"):
        METRICS["roc-auc"](np.zeros(4, dtype=int), np.full((4, 2), 0.5))
    assert RELEASED_METRICS["roc-auc"](np.zeros(4, dtype=int), np.full((4, 2), 0.5)) == 0.0


def test_ppt_is_pe_with_a_tenth_of_the_constant():
    assert performance_per_tuned(80.0, 1e7) == pytest.approx(80 * np.exp(-np.log10(2)))
    assert performance_per_tuned(80.0, 1e7) == pytest.approx(performance_efficiency(80.0, 1e8))
    assert performance_per_tuned(80.0, 0) == 80.0


def test_roc_auc_is_the_share_of_pairs_in_the_right_order():
    labels = np.array([0, 1, 0, 1])
    scores = np.array([0.1, 0.4, 0.5, 0.8])
    for metrics in (METRICS, RELEASED_METRICS):
        assert metrics["roc-auc"](labels, np.stack([1 - scores, scores], axis=1)) == pytest.approx(0.75)


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


@pytest.mark.parametrize(("right", "count"), [(27, 30), (0, 5), (5, 5), (1, 2)])
def test_the_interval_of_a_share_is_wilsons_formula(right, count):
    z = 1.959963984540054  # of 95 %, both sides
    share, size = right / count, 1 + z * z / count
    middle = (share + z * z / (2 * count)) / size
    reach = z / size * np.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    low, high = share_interval(right, count)
    assert (low, high) == (pytest.approx(middle - reach, abs=1e-9), pytest.approx(middle + reach, abs=1e-9))
