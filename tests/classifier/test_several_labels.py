"""Several labels per image, from a table to answers, scores, pages, exports and the estimator; and priors."""

from __future__ import annotations

import csv
import json

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.metrics import f1_score
from typer.testing import CliRunner

import vitadapt as va
from vitadapt.classifier.export.deployed import load_trained
from vitadapt.classifier.export.export import export
from vitadapt.classifier.holdout import train_test_split
from vitadapt.cli.main import app
from vitadapt.data import open_dataset
from vitadapt.data.sampling.folds import folds_for, grouped_folds, single_classes
from vitadapt.methods import METHODS, Discriminant, LinearProbe
from vitadapt.metrics.scores import eleven_point_map
from vitadapt.metrics.several_labels import best_thresholds, map_interval
from vitadapt.training.recipe import Recipe
from vitadapt.utils.errors import ConfigError, DataError

FAST = ("-b", "random:tiny", "-m", "linear-probe", "--folds", 2, "--no-cache", "--recipe", "epochs=60,head_lr=0.03")
COLOURS = ("red", "green", "blue")


def call(*arguments):
    found = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if found.exception is not None:
        raise found.exception
    return found.stdout


def picture(row, hot):
    """Noise in which the channels of the colours in `hot` (3,) are bright."""
    pixels = np.random.default_rng(row).integers(0, 90, (6, 6, 3), dtype=np.uint8)
    pixels += np.array(hot, dtype=np.uint8) * np.uint8(150)
    return Image.fromarray(pixels).resize((40, 40), Image.Resampling.NEAREST)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Thirty pictures of none to three colours, and the same labels in two forms of tables."""
    root = tmp_path_factory.mktemp("several")
    hot = np.array([[(row >> c) % 2 for c in range(3)] for row in range(30)])
    for row, own in enumerate(hot):
        picture(row, own).save(root / f"{row}.png")
    names = [";".join(name for name, has in zip(COLOURS, own, strict=True) if has) for own in hot]
    pd.DataFrame({"path": [f"{row}.png" for row in range(30)], "label": names}).to_csv(root / "joined.csv", index=False)
    table = pd.DataFrame(hot, columns=COLOURS)
    table.insert(0, "path", [f"{row}.png" for row in range(30)])
    table.to_csv(root / "columns.csv", index=False)
    return root


@pytest.fixture(scope="module")
def model(folder):
    out = folder / "model"
    said = call("fit", folder / "joined.csv", "--label-separator", ";", "--out", out, *FAST)
    return out, said


def test_both_forms_of_a_table_are_the_same_data(folder):
    joined = open_dataset(folder / "joined.csv", separator=";", whole=True)
    columns = open_dataset(folder / "columns.csv", whole=True)
    assert joined.classes == columns.classes == tuple(sorted(COLOURS))
    np.testing.assert_array_equal(joined.splits["train"].labels, columns.splits["train"].labels)
    assert any("4 have none" in note for note in joined.notes)
    truth = pd.read_csv(folder / "columns.csv")[sorted(COLOURS)].to_numpy()
    np.testing.assert_array_equal(columns.splits["train"].labels, truth)


@pytest.mark.parametrize(
    ("text", "separator", "says"),
    [
        ("path,label\n0.png,a;b\n1.png,b\n", ",", "separates no two labels"),
        ("path,label\n0.png,a|b\n1.png,\n", None, "line 3 has an empty label.*--label-separator"),
        ("path,a,b\n0.png,1,0\n1.png,0,1\n", ";", "one column per label"),
        ("path,a,b\n0.png,1,0\n1.png,2,1\n", None, "line 3 has '2' in the column 'a'"),
        ("path,a,a\n0.png,1,0\n", None, "twice"),
    ],
)
def test_a_table_of_several_labels_that_is_refused(folder, text, separator, says):
    (folder / "refused.csv").write_text(text)
    with pytest.raises(DataError, match=says):
        open_dataset(folder / "refused.csv", separator=separator, whole=True)


@pytest.mark.parametrize(
    ("columns", "says"),
    [({"all": 1, "some": 0}, "every image has the label all"), ({"none": 0, "some": 0}, "no readable image.*none")],
)
def test_a_label_that_tells_nothing_is_named(folder, columns, says):
    table = pd.DataFrame({"path": [f"{row}.png" for row in range(8)], **columns})
    table.loc[:3, "some"] = 1
    table.to_csv(folder / "useless.csv", index=False)
    with pytest.raises(DataError, match=says):
        train_test_split(folder / "useless.csv")


def test_a_separator_is_for_tables_alone(folder):
    for spec, separator in ((folder, ";"), (folder / "joined.csv", "")):
        with pytest.raises(ConfigError, match="--label-separator"):
            open_dataset(spec, separator=separator)


def test_every_label_and_none_are_on_both_sides_and_in_every_fold(folder):
    data = train_test_split(folder / "columns.csv")
    assert data.multilabel and len(data.train) + len(data.test) == 30
    for part in (data.train.labels, data.test.labels):
        assert part.any(axis=0).all() and (part.sum(axis=1) == 0).any()
    folds = folds_for(data.train.labels, data.groups, 3)
    fold = grouped_folds(data.train.labels, data.groups, folds, 0)
    assert folds == 3 and all(data.train.labels[fold == number].any(axis=0).all() for number in range(3))
    assert folds_for(np.eye(3, dtype=int), np.arange(3)) == 0  # one image of each class
    labels = np.array([[1, 0, 1], [1, 0, 0], [1, 1, 0]])
    assert single_classes(labels, np.array([0, 1, 2]), ["three", "one", "another"]) == ["one", "another"]
    assert single_classes(labels, np.array([0, 0, 0]), ["three", "one", "another"]) == ["three", "one", "another"]


def test_thresholds_are_those_of_the_best_f1():
    random = np.random.default_rng(0)
    labels = (random.random((60, 4)) < 0.3).astype(int)
    probabilities = np.round(np.clip(0.3 * labels + 0.7 * random.random((60, 4)), 0, 1), 2)
    thresholds = best_thresholds(labels, probabilities)
    for c, threshold in enumerate(thresholds):
        own = f1_score(labels[:, c], probabilities[:, c] >= threshold)
        assert own == max(f1_score(labels[:, c], probabilities[:, c] >= t) for t in np.linspace(0, 1, 201))
    perfect = np.array([[0.9], [0.8], [0.2], [0.1]])
    assert best_thresholds(np.array([[1], [1], [0], [0]]), perfect) == (0.5,)
    assert best_thresholds(np.zeros((4, 1), dtype=int), perfect) == (0.5,)


def test_the_interval_of_the_mean_average_precision_covers_it_and_narrows():
    random = np.random.default_rng(1)
    labels = (random.random((400, 3)) < 0.4).astype(int)
    probabilities = 0.3 * labels + 0.7 * random.random((400, 3))
    wide, narrow = (map_interval(labels[:count], probabilities[:count]) for count in (40, 400))
    assert narrow[0] < eleven_point_map(labels, probabilities) < narrow[1]
    assert narrow[1] - narrow[0] < wide[1] - wide[0]
    assert map_interval(labels, probabilities) == narrow


def test_fit_says_map_with_its_interval_and_writes_thresholds(model):
    out, said = model
    record = json.loads((out / "fit.json").read_text())
    test, cross = record["test"], record["cross_validation"]
    assert "mean average precision on" in said and "F1 of the labels" in said
    assert any("only methods that train" in note for note in record["data"]["notes"])
    expected = eleven_point_map(np.array(test["labels"]), np.array(test["probabilities"]))
    assert test["mean_average_precision"] == pytest.approx(100 * expected, abs=0.01) and "accuracy" not in test
    assert [row["name"] for row in record["ladder"]] == ["linear-probe"]
    info, _ = va.read_adapter(out / "adapter.safetensors")
    assert info.thresholds == pytest.approx(
        best_thresholds(np.array(cross["labels"]), np.array(cross["probabilities"])), abs=1e-4
    )
    assert "mean average precision" in call("info", out) and "thresholds" in call("info", out)
    page, card = (out / "report.html").read_text(), (out / "README.md").read_text()
    assert "mean average precision on new pictures" in page and page.count("<section") >= 3
    assert "average precision %" in page and "any of 3 labels" in card


def test_predict_gives_every_label_that_reaches_its_threshold(model, folder):
    out, _ = model
    loaded = va.load_model(out)
    paths = [folder / "0.png", folder / "7.png"]  # none, and all three colours
    with torch.no_grad():
        expected = loaded.classifier(va.load_images(paths, loaded)).sigmoid().numpy()
    rows = json.loads(call("predict", out, *paths, "--json", "--top", 3))
    for row, own in zip(rows, expected, strict=True):
        assert row["top"] == pytest.approx(dict(zip(loaded.classes, own.tolist(), strict=True)), abs=1e-4)
        reached = [name for name, p, t in zip(loaded.classes, own, loaded.info.thresholds, strict=True) if p >= t]
        assert sorted(row["labels"]) == reached
    assert (rows[0]["labels"], rows[0]["class"], set(rows[1]["labels"])) == ({}, None, set(COLOURS))
    lines = csv.DictReader(call("predict", out, *paths, "--csv").splitlines())
    assert [sorted(filter(None, line["class"].split("|"))) for line in lines] == [[], sorted(COLOURS)]
    everything = json.loads(call("predict", out, paths[0], "--threshold", 0, "--json"))
    assert len(everything[0]["labels"]) == 3
    assert "none" in call("predict", out, paths[0])
    with pytest.raises(ConfigError, match="--prior"):
        call("predict", out, paths[0], "--prior", "uniform")


def test_evaluate_takes_any_table_of_labels_of_the_same_names(model, folder):
    out, _ = model
    found = json.loads(call("evaluate", out, folder / "columns.csv", "--json"))
    assert found["count"] == 30 and 0 < found["mean_average_precision"] <= 100 and len(found["per_label"]["f1"]) == 3
    again = json.loads(call("evaluate", out, folder / "joined.csv", "--label-separator", ";", "--json"))
    assert again["probabilities"] == found["probabilities"] and again["labels"] == found["labels"]
    assert "average precision" in call("evaluate", out, folder / "columns.csv")
    (folder / "other.csv").write_text("path,cat,dog\n0.png,1,0\n1.png,0,1\n")
    with pytest.raises(DataError, match="none of its labels"):
        call("evaluate", out, folder / "other.csv")


def test_methods_that_give_one_label_are_refused_by_name(folder, tmp_path):
    single = [name for name, kind in METHODS.items() if not kind.several_labels]
    assert "discriminant" in single and "zero-shot" in single and "linear-probe" not in single
    with pytest.raises(ConfigError, match="discriminant gives one label per image"):
        call(
            "fit", folder / "columns.csv", "-b", "random:tiny", "-m", "discriminant", "-o", tmp_path / "m", "--no-cache"
        )


def test_exports_say_what_the_logits_mean(model, tmp_path):
    trained = load_trained(model[0])
    export(trained, "torch-export", tmp_path / "exported")
    thresholds = json.loads((tmp_path / "exported" / "thresholds.json").read_text())
    assert thresholds == dict(zip(trained.info.classes, trained.info.thresholds, strict=True))


def test_the_estimator_takes_a_matrix_of_labels(folder, tmp_path):
    table = pd.read_csv(folder / "columns.csv")
    paths, labels = [str(folder / path) for path in table["path"]], table[list(COLOURS)]
    estimator = va.ImageClassifier("random:tiny", LinearProbe(), recipe=Recipe(epochs=60, head_lr=0.03))
    estimator.fit(paths, labels)
    assert estimator.classes_.tolist() == list(COLOURS)
    probabilities = estimator.predict_proba(paths)
    np.testing.assert_array_equal(estimator.predict(paths), probabilities >= 0.5)
    assert estimator.score(paths, labels) > 0.5
    loaded = va.ImageClassifier.load(estimator.save(tmp_path / "model"))
    np.testing.assert_array_equal(loaded.predict(paths), estimator.predict(paths))
    assert va.ImageClassifier("random:tiny", "linear-probe").fit(paths, labels.to_numpy()).classes_.tolist() == [
        0,
        1,
        2,
    ]
    with pytest.raises(ConfigError, match="LinearProbe"):
        va.ImageClassifier("random:tiny", Discriminant()).fit(paths, labels)
    for column, says in ((0, "no image"), (1, "every image")):
        with pytest.raises(ValueError, match=says):
            estimator.fit(paths, labels.assign(red=column))
