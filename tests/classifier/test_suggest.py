"""What to label next: the rules, and the ways on which the answer leaves."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import vitadapt as va
from vitadapt.classifier.predict import find_images
from vitadapt.classifier.suggest import RULES, Suggestion, doubt, label_studio_tasks, ranked, suggest
from vitadapt.cli.main import app
from vitadapt.cli.options import SuggestRule
from vitadapt.data import FileRef
from vitadapt.methods import LinearProbe
from vitadapt.utils.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Five labelled pictures, and six without labels, of which two are alike and one is damaged."""
    folder = tmp_path_factory.mktemp("suggest")
    rng = np.random.default_rng(0)
    for place, count in {"known/cat": 3, "known/dog": 2, "new": 6}.items():
        (folder / place).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(folder / place / f"{i} a.png")
    (folder / "new" / "5 a.png").write_bytes((folder / "new" / "4 a.png").read_bytes())
    (folder / "new" / "broken.png").write_bytes(b"no picture")
    return folder


@pytest.fixture(scope="module")
def model(photos):
    paths = sorted(photos.glob("known/*/*.png"))
    fitted = va.ImageClassifier("random:tiny", LinearProbe()).fit(paths, [path.parent.name for path in paths])
    fitted.save(photos / "model")
    return va.load_model(photos / "model")


def call(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def unit(*angles):
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def test_each_rule_takes_the_largest_of_what_it_looks_at():
    doubts = np.array([0.9, 0.8, 0.1, 0.85])
    directions, known = unit(0.0, 2.0, 3.1, 0.1), unit(0.05)
    assert ranked(doubts, directions, known, 4, "uncertainty")[0] == [0, 3, 1, 2]
    assert ranked(doubts, directions, known, 2, "coreset")[0] == [2, 1]
    order, distances = ranked(doubts, directions, known, 9, "margin")
    assert order[:2] == [0, 1] and sorted(order) == [0, 1, 2, 3]  # 3 is as doubtful as 1, and like 0
    np.testing.assert_allclose(distances[:2], [1 - np.cos(0.05), 1 - np.cos(1.95)])
    assert ranked(doubts, directions, known[:0], 1, "coreset")[1] == [2.0]  # nothing is known: all are new
    shuffles = {tuple(ranked(doubts, directions, known, 4, "random", seed)[0]) for seed in range(20)}
    assert len(shuffles) > 5 and all(sorted(one) == [0, 1, 2, 3] for one in shuffles)


@pytest.mark.parametrize("rule", ["margin", "coreset"])
def test_of_two_equal_pictures_the_second_comes_last(rule):
    order, distances = ranked(np.ones(4), unit(1.0, 2.0, 1.0, 3.0), unit(0.0), 4, rule)
    assert {order[3]} < {0, 2} and distances[3] == pytest.approx(0)


def test_doubt_is_zero_when_sure_and_one_when_torn():
    np.testing.assert_allclose(doubt(np.array([[1.0, 0, 0], [0.5, 0.5, 0], [0.6, 0.3, 0.1]]), np.zeros(0)), [0, 1, 0.7])
    several = doubt(np.array([[0.0, 1.0], [0.2, 1.0], [0.1, 0.9]]), np.array([0.2, 0.8]))
    np.testing.assert_allclose(several, [0, 1, 0.5])


def test_suggestions_are_what_the_model_says_of_the_readable_pictures(photos, model):
    refs, _ = find_images([photos / "new"])
    found, unreadable = suggest(model, refs, 50)
    assert "broken.png" in unreadable[0] and len(found) == 6
    for one in found:
        expected = dict(zip(model.classes, model.predict_proba(Path(one.ref.name))[0].tolist(), strict=True))
        assert one.probabilities == pytest.approx(expected, abs=1e-5) and one.label == max(expected, key=expected.get)
    assert Path(found[-1].ref.name).name in ("4 a.png", "5 a.png")  # one of the two that are alike
    assert len(suggest(model, refs, 2)[0]) == 2
    with pytest.raises(ConfigError, match="margin"):
        suggest(model, refs, 2, "best")
    with pytest.raises(DataError, match=r"broken\.png"):
        suggest(model, [FileRef(photos / "new" / "broken.png")], 2)


def test_the_command_writes_table_page_and_tasks_that_can_be_read_back(photos, model, tmp_path):
    tasks, page = photos / "tasks.json", tmp_path / "next.html"
    words = ("suggest", model.path.parent, photos / "new", "--count", 3, "--html", page, "--label-studio", tasks)
    done = call(*words, "--csv")
    assert done.exit_code == 1 and "broken.png" in done.stderr
    rows = list(csv.DictReader(done.stdout.splitlines()))
    plain = json.loads(call(*words, "--json").stdout)
    assert [row["image"] for row in rows] == [row["image"] for row in plain] and len(rows) == 3
    assert page.read_text().count("data:image/jpeg") == 3
    content = json.loads(tasks.read_text())
    for one, row in zip(content, rows, strict=True):
        place = unquote(one["data"]["image"].removeprefix("/data/local-files/?d="))
        assert (photos / place).samefile(row["image"])
        (result,) = one["predictions"][0]["result"]
        assert result["value"]["choices"] == [row["label"]]
        one |= {"id": len(row["image"]) + int(row["rank"]), "annotations": [{"result": [result]}]}  # as a person agrees
    tasks.write_text(json.dumps(content))
    dataset = va.open_dataset(tasks, whole=True)
    labels = [dataset.classes[label] for label in dataset.splits["train"].labels]
    assert labels == [row["label"] for row in rows]
    assert isinstance(call("suggest", model.path.parent, photos / "new", "--csv", "--json").exception, ConfigError)
    assert set(SuggestRule.__args__) == set(RULES)


def test_tasks_need_a_folder_above_their_pictures_and_have_every_label_above_its_threshold(photos, model, tmp_path):
    one = Suggestion(FileRef(photos / "new" / "0 a.png"), {"cat": 0.7, "dog": 0.4}, 0.5, 1.0)
    several = replace(model.info, thresholds=(0.5, 0.3))
    for info, labels in ((model.info, ["cat"]), (several, ["cat", "dog"])):
        (made,) = label_studio_tasks([one], info, "model", photos)
        assert made["predictions"][0]["result"][0]["value"]["choices"] == labels
    with pytest.raises(ConfigError, match="above the pictures"):
        label_studio_tasks([one], model.info, "model", tmp_path)


def test_pictures_that_a_model_was_made_from_are_left_out(photos, tmp_path):
    done = call("fit", photos / "known", "-o", tmp_path / "m", "-b", "random:tiny", "--effort", "quick", "--no-cache")
    assert done.exit_code == 0, done.output
    done = call("suggest", tmp_path / "m", photos / "known", photos / "new", "--json")
    assert "5 pictures are left out" in done.stderr
    assert len(json.loads(done.stdout)) == 6
    assert "every picture has a label" in str(call("suggest", tmp_path / "m", photos / "known").exception)
