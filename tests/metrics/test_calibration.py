"""Measures of reliability against scikit-learn, against hand-made cases, and as laws."""

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, log_loss

from vitadapt.metrics.calibration import (
    MEASURES,
    agreement,
    aurc,
    brier,
    calibration_bins,
    ece,
    fit_temperature,
    measures_at,
    nll,
    reliability,
    with_temperature,
)


def drawn(temperature=1.0, count=4000, classes=4, seed=0):
    """Labels drawn from softmax(z), and probabilities softmax(temperature * z): too sure above 1."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1.5, (count, classes))
    honest = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = (honest.cumsum(axis=1) > rng.random((count, 1))).argmax(axis=1)
    return labels, with_temperature(honest, 1 / temperature)


def drawn_multilabel(temperature=1.0, count=2000, seed=0):
    rng = np.random.default_rng(seed)
    honest = 1 / (1 + np.exp(-rng.normal(0, 1.5, (count, 3))))
    labels = (rng.random(honest.shape) < honest).astype(np.uint8)
    return labels, with_temperature(honest, 1 / temperature, multilabel=True)


def test_likelihood_and_brier_agree_with_scikit_learn():
    labels, probabilities = drawn(2.0, 300)
    assert nll(labels, probabilities) == pytest.approx(log_loss(labels, probabilities), abs=1e-5)
    by_class = [brier_score_loss(labels == c, probabilities[:, c]) for c in range(4)]
    assert brier(labels, probabilities) == pytest.approx(sum(by_class))
    many, guessed = drawn_multilabel()
    assert nll(many, guessed) == pytest.approx(log_loss(many.ravel(), guessed.ravel()), abs=1e-5)
    assert brier(many, guessed) == pytest.approx(brier_score_loss(many.ravel(), guessed.ravel()))


def test_a_sure_mistake_costs_a_finite_amount():
    assert nll(np.array([1, 1]), np.array([[1.0, 0.0], [0.0, 1.0]])) == pytest.approx(-np.log(1e-7) / 2, rel=1e-6)
    assert brier(np.array([1]), np.array([[1.0, 0.0]])) == 2.0


def test_bins_of_equal_mass_are_those_of_scikit_learn():
    labels, probabilities = drawn(2.0, 600)
    parts = calibration_bins(labels, probabilities, bins=6)
    right = probabilities.argmax(axis=1) == labels
    accuracy, confidence = calibration_curve(right, probabilities.max(axis=1), n_bins=6, strategy="quantile")
    assert parts.count.tolist() == [100] * 6
    assert np.allclose(parts.accuracy, accuracy, atol=0.011)  # at a border the library may take one image more
    assert np.allclose(parts.confidence, confidence, atol=0.01)


def test_calibration_error_by_hand():
    """Two bins: confidence 0.6 and right half of the time, confidence 0.9 and always right."""
    labels = np.array([0, 1, 0, 0])
    probabilities = np.array([[0.6, 0.4], [0.6, 0.4], [0.9, 0.1], [0.9, 0.1]])
    assert ece(labels, probabilities, bins=2) == pytest.approx(0.5 * 0.1 + 0.5 * 0.1)
    assert ece(labels, probabilities, bins=4) == pytest.approx(0.1)  # equal confidences are never split


def test_area_under_risk_and_coverage_by_hand():
    """In the order of confidence: right, wrong, right; risks 0, 1/2, 1/3."""
    labels = np.array([0, 1, 0])
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3]])
    assert aurc(labels, probabilities) == pytest.approx((0 + 1 / 2 + 1 / 3) / 3)
    alike = np.full((3, 2), [0.8, 0.2])
    assert aurc(labels, alike) == pytest.approx(1 / 3)  # no order at all: the risk is the error rate everywhere


def test_confident_images_first_is_the_best_order_there_is():
    labels, probabilities = drawn(count=500)
    wrong = 1 - (probabilities.argmax(axis=1) == labels).mean()
    assert aurc(labels, probabilities) < wrong


@pytest.mark.parametrize("case", [drawn(2.0, 500), drawn_multilabel(2.0, 300)], ids=["single", "multilabel"])
@pytest.mark.parametrize("coarse", [False, True])
def test_the_order_of_the_images_changes_nothing(case, coarse):
    labels, probabilities = case
    if coarse:  # many equal confidences
        probabilities = probabilities.round(1)
    order = np.random.default_rng(1).permutation(len(labels))
    assert reliability(labels[order], probabilities[order]) == pytest.approx(reliability(labels, probabilities))


def test_honest_probabilities_are_calibrated_and_sure_ones_are_not():
    assert ece(*drawn()) < 0.03
    assert ece(*drawn(3.0)) > 0.1
    assert ece(*drawn_multilabel()) < 0.03
    assert ece(*drawn_multilabel(3.0)) > 0.1


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("draw", [drawn, drawn_multilabel])
def test_the_temperature_that_spoiled_the_probabilities_is_found(draw, temperature):
    assert fit_temperature(*draw(temperature)) == pytest.approx(temperature, rel=0.06)


@pytest.mark.parametrize("draw", [drawn, drawn_multilabel])
def test_a_temperature_fitted_on_other_images_repairs(draw):
    found = fit_temperature(*draw(3.0, seed=1))
    labels, probabilities = draw(3.0, seed=2)
    repaired = measures_at(labels, probabilities, found)
    for name in ("nll", "ece", "brier"):
        assert repaired[name] < MEASURES[name](labels, probabilities)


def test_few_images_that_all_are_right_do_not_make_certain():
    probabilities = np.array([[0.7, 0.15, 0.15]] * 6)
    found = fit_temperature(np.zeros(6, dtype=int), probabilities)
    sure = with_temperature(probabilities, found)[0, 0]
    assert sure == pytest.approx(7 / 8, abs=0.01)  # Platt: (n + 1) / (n + 2)


@pytest.mark.parametrize("multilabel", [False, True])
def test_temperature_one_changes_nothing_and_none_changes_the_order(multilabel):
    _, probabilities = drawn_multilabel() if multilabel else drawn(count=200)
    assert np.allclose(with_temperature(probabilities, 1.0, multilabel), probabilities, atol=1e-6)
    for temperature in (0.3, 5.0):
        scaled = with_temperature(probabilities, temperature, multilabel)
        assert (scaled.argsort(axis=1) == probabilities.argsort(axis=1)).all()
        assert multilabel or np.allclose(scaled.sum(axis=1), 1)


def test_stored_zeros_and_ones_survive_a_temperature():
    scaled = with_temperature(np.array([[1.0, 0.0], [0.0, 1.0]], dtype=np.float32), 2.0)
    assert np.isfinite(scaled).all() and scaled[0, 0] > 0.999
    assert np.isfinite(fit_temperature(np.array([0, 0]), np.array([[1.0, 0.0], [0.0, 1.0]], dtype=np.float32)))


def test_stored_zeros_and_ones_of_several_labels_count_as_seven_digits():
    scaled = with_temperature(np.array([[1.0, 0.0]], dtype=np.float32), 2.0, multilabel=True)
    root = (1e-7 / (1 - 1e-7)) ** 0.5  # the odds of 1e-7, at temperature 2
    np.testing.assert_allclose(scaled, [[1 / (1 + root), root / (1 + root)]], rtol=1e-9)
    assert np.isfinite(fit_temperature(np.eye(2, dtype=np.uint8), np.eye(2, dtype=np.float32)))


def test_agreement_is_the_share_of_equal_answers():
    first = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
    assert agreement(first, first) == 1.0
    assert agreement(first, first[[0, 1, 1]]) == pytest.approx(2 / 3)
