"""A plan counts what is missing, what is shared once, and as many images as the protocols say."""

import dataclasses
import json

import pytest
import torch

from vitadapt.benchmark import plan as planning
from vitadapt.benchmark.plan import images_of, plan, total
from vitadapt.benchmark.protocols.registry import PROTOCOLS
from vitadapt.benchmark.results.store import Store
from vitadapt.benchmark.runner import run
from vitadapt.benchmark.sweep import expand
from vitadapt.training.features import Environment
from vitadapt.utils.errors import DataError

AXES = {"backbone": "random:tiny", "dataset": "digits", "method": ["linear-probe", "bitfit"], "seed": [0, 1]}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(planning, "SECONDS", 0.0)
    planning.pace_of.cache_clear()


@pytest.fixture
def pace(monkeypatch):
    """A second per trained image, a tenth per image otherwise."""
    made = planning.Pace(1.0, 0.1, 0.1, width=48, size=32, numbers=1000, memory_mb=7.0)
    monkeypatch.setattr(planning, "pace_of", lambda config, setting: made)
    return made


@pytest.mark.parametrize("protocol", ["fixed", "elevater", "halving", "cv"])
def test_hours_are_those_of_the_protocols_budget(pace, tmp_path, protocol):
    (cell,) = expand({**AXES, "method": "bitfit", "seed": 0, "protocol": protocol})
    (row,) = plan([cell], Store(tmp_path), Environment())
    images = images_of(cell, Environment())
    budget = PROTOCOLS[protocol].budget(cell, images.labels)
    passes = len(images.labels) + images.test
    assert row.hours * 3600 == pytest.approx(budget.trained + 0.1 * (budget.scored + passes))
    assert (row.dataset, row.protocol, row.cells, row.memory_mb) == ("digits", protocol, 1, 7.0)


def test_what_cells_share_counts_once(pace, tmp_path):
    cells = expand({**AXES, "method": ["bitfit", "lora"], "seed": 0})
    both, alone = plan(cells, Store(tmp_path), Environment())[0], plan(cells[:1], Store(tmp_path), Environment())[0]
    assert both.cells == 2 and alone.disk_mb < both.disk_mb < 1.5 * alone.disk_mb


def test_what_is_recorded_costs_nothing(tmp_path):
    cells = expand({**AXES, "method": "linear-probe"}, {"epochs": 1})
    store, environment = Store(tmp_path / "runs"), Environment(cache=tmp_path / "cache")
    before = plan(cells, store, environment)[0]
    run(cells[0], store, environment)
    half, done = plan(cells, store, environment)[0], plan(cells[:1], store, environment)[0]
    assert [before.cells, half.cells, done.cells] == [2, 1, 0]
    assert before.hours > 0 and half.disk_mb > 0 and (done.hours, done.disk_mb) == (0, 0)


def test_every_kind_of_method_has_a_pace(tmp_path):
    axes = {**AXES, "backbone": "random:tiny-clip", "method": ["linear-probe", "lora", "zero-shot"], "seed": 0}
    axes["method"].append("lora:towers=both")
    cells = expand(axes)
    paces = [planning.pace_of(planning._representative(cell), Environment().setting) for cell in cells]
    assert [bool(pace.numbers) for pace in paces] == [False, True, False, True]
    assert [pace.trained > 0 for pace in paces] == [True, True, False, True]
    assert all(pace.forward > 0 and pace.memory_mb > 0 for pace in paces)
    assert paces[1] == planning.pace_of(planning._representative(cells[1]), Environment().setting)
    rows = plan(cells, Store(tmp_path), Environment())
    assert total(rows).cells == 4 and total(rows).hours == pytest.approx(sum(row.hours for row in rows))


def test_a_dataset_that_is_not_here_is_planned_by_the_catalog(pace, tmp_path):
    (cell,) = expand({**AXES, "dataset": "dtd", "method": "bitfit", "seed": 0})
    images = images_of(cell, Environment(data_root=tmp_path))
    assert (len(images.labels), images.test, images.classes) == (5 * 47, 1880, 47)
    assert torch.bincount(images.labels).tolist() == [5] * 47
    (row,) = plan([cell], Store(tmp_path), Environment(data_root=tmp_path))
    assert row.notes == ["not here: sizes of the catalog"]
    whole = images_of(dataclasses.replace(cell, shots=None), Environment(data_root=tmp_path))
    assert len(whole.labels) == 1880
    missing = dataclasses.replace(cell, dataset=str(tmp_path / "absent"))
    with pytest.raises(DataError, match="absent"):
        plan([missing], Store(tmp_path), Environment())


def test_the_command_prints_a_table_and_json(tmp_path, capsys):
    from vitadapt.cli.benchmark import plan as command

    path = tmp_path / "x.toml"
    path.write_text("[bench]\nbackbone='random:tiny'\ndataset='digits'\nmethod='linear-probe'\n")
    command(path, out=tmp_path / "runs", device="cpu")
    output = capsys.readouterr().out
    assert "digits" in output and "total" in output and "at most" in output
    command(path, out=tmp_path / "runs", device="cpu", as_json=True)
    rows = json.loads(capsys.readouterr().out)
    assert [row["dataset"] for row in rows] == ["digits", "total"] and rows[0]["cells"] == 1
