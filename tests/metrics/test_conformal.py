"""Thresholds by their definition: ranks counted by hand, and coverage of images that were not used."""

from __future__ import annotations

import numpy as np
import pytest

from vitadapt.metrics.conformal import class_sets, coverage, least_rate, nonconformity, thinned, threshold, typicality


def test_the_coverage_is_what_was_asked_for() -> None:
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(6), 3000)
    labels = np.array([rng.choice(6, p=one) for one in p])
    sizes = []
    for wanted in (0.5, 0.8, 0.95):
        found = coverage(labels, p, np.arange(3000) % 5, wanted)
        assert abs(found.right / found.count - wanted) < 0.03
        sizes.append(found.size)
    assert sizes == sorted(sizes)
    assert class_sets(p, threshold(np.sort(nonconformity(labels, p)), 0.01)).any(axis=1).all()  # none is empty


def test_few_images_promise_no_more_than_they_can() -> None:
    scores = np.arange(9.0)
    assert threshold(scores, 0.9) == 8 and threshold(scores, 0.95) == np.inf and least_rate(9) == 0.1
    assert typicality(scores, np.array([99.0, 8.0, -1.0])).tolist() == [0.1, 0.2, 1.0]
    many = np.random.default_rng(0).normal(size=2500)
    few = thinned(many)
    assert len(few) == 1000
    for share in (0.5, 0.9, 0.99):
        whole = threshold(np.sort(many), share)
        assert whole <= threshold(few, share) < whole + 0.1


@pytest.mark.parametrize(("count", "most"), [(9, 4), (100, 9), (2500, 1000), (7, 7)])
def test_thresholds_of_thinned_scores_are_those_of_all_at_the_shares_between_them(count: int, most: int) -> None:
    scores = np.random.default_rng(0).permutation(count).astype(float)
    few = thinned(scores, most)
    assert len(few) == most
    for k in range(1, most + 1):
        assert threshold(few, k / (most + 1)) == threshold(np.arange(float(count)), k / (most + 1))
    assert thinned(scores, count + 1).tolist() == list(range(count))


def test_sets_hold_the_classes_up_to_the_threshold_and_the_first() -> None:
    p = np.array([[0.5, 0.3, 0.2], [0.25, 0.35, 0.4]])
    assert nonconformity(np.array([0, 2]), p).tolist() == [0.5, 0.6]
    assert class_sets(p, 0.75).tolist() == [[True, True, False], [True, True, True]]
    assert class_sets(p, 0.1).tolist() == [[True, False, False], [False, False, True]]


def test_a_fold_is_measured_with_the_threshold_of_the_others() -> None:
    """Scores of fold 0 are 0.1, of fold 1 0.6: the threshold of one fold is the score of the other."""
    p = np.array([[0.9, 0.1]] * 9 + [[0.4, 0.6]] * 9)
    found = coverage(np.zeros(18, dtype=int), p, np.repeat([0, 1], 9), 0.9)
    assert (found.wanted, found.right, found.count, found.size) == (0.9, 9, 18, 1.0)
