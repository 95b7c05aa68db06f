"""Images with several labels: thresholds by trying all, scores by scikit-learn, an interval by resampling images."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import f1_score, precision_recall_fscore_support

from vitadapt.metrics.scores import METRICS
from vitadapt.metrics.several_labels import best_thresholds, class_scores, decided, map_interval


def images(count: int = 20, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels of three classes, and probabilities that know something of them; some are equal."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, (count, 3)).astype(np.uint8)
    return labels, np.round(0.6 * rng.random((count, 3)) + 0.35 * labels, 1)


def test_scores_of_classes_are_those_of_scikit_learn() -> None:
    labels, probabilities = images()
    answers = decided(probabilities, (0.3, 0.5, 0.7))
    precision, recall, f1, _ = precision_recall_fscore_support(labels, answers, average=None)
    for found, expected in zip(class_scores(labels, answers), (recall, precision, f1), strict=True):
        np.testing.assert_allclose(found, expected)


def test_a_class_without_images_or_answers_has_no_score() -> None:
    recall, precision, f1 = class_scores(np.array([[1, 0, 0]]), np.array([[False, True, False]]))
    assert recall[0] == precision[1] == f1[0] == f1[1] == 0.0
    assert np.isnan([recall[1], precision[0], recall[2], precision[2], f1[2]]).all()


@pytest.mark.parametrize("seed", range(5))
def test_no_threshold_has_a_larger_f1(seed: int) -> None:
    labels, probabilities = images(seed=seed)
    for c, threshold in enumerate(best_thresholds(labels, probabilities)):
        own, p = labels[:, c], probabilities[:, c]
        values = np.unique(p)
        tried = {cut: f1_score(own, p >= cut) for cut in (values + np.append(0, values[:-1])) / 2}
        best = [cut for cut, f1 in tried.items() if f1 == pytest.approx(max(tried.values()))]
        assert threshold == pytest.approx(min(best, key=lambda cut: abs(cut - 0.5)))
    assert best_thresholds(np.zeros((3, 1)), np.full((3, 1), 0.9)) == (0.5,)
    assert best_thresholds(np.ones((2, 1)), np.array([[0.8], [0.2]])) == (pytest.approx(0.1),)


@pytest.mark.parametrize("level", [0.95, 0.5])
def test_the_interval_is_that_of_images_drawn_with_replacement(level: float) -> None:
    labels, probabilities = images(12)
    labels[:, 2] = np.arange(12) == 3  # in a third of the resamples no image has it
    drawn = np.random.default_rng(0).multinomial(12, np.full(12, 1 / 12), size=1000)
    means = [METRICS["11-point-map"](labels.repeat(n, axis=0), probabilities.repeat(n, axis=0)) for n in drawn]
    expected = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    np.testing.assert_allclose(map_interval(labels, probabilities, level), expected, atol=1e-9)
