"""Classes are matched by name, one to one, or refused with the names."""

from __future__ import annotations

import random

import numpy as np
import pytest

from vitadapt.data.class_names import map_classes, relabel
from vitadapt.utils.errors import DataError

CATALOG = ("F-16A-B", "F-A-18", "Ram C V Van 2012", "sea lake", "zebra")


@pytest.mark.parametrize("seed", range(5))
def test_any_order_of_the_same_names_maps_to_the_catalog(seed: int) -> None:
    own = list(CATALOG)
    random.Random(seed).shuffle(own)
    assert [CATALOG[i] for i in map_classes(own, CATALOG)] == own


def test_spellings_differ_in_case_blanks_and_punctuation_and_by_alias() -> None:
    own = ["Zebra", "SEA_lake", "Ram C/V Van  2012", "F-16A/B", "hornet"]
    assert map_classes(own, CATALOG, {"Hornet": "f/a-18"}).tolist() == [4, 3, 2, 0, 1]


def test_an_alias_never_hides_a_name_that_the_catalog_has() -> None:
    assert map_classes(["a", "b"], ("a", "b"), {"a": "b", "b": "a"}).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("own", "message"),
    [
        (["a", "b"], "2 classes that do not match the 3 expected ones .missing: 'c'"),
        (["a", "b", "d"], "unknown: 'd'; missing: 'c'"),
        (["a", "b", "c", "C"], "given twice: 'c'"),
        (["a", "b", "c", "e", "f", "g", "h", "i", "j"], "unknown: 'e', 'f', 'g', 'h', 'i' and 1 more"),
    ],
)
def test_what_does_not_match_is_listed(own: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        map_classes(own, ("a", "b", "c"), where="folder")


def test_relabelling_is_the_same_for_both_forms_of_labels() -> None:
    order, single = [2, 0, 3, 1], np.array([0, 1, 1, 3, 2])
    assert relabel(single, order).tolist() == [2, 0, 0, 1, 3]
    several = np.eye(4, dtype=np.uint8)[single]
    assert relabel(several, order).argmax(axis=1).tolist() == [2, 0, 0, 1, 3]
