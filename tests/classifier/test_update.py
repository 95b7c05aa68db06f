"""Classes and images come, go and are renamed, without training: the head is that of all images together."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from vitadapt.classifier.candidates import FitConfig, candidate_configs
from vitadapt.classifier.closed_form import Solved, closed_head, due, solve, without
from vitadapt.classifier.fit import fit_folder
from vitadapt.classifier.model import Model, load_model
from vitadapt.classifier.novelty import solved_heads
from vitadapt.classifier.statistics_file import STATISTICS, directions_of, read_statistics, statistics_bytes
from vitadapt.classifier.update import Changes, unused, update_model
from vitadapt.cli.main import app
from vitadapt.data import FileRef
from vitadapt.methods import Discriminant, KAdaptation
from vitadapt.methods.class_statistics import ClassStatistics
from vitadapt.training.features import Environment
from vitadapt.training.loop import forward_all
from vitadapt.training.recipe import Recipe
from vitadapt.utils.errors import ConfigError, DataError, StorageError, UnknownName, WeightsError

COLOURS = {"blue": (0, 0, 80), "green": (0, 80, 0), "red": (80, 0, 0), "yellow": (60, 60, 0)}


def pictures(folder: Path, name: str, numbers: range) -> Path:
    """Blocks of noise with more of one colour, in a folder with the name of the class."""
    (folder / name).mkdir(parents=True, exist_ok=True)
    for number in numbers:
        small = np.random.default_rng([number, *COLOURS[name]]).integers(0, 140, (5, 5, 3), dtype=np.uint8)
        small += np.array(COLOURS[name], dtype=np.uint8)
        Image.fromarray(small).resize((40, 40), Image.Resampling.NEAREST).save(folder / name / f"{number}.png")
    return folder / name


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """photos/ of three classes, more/ of one of them, yellow/, odd/ with yellow ones; a frozen and an adapted model."""
    root = tmp_path_factory.mktemp("update")
    for name in ("blue", "green", "red"):
        pictures(root / "photos", name, range(8))
    pictures(root / "more", "red", range(20, 24))
    pictures(root, "yellow", range(5))
    pictures(root / "odd", "yellow", range(2))
    pictures(root / "odd", "red", range(2))
    for name, method in (("frozen", Discriminant()), ("adapted", KAdaptation())):
        recipe = None if name == "frozen" else Recipe(epochs=2, probe_epochs=3)
        config = FitConfig(str(root / "photos"), "random:tiny", method, folds=2, recipe=recipe)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("vitadapt.classifier.fit.candidate_configs", method_alone)
            patch.setattr("vitadapt.classifier.fit.write_pages", lambda *_: None)
            fit_folder(config, root / name, Environment())
    return root


def method_alone(*arguments: Any) -> dict[str, Any]:
    """The candidate with the method that was asked for, and no simpler ones."""
    return dict([list(candidate_configs(*arguments).items())[-1]])


def call(*arguments: object) -> str:
    found = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if found.exception is not None:
        raise found.exception
    return found.output


def features(model: Model, folder: Path) -> np.ndarray:
    pixels = model.pixels([FileRef(path) for path in sorted(folder.glob("*.png"))])
    return forward_all(model.classifier.backbone, pixels, model.setting, "features").numpy()


@pytest.mark.parametrize("name", ["frozen", "adapted"])
def test_an_added_class_gives_the_head_of_all_images_together(places: Path, name: str, tmp_path: Path) -> None:
    changes = Changes(add=[places / "yellow"], add_images=[str(places / "more")])
    made = update_model(places / name, changes, tmp_path / "m")
    old, new = load_model(places / name), load_model(made.folder)
    known, after = read_statistics(places / name, 3), read_statistics(made.folder, 4)
    assert new.classes == ("blue", "green", "red", "yellow") and made.now["yellow"] == 5
    assert made.now["red"] == made.before["red"] + 4
    x = [known.features.x.astype(np.float32), features(old, places / "yellow"), features(old, places / "more" / "red")]
    labels = np.concatenate([known.features.labels, [3] * 5, [2] * 4])
    whole = ClassStatistics.of(directions_of(np.concatenate(x), known.centre), labels, 4, known.directions.versions)
    ((weight, bias),) = solved_heads(whole, (after.shrinkage,))
    scale = after.temperature * after.correction
    head = new.classifier.head.linear
    for found, wanted in ((head.weight, weight / scale), (head.bias, bias / scale)):
        assert float((found.detach() - torch.from_numpy(wanted)).abs().max()) <= 1e-5 * max(abs(wanted).max(), 1)
    assert new.info.method == (KAdaptation() if name == "adapted" else Discriminant())
    assert new.classifier.novelty is not None and len(new.classifier.novelty.left_out_scores()) == len(labels)
    record = json.loads((made.folder / "fit.json").read_text())
    assert record["updates"][-1]["lines"] == made.lines and record["data"]["train"] == list(made.now.values())
    assert "yellow" in (made.folder / "README.md").read_text()
    assert json.loads(call("predict", made.folder, places / "yellow", "--json"))[0]["top"]


def test_a_class_that_was_added_and_removed_leaves_the_head_as_it_was(places: Path, tmp_path: Path) -> None:
    added = update_model(places / "frozen", Changes(add=[places / "yellow"]), tmp_path / "a")
    back = update_model(added.folder, Changes(remove=["yellow"]), tmp_path / "b")
    known, after = (read_statistics(folder, 3) for folder in (places / "frozen", back.folder))
    for one, other in zip(closed_head(known), closed_head(after), strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-6, atol=1e-6 * abs(one).max())
    assert load_model(back.folder).classes == ("blue", "green", "red") and after.changed == 10


def test_a_new_name_changes_no_answer(places: Path, tmp_path: Path) -> None:
    made = update_model(places / "adapted", Changes(rename=[("RED", "scarlet")]), tmp_path / "m")
    photos = [places / "photos" / "red" / "1.png"]
    old, new = load_model(places / "adapted"), load_model(made.folder)
    assert np.array_equal(old.predict_proba(photos), new.predict_proba(photos))
    assert new.classes == ("blue", "green", "scarlet")
    was, now = (json.loads((folder / "fit.json").read_text()) for folder in (places / "adapted", made.folder))
    assert was["test"] == now["test"] and made.due == []


def test_the_accuracy_of_heads_that_leave_images_out_asks_nothing_of_single_pictures() -> None:
    def accuracy(labels: list[int]) -> float | None:
        answers, not_read = np.eye(3)[[0] * len(labels)], cast(Any, None)
        return Solved(not_read, not_read, not_read, np.array(labels), answers, np.arange(len(labels))).accuracy

    assert accuracy([0, 0, 1, 2]) == 1.0 and accuracy([0, 0, 1, 1]) == 0.5 and accuracy([0, 1, 2]) is None


def test_a_single_picture_is_a_class(places: Path, tmp_path: Path) -> None:
    shutil.copytree(places / "yellow", tmp_path / "one")
    for path in sorted((tmp_path / "one").iterdir())[1:]:
        path.unlink()
    made = update_model(places / "frozen", Changes(add=[tmp_path / "one"]), tmp_path / "m")
    assert made.now["one"] == 1
    assert load_model(made.folder).predict_proba([places / "yellow" / "0.png"]).argmax() == 3


def test_more_and_more_pictures_make_a_new_fit_due(places: Path, tmp_path: Path) -> None:
    few = update_model(places / "frozen", Changes(add_images=[str(places / "more")]), tmp_path / "a")
    assert few.due == []
    more = update_model(few.folder, Changes(remove=["blue"]), tmp_path / "b")
    assert len(more.due) == 1 and "third" in more.due[0]


@pytest.mark.parametrize(("right", "reasons"), [(1, 1), (3, 0)])
def test_a_class_that_came_and_is_recognised_far_less_than_others_makes_a_new_fit_due(right: int, reasons: int) -> None:
    """Of four images of each class all are right, but for those of the last, of which some are."""
    labels = np.repeat([0, 1, 2], 4)
    answers = np.where(np.arange(12) < 8 + right, labels, 0)
    any_model: Any = SimpleNamespace(changed=4, trained=12, classes=["ant", "bee", "cow"])
    solved = Solved(any_model, any_model, any_model, labels, np.eye(3)[answers], np.zeros(12))
    assert due(solved, [0, 1]) == []
    found = due(solved, [0, 1, 2])
    assert len(found) == reasons and all("only 25 % of cow are recognised, of all pictures 75 %" in r for r in found)


def test_pictures_that_were_summed_up_count_as_before(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, known = load_model(places / "frozen"), read_statistics(places / "frozen", 3)
    monkeypatch.setattr("vitadapt.classifier.statistics_file.MOST_BYTES", 0)
    data = statistics_bytes(known, "x")
    assert len(data) > 0
    summed = replace(known, features=known.features.summed_up(), directions=known.directions.summed_up())
    new, labels = features(model, places / "yellow"), np.array([3] * 5)
    info = replace(model.info, classes=(*model.classes, "yellow"))
    whole, parts = (solve(model.classifier, info, one, new, labels, 4) for one in (known, summed))
    same = replace(whole.known, shrinkage=parts.known.shrinkage, temperature=parts.known.temperature)
    for one, other in zip(closed_head(same), closed_head(parts.known), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6 * abs(one).max())
    assert len(parts.known.novelty) == len(known.novelty) + 5
    assert without(parts.known, 0).features.counts.tolist() == [*known.features.counts[1:], 5]


CASES = {
    "nothing": (Changes(), ConfigError, "nothing to change"),
    "an unknown class": (Changes(remove=["reed"]), UnknownName, "did you mean red"),
    "the last but one": (Changes(remove=["red", "blue"]), ConfigError, "green would be left"),
    "a name in use": (Changes(rename=[("red", "Blue")]), ConfigError, "class blue already"),
    "a file": (Changes(add=[Path("photos/red/0.png")]), DataError, "not a folder"),
    "a class that is there": (Changes(add=[Path("photos/red")]), ConfigError, "--add-images"),
    "a folder of classes": (Changes(add=[Path("photos")]), DataError, "each class its own"),
    "images of a strange class": (Changes(add_images=["odd"]), UnknownName, "use --add FOLDER"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_cannot_be_changed_is_told_in_one_line_and_leaves_nothing(
    places: Path, case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes, error, message = CASES[case]
    monkeypatch.chdir(places)
    with pytest.raises(error, match=message):
        update_model(Path("frozen"), changes, tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_models_and_folders_that_cannot_be_used_are_refused(places: Path, tmp_path: Path) -> None:
    shutil.copytree(places / "frozen", tmp_path / "old")
    (tmp_path / "old" / STATISTICS).unlink()
    changes = Changes(remove=["red"])
    with pytest.raises(WeightsError, match="vitadapt fit"):
        update_model(tmp_path / "old", changes, tmp_path / "m")
    shutil.copy(places / "adapted" / STATISTICS, tmp_path / "old")
    with pytest.raises(WeightsError, match="another model"):
        update_model(tmp_path / "old", changes, tmp_path / "m")
    data = bytearray((places / "frozen" / STATISTICS).read_bytes())
    data[-20] ^= 1
    (tmp_path / "old" / STATISTICS).write_bytes(bytes(data))
    with pytest.raises(WeightsError, match="checksum"):
        update_model(tmp_path / "old", changes, tmp_path / "m")
    with pytest.raises(StorageError, match="in use"):
        update_model(places / "frozen", changes, places / "photos")


def test_the_command_names_its_folder_and_keeps_the_old_one(places: Path, tmp_path: Path) -> None:
    shutil.copytree(places / "frozen", tmp_path / "my-model")
    before = (tmp_path / "my-model" / "adapter.safetensors").read_bytes()
    said = call("update", tmp_path / "my-model", "--add", places / "yellow", "--rename", "red", "scarlet")
    assert "my-model-2" in said and "scarlet" in said and "yellow" in said
    assert (tmp_path / "my-model" / "adapter.safetensors").read_bytes() == before
    assert unused(tmp_path / "my-model-2").name == "my-model-3"
    again = json.loads(call("update", tmp_path / "my-model-2", "--remove", "blue", "--json"))
    assert list(again["classes"]) == ["green", "scarlet", "yellow"] and again["model"].endswith("my-model-3")
