"""Forecasts on curves whose law is known, and on features whose probe can be trusted to learn."""

from __future__ import annotations

import numpy as np
import pytest

from vitadapt.metrics.learning_curve import fit_curve, forecast
from vitadapt.utils.errors import ConfigError

SIZES = np.array([2, 4, 8, 16, 32])


def law(n, floor, factor, exponent):
    return 100 - floor - factor * np.asarray(n, dtype=float) ** -exponent


def measured(rng, noise, common, repetitions=20, **true):
    """Accuracies (R, S): some of a repetition's luck is the same at every size."""
    luck = rng.normal(0, noise, (repetitions, len(SIZES))) + rng.normal(0, common, (repetitions, 1))
    return law(SIZES, **true) + luck


@pytest.mark.parametrize("exponent", [0.3, 0.5, 1.0, 1.5])
@pytest.mark.parametrize("floor", [0.0, 8.0])
def test_without_noise_the_law_is_found(exponent, floor):
    true = {"floor": floor, "factor": 40.0, "exponent": exponent}
    found = fit_curve(SIZES, np.tile(law(SIZES, **true), (5, 1)))
    assert found.exponent == pytest.approx(exponent, rel=0.06)
    assert found.floor == pytest.approx(floor, abs=2.5)
    for more in (10, 20, 100):
        assert found.gain(more)[0] == pytest.approx(law(32 + more, **true) - law(32, **true), abs=0.3)


@pytest.mark.parametrize("true", [(5.0, 50.0, 0.5), (0.0, 30.0, 0.3), (15.0, 60.0, 1.2)])
def test_the_interval_holds_the_truth_about_as_often_as_it_says(true):
    known = dict(zip(("floor", "factor", "exponent"), true, strict=True))
    gain = law(52, **known) - law(32, **known)
    inside = []
    for seed in range(25):
        found = fit_curve(SIZES, measured(np.random.default_rng(seed), 2.0, 3.0, **known), seed=seed)
        _, low, high = found.gain(20)
        inside.append(low - 1e-9 <= gain <= high + 1e-9)
    assert np.mean(inside) >= 0.8


def test_more_noise_means_a_wider_interval():
    true = {"floor": 5.0, "factor": 50.0, "exponent": 0.5}
    widths = []
    for noise in (0.2, 1.0, 5.0):
        _, low, high = fit_curve(SIZES, measured(np.random.default_rng(0), noise, noise, **true)).gain(20)
        widths.append(high - low)
    assert widths[0] < widths[1] < widths[2]


def test_gains_grow_with_labels_and_are_never_negative():
    falling = np.tile([80.0, 79.0, 78.0, 77.0, 76.0], (5, 1)) + np.random.default_rng(0).normal(0, 1, (5, 5))
    for scores in (falling, measured(np.random.default_rng(1), 1.0, 1.0, floor=2.0, factor=40.0, exponent=0.7)):
        gains = [fit_curve(SIZES, scores).gain(more) for more in (1, 10, 100)]
        assert all(0 <= low <= gain <= high for gain, low, high in gains)
        assert gains[0][0] <= gains[1][0] <= gains[2][0]


def test_the_band_surrounds_the_curve_and_stays_below_a_hundred():
    found = fit_curve(SIZES, measured(np.random.default_rng(0), 1.0, 2.0, floor=5.0, factor=50.0, exponent=0.5))
    n = np.geomspace(2, 500, 20)
    low, high = found.band(n)
    assert (low <= high).all() and (high <= 100).all()
    assert ((low - 1 <= found.accuracy(n)) & (found.accuracy(n) <= high + 1)).all()


def test_the_sentence_says_gain_and_margin():
    found = fit_curve(SIZES, np.tile(law(SIZES, 0.0, 40.0, 0.5), (5, 1)))
    gain = law(52, 0.0, 40.0, 0.5) - law(32, 0.0, 40.0, 0.5)
    assert found.sentence(20).startswith(f"20 more labels per class: about +{gain:.1f} ± ")


def clouds(per_class, classes=4, width=12, seed=0, distance=1.1):
    rng = np.random.default_rng(seed)
    centres = rng.normal(0, distance, (classes, width))
    labels = np.repeat(np.arange(classes), per_class)
    return centres[labels] + rng.normal(0, 2.0, (len(labels), width)), labels


def test_more_labels_help_and_the_forecast_agrees_with_new_data():
    features, labels = clouds(80)
    small = np.concatenate([np.flatnonzero(labels == c)[:20] for c in range(4)])
    found = forecast(features[small], labels[small])
    assert found.scores.mean(axis=0)[-1] > found.scores.mean(axis=0)[0] + 3
    _, low, high = found.gain(32)
    later = forecast(features, labels)
    at = np.interp([16, 48], later.sizes, later.scores.mean(axis=0))
    assert low - 3 <= at[1] - at[0] <= high + 3


def test_twins_on_both_sides_would_flatter():
    features, labels = clouds(10, distance=0.3)
    twice, groups = np.repeat(features, 2, axis=0), np.repeat(np.arange(len(labels)), 2)
    honest = forecast(twice, np.repeat(labels, 2), groups).scores.mean(axis=0)[-1]
    assert forecast(twice, np.repeat(labels, 2)).scores.mean(axis=0)[-1] > honest + 5


def test_same_input_same_forecast():
    features, labels = clouds(12)
    assert np.array_equal(forecast(features, labels, seed=3).curves, forecast(features, labels, seed=3).curves)


def test_too_few_images_are_told():
    features, labels = clouds(3)
    with pytest.raises(ConfigError, match="eight images"):
        forecast(features, labels)
    with pytest.raises(ConfigError, match="two classes"):
        forecast(features, np.zeros(len(labels), dtype=np.int64))
    with pytest.raises(ConfigError, match="three sizes"):
        fit_curve([1, 2], np.ones((5, 2)))
