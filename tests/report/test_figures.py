"""Pictures from records: every figure is drawn, settings never meet, and no name can do harm."""

from __future__ import annotations

import dataclasses
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.figure import Figure
from result_cases import record, saved

from vitadapt.benchmark.results.store import Store
from vitadapt.report.cost_figures import cost, own_seconds
from vitadapt.report.figure import clean, label_points, number_text, short_names, untagged
from vitadapt.report.figure_data import Subject
from vitadapt.report.plot import FIGURES, drawing, new_figure, plot
from vitadapt.report.training_figures import pooled, trials_of
from vitadapt.utils.errors import ConfigError, StorageError, UnknownName

HOSTILE = ("$\\frac{", "a\x00b\x1b[31m", "_hidden", "<script>alert(1)</script>", "数字", "x" * 300, "/p/q/photos")


@pytest.fixture
def store(tmp_path):
    """Two settings, three methods, three seeds, odd names, one search, one divergence, with predictions."""
    store = Store(tmp_path / "runs")
    trace = [[0.1, 0.01, 2, 50.0, "a"], [0.01, 0.01, 2, None, "a"], [0.1, 0.01, 6, 60.0, "b"]]
    for shots in (2, 5):
        for index, method in enumerate(("lora", "bitfit", "linear-probe")):
            for seed in range(3):
                for dataset in ("digits", *HOSTILE[:2]):
                    score = None if (shots, index, seed, dataset) == (5, 0, 0, "digits") else 60.0 + 3 * index + seed
                    losses = [] if score is None else [2.0, 1.0, 0.5][: index + 1]
                    made = record(
                        method,
                        dataset,
                        seed,
                        score,
                        10 ** (index + 3),
                        {"shots": shots},
                        losses=losses,
                        chosen={"trace": trace},
                    )
                    saved(store, made)
    return store


def subject(store):
    return Subject(store.records()[0], store.predictions)


@pytest.mark.parametrize("figure", FIGURES)
def test_every_figure_is_a_file_and_draws_something_on_each_panel(figure, store, tmp_path):
    path = plot(store.records()[0], tmp_path / "p.svg", figure, store.predictions)
    assert path.read_text("utf-8").count("axes_") >= 2
    with drawing():
        for panel in FIGURES[figure](subject(store)).panels:
            axes = Figure(figsize=panel.size).subplots()
            panel.draw(axes, untagged)
            assert axes.has_data() and axes.get_xlabel() + axes.get_ylabel() + "".join(
                text.get_text() for text in axes.get_xticklabels()
            )


@pytest.mark.parametrize("figure", FIGURES)
def test_no_panel_shows_two_settings(figure, store):
    picture = FIGURES[figure](subject(store))
    assert {panel.about["shots"] for panel in picture.panels} == {"2", "5"}
    assert all(("shots 2" in panel.title) == (panel.about["shots"] == "2") for panel in picture.panels)


@pytest.mark.parametrize("figure", [name for name in FIGURES if name != "search"])
def test_any_name_can_be_drawn(figure, tmp_path):
    store = Store(tmp_path / "runs")
    for seed in range(2):
        for name in (*HOSTILE, "digits"):
            saved(store, record(dataset=name, seed=seed))
    path = plot(store.records()[0], tmp_path / "p.svg", figure, store.predictions)
    root = ElementTree.parse(path).getroot()
    assert not [element for element in root.iter() if element.tag.endswith("script")]


def test_the_cost_of_a_method_holds_neither_start_up_nor_what_is_prepared_for_all(tmp_path):
    first = record("lora", seed=0, seconds={"data": 90.0, "features": 40.0, "train": 9.0, "test": 1.0})
    others = [record("lora", seed=s, seconds={"data": 0.1, "features": 0.0, "train": 2.0, "test": 1.0}) for s in (1, 2)]
    assert [own_seconds(made) for made in (first, *others)] == [10.0, 3.0, 3.0]
    assert own_seconds(record(seconds={"data": 2.0})) == 2.0
    drawn = Subject([first, *others], lambda _: None)
    shown = next(panel for panel in cost(drawn).panels if panel.draw.keywords["xlabel"] == "seconds per run")
    assert shown.draw.keywords["costs"] == {"lora": 3.0}


def test_what_does_not_exist_or_was_not_done_is_named(store, tmp_path):
    with pytest.raises(UnknownName, match="heatmap"):
        plot(store.records()[0], tmp_path / "p.png", "heat", store.predictions)
    with pytest.raises(ConfigError, match="no run searched"):
        plot([record()], tmp_path / "p.png", "search", store.predictions)


def test_a_method_has_one_colour_everywhere_and_its_own(store):
    drawn = subject(store)
    assert sorted(drawn.methods) == ["bitfit", "linear-probe", "lora"]
    orders = [[group.method for group in groups] for _, _, groups in drawn.by_dataset()]
    assert all(order == drawn.methods for order in orders)


def test_damaged_predictions_are_named_and_not_left_out_in_silence(store):
    records = [made for made in store.records()[0] if made.method == "bitfit" and made.config["shots"] == 2]
    assert len(pooled(records, store.predictions)["digits"][0]) == 12
    path = store.path("predictions", next(r for r in records if r.config["dataset"] == "digits").digest)
    path.write_bytes(b"?")
    with pytest.raises(StorageError, match=path.name):
        pooled(records, store.predictions)
    without = [dataclasses.replace(r, files={}) if r.digest == path.stem else r for r in records]
    labels, probabilities = pooled(without, store.predictions)["digits"]
    assert len(labels) == 8 and np.all(probabilities == 0.5)


def test_of_several_trials_of_a_point_the_longest_counts_and_odd_traces_are_left_out():
    made = record(chosen={"trace": [[0.1, 0.01, 6, 60.0, "b"], [0.1, 0.01, 2, 50.0, "a"], [1.0, 0.0, 2, None, "a"]]})
    assert trials_of(made) == [(0.1, 0.01, 60.0), (1.0, 0.0, None)]
    assert trials_of(record(chosen={"trace": ["x", [1], {"lr": 1}]})) == [] == trials_of(record())


def test_names_beside_points_do_not_cover_each_other():
    with drawing():
        figure = new_figure((5, 4))
        axes = figure.subplots()
        points = [(0.5, 0.5), (0.52, 0.51), (0.51, 0.49), (0.99, 0.99)]
        axes.set(xlim=(0, 1), ylim=(0, 1))
        texts = label_points(axes, points, ["first", "second", "third", "in the corner"])
        boxes = [text.get_window_extent() for text in texts]
    assert not [(a, b) for i, a in enumerate(boxes) for b in boxes[:i] if a.overlaps(b)]
    assert boxes[-1].x1 <= axes.bbox.x1 + 4


@pytest.mark.parametrize(
    ("value", "text"), [(0.5, "0.5"), (1200, "1200"), (10_000, "10k"), (2e6, "2M"), (1e-5, "1e-5"), (0, "0")]
)
def test_numbers_on_axes_are_short(value, text):
    assert number_text(value) == text


def test_short_names_stay_apart_and_clean_names_stay_printable():
    names = ["/a/x/p", "/b/x/p", "digits"]
    assert len(set(short_names(names).values())) == 3 and short_names(names)["digits"] == "digits"
    assert short_names(["/a/b/photos", "digits"])["/a/b/photos"] == "photos"
    assert all(character.isprintable() for character in clean("a\x00\n\x1b" + "b" * 99)) and len(clean("b" * 99)) == 30
