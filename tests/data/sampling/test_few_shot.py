"""The few-shot subset and the validation split: the published rules, checked against a second, naive reading."""

from __future__ import annotations

import random

import numpy as np
import pytest

from vitadapt.data.sampling.few_shot import sample_few_shot, validation_split
from vitadapt.utils.errors import ConfigError, DataError


def single(rng: np.random.Generator, classes: int, images: int) -> np.ndarray:
    return rng.integers(0, classes, images).astype(np.int64)


def multi_hot(rng: np.random.Generator, classes: int, images: int, density: float = 0.25) -> np.ndarray:
    frequency = rng.uniform(0.3, 1.7, classes) * density
    return (rng.random((images, classes)) < frequency).astype(np.uint8)


def naive_sample(labels: np.ndarray, shots: int, seed: int) -> list[int]:
    """The rule read off line by line, without any thought for speed."""
    images = [(i, np.flatnonzero(row).tolist() if labels.ndim == 2 else [int(row)]) for i, row in enumerate(labels)]
    random.Random(seed).shuffle(images)
    count = {c: 0 for c in range(labels.shape[1] if labels.ndim == 2 else labels.max() + 1)}
    unlabelled, taken = 0, []
    for image, own in images:
        if len(own) == 0:
            if unlabelled < shots:
                unlabelled += 1
                taken.append(image)
        else:
            low, high = min(count[c] for c in own), max(count[c] for c in own)
            if low < shots and (low <= shots / 2 or high <= 1.5 * shots):
                taken.append(image)
                for c in own:
                    count[c] += 1
        if all(n >= shots for n in count.values()):
            return taken
    return taken


def naive_validation(labels: np.ndarray) -> set[int]:
    if labels.ndim == 1:
        chosen = set()
        for c in set(labels.tolist()):
            places = [i for i, label in enumerate(labels) if label == c]
            chosen |= set(places[: -(-len(places) // 5)])  # ceil(n / 5) in integers
        return chosen
    table = labels.astype(int).copy()
    remaining = [-(-int(n) // 5) for n in table.sum(axis=0)]
    chosen = set()
    while any(n > 0 for n in remaining):
        c = next(c for c, n in enumerate(remaining) if n > 0)
        image = next(i for i in range(len(table)) if i not in chosen and table[i, c])
        chosen.add(image)
        remaining = [n - has for n, has in zip(remaining, table[image], strict=True)]
        table[image] = 0
    return chosen


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("shots", [1, 2, 3, 4, 6])
def test_the_sample_is_the_published_one(seed: int, shots: int) -> None:
    rng = np.random.default_rng(seed)
    for labels in (
        single(rng, 7, 90),
        multi_hot(rng, 6, 120),
        multi_hot(rng, 12, 200, 0.1),
        multi_hot(rng, 4, 60, 0.4),
    ):
        ours = sample_few_shot(labels, shots, seed, allow_fewer=True)
        assert ours.dtype == np.int64
        assert ours.tolist() == naive_sample(labels, shots, seed)


ORDER = [4, 1, 5, 2, 0, 3, 7, 6]  # of eight images under seed 0; Python promises that it stays so


def test_balanced_single_labels_are_the_first_of_each_class_after_a_shuffle() -> None:
    order = list(range(8))
    random.Random(0).shuffle(order)
    assert order == ORDER
    labels = np.array([0, 1] * 4)  # in the order of the visit: 0 1 1 0 0 1 1 0
    assert sample_few_shot(labels, 1, seed=0).tolist() == [4, 1]
    assert sample_few_shot(labels, 2, seed=0).tolist() == [4, 1, 5, 2]
    assert sample_few_shot(labels, 3, seed=0).tolist() == [4, 1, 5, 2, 0, 3]


def visited(*sets: set[int]) -> np.ndarray:
    """Multi-hot labels such that the k-th image visited under seed 0 has the k-th set of classes."""
    labels = np.zeros((len(ORDER), 1 + max(max(own) for own in sets if own)), dtype=np.uint8)
    for image, own in zip(ORDER, sets, strict=True):
        labels[image, list(own)] = 1
    return labels


def test_a_frequent_class_overshoots_while_its_companions_are_at_most_half_full() -> None:
    labels = visited({0, 1}, {0, 2}, {0, 2}, {0, 1}, {0}, {1}, {2}, {0})
    # counts of classes 0 1 2 after each image: 110, 211, 312 (class 2 was half full), 422: all full
    assert sample_few_shot(labels, 2, seed=0).tolist() == [4, 1, 5, 2]


def test_an_image_is_skipped_when_its_emptiest_class_is_past_half_and_its_fullest_past_three_halves() -> None:
    labels = visited({0, 1}, {0, 1}, {0, 2}, {0, 2}, {0, 3}, {0, 1}, {1}, {2, 3})
    # 3 shots, so half is 1.5 and three halves are 4.5. After five images the counts are 5 2 2 1. The sixth has counts
    # 5 and 2: skipped. The seventh has 2: taken although past half, because nothing is past three halves.
    assert sample_few_shot(labels, 3, seed=0, allow_fewer=True).tolist() == [4, 1, 5, 2, 0, 7, 6]


def test_exactly_half_and_exactly_three_halves_still_count_as_room() -> None:
    # 4 shots, so half is 2 and three halves are 6; class 2 never fills, so nothing stops early.
    labels = visited({0, 1}, {0, 1}, {0, 1}, {0, 2}, {0, 2}, {0, 2}, {0, 1}, {1})
    # counts after six images: 6 3 3. The seventh has counts 6 and 3: past half, but not past three halves, so it is
    # taken and gives 7 4 3; the eighth has the full class 1 only.
    assert sample_few_shot(labels, 4, seed=0, allow_fewer=True).tolist() == [4, 1, 5, 2, 0, 3, 7]


def test_nothing_is_taken_once_every_class_is_full() -> None:
    labels = visited({0}, {1}, set(), {0}, {1}, set(), {0, 1}, set())
    assert sample_few_shot(labels, 1, seed=0).tolist() == [4, 1]
    assert sample_few_shot(labels, 2, seed=0).tolist() == [4, 1, 5, 2, 0]


def test_unlabelled_images_are_kept_up_to_the_number_of_shots() -> None:
    labels = visited(set(), set(), set(), set(), set(), set(), {1}, {0})
    assert sample_few_shot(labels, 1, seed=0).tolist() == [4, 7, 6]
    assert sample_few_shot(labels, 2, seed=0, allow_fewer=True).tolist() == [4, 1, 7, 6]


@pytest.mark.parametrize("seed", range(3))
def test_single_labels_give_exactly_the_shots_and_another_seed_another_sample(seed: int) -> None:
    labels = np.repeat(np.arange(5), 30)
    rows = sample_few_shot(labels, 4, seed)
    assert np.bincount(labels[rows]).tolist() == [4] * 5
    assert len(set(rows.tolist())) == len(rows)
    assert rows.tolist() == sample_few_shot(labels, 4, seed).tolist()
    assert rows.tolist() != sample_few_shot(labels, 4, seed + 1).tolist()


def test_the_global_random_state_is_neither_read_nor_changed() -> None:
    labels = np.repeat(np.arange(3), 9)
    random.seed(5)
    expected, before = sample_few_shot(labels, 2, 1).tolist(), random.getstate()
    random.seed(6)
    assert sample_few_shot(labels, 2, 1).tolist() == expected
    random.seed(5)
    assert random.getstate() == before


def test_a_class_with_too_few_images_is_named() -> None:
    labels = np.array([0] * 5 + [1] * 2 + [2] * 5)
    with pytest.raises(DataError, match=r"^3 images per class were asked for, but class 1 has 2; use fewer shots"):
        sample_few_shot(labels, 3, 0)
    with pytest.raises(DataError, match=r"but 'dog' has 2; use fewer shots"):
        sample_few_shot(labels, 3, 0, classes=["cat", "dog", "elk"])
    with pytest.raises(DataError, match=r"but 'dog' has 2, 'fox' has 0; "):
        sample_few_shot(labels, 3, 0, classes=["cat", "dog", "elk", "fox"])
    taken = sample_few_shot(labels, 3, 0, allow_fewer=True)
    assert np.bincount(labels[taken]).tolist() == [3, 2, 3]


def test_a_class_without_images_is_named_even_in_the_middle_and_with_several_labels() -> None:
    with pytest.raises(DataError, match="but class 1 has 0"):
        sample_few_shot(np.array([0, 0, 2, 2]), 1, 0)
    with pytest.raises(DataError, match="but 'b' has 0"):
        sample_few_shot(np.array([[1, 0], [1, 0]], dtype=np.uint8), 1, 0, classes=["a", "b"])
    for classes, more in ((3, ";"), (4, " and 1 more;"), (10, " and 7 more;")):
        with pytest.raises(DataError, match=f"class 0 has 1, class 1 has 1, class 2 has 1{more}"):
            sample_few_shot(np.arange(classes), 2, 0)


@pytest.mark.parametrize("shots", [0, -1])
def test_shots_must_be_positive(shots: int) -> None:
    with pytest.raises(ConfigError, match="shots must be at least 1"):
        sample_few_shot(np.array([0, 1]), shots, 0)


@pytest.mark.parametrize("seed", range(6))
def test_the_validation_split_is_the_published_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for labels in (single(rng, 9, 77), single(rng, 3, 10), multi_hot(rng, 6, 60), multi_hot(rng, 12, 100, 0.1)):
        train, validation = validation_split(labels)
        assert set(validation.tolist()) == naive_validation(labels)
        assert sorted([*train, *validation]) == list(range(len(labels)))
        assert (np.diff(train) > 0).all()


def test_one_in_five_validates_and_it_is_the_first() -> None:
    train, validation = validation_split(np.array([2, 0, 1, 0, 2, 1, 1, 0, 2, 0, 1, 2, 0, 2, 1]))
    assert (validation.tolist(), train.tolist()) == ([0, 1, 2], list(range(3, 15)))


@pytest.mark.parametrize(("shots", "validating"), [(1, 1), (2, 1), (5, 1), (6, 2), (20, 4), (50, 10), (15, 3)])
def test_the_number_that_validate_per_class_is_rounded_up(shots: int, validating: int) -> None:
    labels = np.tile(np.arange(4), shots)
    train, validation = validation_split(labels)
    assert np.bincount(labels[validation]).tolist() == [validating] * 4
    assert len(train) == 4 * (shots - validating)


def test_an_image_with_several_labels_serves_all_its_classes() -> None:
    labels = np.array([[0, 1, 0], [1, 1, 0], [1, 0, 0], [0, 1, 1], [1, 0, 1]], dtype=np.uint8)
    # each class needs ceil(3/5) = 1 or ceil(2/5) = 1; class 0 takes image 1, which serves class 1; class 2 takes 3
    train, validation = validation_split(labels)
    assert (validation.tolist(), train.tolist()) == ([1, 3], [0, 2, 4])


def test_other_fractions_are_exact_in_spite_of_binary_fractions() -> None:
    _, validation = validation_split(np.zeros(100, dtype=np.int64), 0.55)  # 0.55 * 100 = 55.00000000000001
    assert len(validation) == 55


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.2, float("nan")])
def test_an_impossible_fraction_is_refused(fraction: float) -> None:
    with pytest.raises(ConfigError, match="between 0 and 1"):
        validation_split(np.array([0, 1]), fraction)
