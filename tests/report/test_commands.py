"""vitadapt report and vitadapt plot, as commands."""

from __future__ import annotations

import dataclasses

import pytest
from result_cases import record, saved
from typer.testing import CliRunner

from vitadapt.benchmark.results.store import Store
from vitadapt.cli.main import app
from vitadapt.utils.errors import ConfigError, UnknownName


@pytest.fixture
def runs(tmp_path):
    store = Store(tmp_path / "runs")
    for shots in (2, 5):
        for method in ("lora", "bitfit"):
            saved(store, record(method, axes={"shots": shots}))
    return store.root


def call(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_the_report_lies_beside_the_records_and_its_place_is_printed(runs):
    assert call("report", runs).output.strip() == str(runs / "report.html")
    assert (runs / "report.html").read_text("utf-8").startswith("<!doctype html>")


def test_only_takes_a_part(runs, tmp_path):
    out = tmp_path / "part.html"
    call("report", runs, "-o", out, "--only", "shots=5", "--only", "method=lora")
    text = out.read_text("utf-8")
    assert "--shots 5" in text and "--shots 2" not in text and "bitfit" not in text


def test_a_damaged_record_is_named_on_the_page_and_on_the_terminal(runs):
    broken = runs / "records" / ("0" * 16 + ".json")
    broken.write_text("{")
    assert broken.name in call("report", runs).stderr
    assert broken.name in (runs / "report.html").read_text("utf-8")


@pytest.mark.parametrize("figure", ["accuracy", "heatmap", "cost"])
def test_a_figure_is_drawn_by_name(runs, figure, tmp_path):
    assert call("plot", runs, "--figure", figure).output.strip() == str(runs / f"{figure}.png")
    call("plot", runs, "--figure", figure, "-o", tmp_path / "p.pdf", "--only", "shots=2")
    assert (tmp_path / "p.pdf").read_bytes().startswith(b"%PDF")


def test_what_is_not_there_is_named(runs, tmp_path):
    assert "heatmap" in call("plot", runs, "--figure", "heatmaps").output
    with pytest.raises(UnknownName, match="20"):
        call("report", runs, "--only", "shots=20")
    (tmp_path / "none" / "records").mkdir(parents=True)
    with pytest.raises(ConfigError, match="no records"):
        call("report", tmp_path / "none")


def test_a_record_of_a_method_that_is_not_installed_stops_nothing(tmp_path):
    """Shown by its recorded name in results, compare, report and plot, and chosen by it."""
    store, known = Store(tmp_path / "runs"), record()
    config = {**known.config, "method": {"name": "mine", "size": 4}}
    for seed in range(2):
        saved(store, record(seed=seed))
        digest = f"{seed:016x}"
        cell = {**config, "seed": seed}
        saved(store, dataclasses.replace(known, config=cell, digest=digest, method_label="mine:size=4", score=70.0))
    for line in (["results"], ["compare"], ["report"], ["plot"], ["report", "--only", "method=mine:size=4"]):
        done = CliRunner().invoke(app, [line[0], str(store.root), *line[1:]])
        assert done.exit_code == 0, done.output
    page = (store.root / "report.html").read_text("utf-8")
    assert "mine:size=4" in page and ">lora<" not in page
