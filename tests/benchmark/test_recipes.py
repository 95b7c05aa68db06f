"""Benchmarks as data: every file of recipes/ says what it is, can be expanded, and asks only for what exists."""

import dataclasses
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import vitadapt
from vitadapt.benchmark.config import RunConfig, read_toml
from vitadapt.benchmark.prepare import training_pool
from vitadapt.benchmark.protocols.registry import PROTOCOLS
from vitadapt.benchmark.runner import run
from vitadapt.benchmark.sweep import check_names, find_benchmark_file, read_bench, select, shipped_benchmark_files
from vitadapt.cli.lookup import list_rows
from vitadapt.data import from_arrays
from vitadapt.data.datasets import catalog
from vitadapt.methods import METHODS
from vitadapt.methods.spec import method_text
from vitadapt.training.config import default_head
from vitadapt.training.features import Environment
from vitadapt.utils.errors import ConfigError, DataError, UnknownName

FOLDER = Path(__file__).parents[2] / "recipes"
NAMES = [path.stem for path in sorted(FOLDER.glob("*.toml"))]
PUBLISHED = [name for name in NAMES if name.startswith("elevater-")]
CELLS = {
    "demo": 8,
    "offline-check": 36,
    "offline": 975,
    "smoke": 33,
    "successors": 297,
    "search": 48,
    "search-kadaptation": 8,
    "elevater-released": 1600,
    "vtab1k": 912,
    "few-shot-clip": 4888,
}
LEADERBOARD = {row.name for row in catalog().values() if row.leaderboard and row.name != "imagenet-1k"}


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_opens_with_what_it_is_and_its_command(name):
    text = (FOLDER / f"{name}.toml").read_text("utf-8")
    opening = text.partition("\ntitle = ")[0]
    assert all(line.startswith("#") for line in opening.splitlines())
    assert re.search(rf"^#  .*vitadapt bench {name}\b", opening, re.MULTILINE)
    assert max(map(len, text.splitlines())) <= 120


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_expands_to_different_cells_of_things_that_exist(name):
    cells = read_bench(FOLDER / f"{name}.toml")
    assert len(cells) == CELLS.get(name, 400)
    check_names(cells)
    assert {cell.protocol for cell in cells} <= set(PROTOCOLS)
    assert {cell.dataset for cell in cells} <= set(catalog())
    assert len({cell.digest() for cell in cells}) == len(cells)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_benchmark_covers_the_leaderboard(name):
    cells = read_bench(FOLDER / f"{name}.toml")
    assert {cell.dataset for cell in cells} == LEADERBOARD and len(LEADERBOARD) == 20
    assert {cell.backbone for cell in cells} == {"clip-vit-b32", "clip-vit-b16"}
    seeds = {shots: {cell.seed for cell in cells if cell.shots == shots} for shots in (5, 20, 50, None)}
    assert seeds == {5: {0, 1, 2}, 20: {0, 1, 2}, 50: {0, 1, 2}, None: {0}}
    first = cells[: len(cells) * 60 // 400]
    assert {(cell.backbone, cell.shots) for cell in first} == {("clip-vit-b32", 5)}


def test_the_six_published_scripts_differ_in_their_method_alone():
    honest = [name for name in PUBLISHED if name != "elevater-released"]
    tables = {name: read_toml(FOLDER / f"{name}.toml")["bench"] for name in honest}
    methods = {name: table.pop("method") for name, table in tables.items()}
    assert methods == {f"elevater-{method}": method for method in methods.values()}
    assert set(methods.values()) == {"kadaptation", "adapter", "lora", "compacter", "fine-tune", "linear-probe"}
    assert all(table == tables[honest[0]] for table in tables.values())


@pytest.mark.parametrize("name", ["smoke", "successors"])
def test_every_method_that_can_start_without_text_is_tried(name):
    tried = {method_text(cell.method) for cell in read_bench(FOLDER / f"{name}.toml")}
    assert tried == {
        name for name, kind in METHODS.items() if not kind.breaks and default_head("fixed", kind()).start != "text"
    }


def test_smoke_runs_without_network_or_files(tmp_path):
    for cell in read_bench(Path("smoke")):
        record = run(cell, tmp_path)
        assert record.status == "ok" and 0 <= record.score <= 100


def test_recipes_are_part_of_the_package():
    inside = Path(vitadapt.__file__).parent / "benchmark" / "recipes"
    assert {path.name: path.read_bytes() for path in inside.glob("*.toml")} == {
        path.name: path.read_bytes() for path in FOLDER.glob("*.toml")
    }
    assert list(shipped_benchmark_files()) == NAMES


def test_recipes_are_listed_with_their_size():
    rows = {row["name"]: row for row in list_rows("recipes")}
    assert list(rows) == NAMES and rows["smoke"]["cells"] == CELLS["smoke"]
    assert all(row["title"] for row in rows.values())


def test_a_name_is_looked_up_among_the_shipped_ones_but_a_file_wins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shipped = find_benchmark_file(Path("smoke"))
    assert shipped.is_file() and shipped.parent != tmp_path
    shutil.copy(shipped, "smoke")
    assert find_benchmark_file(Path("smoke")) == Path("smoke")
    for path in ("./other/smoke", "smoke.toml", "/no/smoke"):
        assert find_benchmark_file(Path(path)) == Path(path)
    with pytest.raises(UnknownName, match="did you mean smoke"):
        find_benchmark_file(Path("smokes"))


@pytest.mark.parametrize("rule", ["elevater", "native", "given"])
def test_only_the_classes_of_a_published_split_may_have_fewer_images_than_shots(rule):
    labels = np.repeat([0, 1], [30, 10])
    pixels = np.zeros((40, 8, 8), np.uint8)
    data = from_arrays(pixels, labels, pixels[::5], labels[::5])
    data = dataclasses.replace(data, split=rule)
    config = RunConfig("random:tiny", METHODS["lora"](), "digits", shots=20)
    if rule == "given":
        with pytest.raises(DataError, match="has 10"):
            training_pool(config, data, Environment())
    else:
        assert np.bincount(training_pool(config, data, Environment()).labels).tolist() == [20, 10]


def bench_file(path, text):
    path.write_text('[bench]\nbackbone = "random:tiny"\ndataset = "digits"\nmethod = "lora"\n' + text)
    return path


def test_parts_are_multiplied_by_themselves_and_follow_one_another(tmp_path):
    text = "seed = [0, 1]\n[[bench.part]]\nshots = [1, 2]\n[[bench.part]]\nmethod = ['bitfit', 'lora']\nseed = 7\n"
    cells = read_bench(bench_file(tmp_path / "b.toml", text))
    assert [(method_text(c.method), c.shots, c.seed) for c in cells] == [
        ("lora", 1, 0),
        ("lora", 1, 1),
        ("lora", 2, 0),
        ("lora", 2, 1),
        ("bitfit", 5, 7),
        ("lora", 5, 7),
    ]


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("[bench.part]\nshots = 1\n", ConfigError, "two brackets"),
        ("part = [1]\n", ConfigError, "two brackets"),
        ("[[bench.part]]\nshoots = 1\n", UnknownName, "shots"),
    ],
)
def test_a_part_that_cannot_be_read_is_told(tmp_path, text, error, message):
    with pytest.raises(error, match=message):
        read_bench(bench_file(tmp_path / "b.toml", text))


def test_selecting_keeps_cells_and_their_order():
    cells = read_bench(Path("offline"))
    chosen = select(cells, ["dataset=digits", "dataset=openclipart", "method=lora", "seed=2", "shots=5"])
    assert [cell.dataset for cell in chosen] == ["digits", "openclipart"]
    assert all(cell in cells for cell in chosen) and select(cells, []) == cells


@pytest.mark.parametrize(
    ("wanted", "error", "message"),
    [
        (["sed=1"], UnknownName, "did you mean seed"),
        (["seed"], UnknownName, "0, 1, 2"),
        (["shots=all"], UnknownName, "5"),
        (["method=lorra"], UnknownName, "lora"),
    ],
)
def test_selecting_what_is_not_there_is_told(wanted, error, message):
    with pytest.raises(error, match=message):
        select(read_bench(Path("offline")), wanted)


def test_selecting_nothing_at_all_is_told(tmp_path):
    text = "[[bench.part]]\nshots = 1\nseed = 0\n[[bench.part]]\nshots = 2\nseed = 1\n"
    with pytest.raises(ConfigError, match="no cell"):
        select(read_bench(bench_file(tmp_path / "b.toml", text)), ["shots=1", "seed=1"])
