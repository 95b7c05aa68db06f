"""fit, predict, evaluate and info as newcomers use them: from a folder of pictures to answers, wrong ones included."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from vitadapt.classifier import competition
from vitadapt.classifier import fit as fitting
from vitadapt.classifier.candidates import candidate_configs
from vitadapt.classifier.fit import FitConfig, fit_folder, usual_size
from vitadapt.classifier.holdout import train_test_split
from vitadapt.classifier.model import load_model
from vitadapt.classifier.predict import predict_images
from vitadapt.cli.main import app
from vitadapt.data import FileRef
from vitadapt.data.sampling.folds import folds_for, grouped_folds, hold_out_groups
from vitadapt.methods import Discriminant, LoRA
from vitadapt.training.cross_validation import train_final
from vitadapt.training.features import Environment
from vitadapt.training.recipe import Recipe
from vitadapt.training.task import Task
from vitadapt.utils.errors import CellBusy, DataError, Diverged, StorageError, VitadaptError
from vitadapt.weights import load_backbone

COLOURS = ("blue", "green", "red")
FAST = "epochs=2,probe_epochs=5"


def picture(number, colour, side=40):
    """Blocks of noise, so that no two are near-duplicates, with more of one colour."""
    small = np.random.default_rng([number, colour]).integers(0, 140, (5, 5, 3), dtype=np.uint8)
    small[..., 2 - colour] += 80
    return Image.fromarray(small).resize((side, side), Image.Resampling.NEAREST)


def folder_of(root: Path, each=6, colours=COLOURS) -> Path:
    for c, name in enumerate(colours):
        (root / name).mkdir(parents=True)
        for i in range(each):
            picture(i, c).save(root / name / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return folder_of(tmp_path_factory.mktemp("photos") / "photos")


@pytest.fixture(scope="module")
def hard(tmp_path_factory):
    """Pictures whose classes tell nothing."""
    root = tmp_path_factory.mktemp("hard")
    for number in range(18):
        place = root / COLOURS[number % 3]
        place.mkdir(exist_ok=True)
        picture(number, number // 3 % 3).save(place / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def model(photos, tmp_path_factory):
    """A model folder made by the command, and what the command said."""
    out = tmp_path_factory.mktemp("made") / "my-model"
    options = ("-b", "random:tiny-clip", "--recipe", FAST, "--folds", 2, "--no-cache", "--keep-holdout")
    messages = call("fit", photos, "--out", out, *options)
    return out, messages


def call(*arguments, fails=False):
    """What a command prints. A VitadaptError stands for its one line and status 1."""
    found = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if not fails and found.exception is not None:
        raise found.exception
    return found.output if not fails else found


def test_fit_leaves_a_whole_model_folder_and_says_how_good_it_is(model, photos):
    out, messages = model
    assert sorted(path.name for path in out.iterdir()) == [
        "README.md",
        "adapter.safetensors",
        "fit.json",
        "report.html",
        "statistics.safetensors",
    ]
    for expected in (
        "--backbone",
        "--method",
        "--image-size",
        "--folds",
        "--recipe",
        "--seed",
        "95 % interval",
        "kept",
    ):
        assert expected in messages
    record = json.loads((out / "fit.json").read_text())
    names = ["zero-shot", "discriminant", "linear-probe", "kadaptation:blocks=last:1"]
    assert [candidate["name"] for candidate in record["ladder"]] == names
    assert sum(candidate["kept"] for candidate in record["ladder"]) == 1
    assert record["test"]["count"] == 6 and len(record["cross_validation"]["paths"]) == 12
    assert not set(record["test"]["paths"]) & set(record["cross_validation"]["paths"])
    low, high = record["test"]["interval"]
    assert low <= record["test"]["accuracy"] <= high


def test_the_kept_rung_is_the_best_by_cross_validation_and_the_simplest_of_equals(model):
    candidates = json.loads((model[0] / "fit.json").read_text())["ladder"]
    scores = [candidate["score"] for candidate in candidates if candidate["score"] is not None]
    assert next(candidate for candidate in candidates if candidate["kept"])["score"] == max(scores)
    assert candidates[scores.index(max(scores))]["kept"]


def test_a_loaded_model_says_of_the_test_images_what_fit_recorded(model):
    out, _ = model
    test = json.loads((out / "fit.json").read_text())["test"]
    found = load_model(out).predict_proba(test["paths"])
    np.testing.assert_allclose(found, np.array(test["probabilities"]), atol=2e-6)


def full_disk(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "report.html")


def test_the_same_fit_again_does_nothing_and_another_replaces_the_model_only_when_asked(
    model, photos, tmp_path, monkeypatch
):
    out = tmp_path / "m"
    shutil.copytree(model[0], out)
    before = (out / "adapter.safetensors").read_bytes()
    options = ("-b", "random:tiny-clip", "--recipe", FAST, "--folds", 2, "--no-cache", "--keep-holdout", "--out", out)
    stamp = (out / "fit.json").stat().st_mtime_ns
    call("fit", photos, *options)
    assert (out / "fit.json").stat().st_mtime_ns == stamp
    other = ("--method", "linear-probe", "--licence", "MIT")
    with pytest.raises(StorageError, match=r"other images or settings; replace it with --overwrite, or .* --out .*m-2"):
        call("fit", photos, *options, *other)
    assert (out / "adapter.safetensors").read_bytes() == before and (out / "fit.json").stat().st_mtime_ns == stamp
    (out / "report.html").write_text("of the old model")
    with monkeypatch.context() as patch:
        patch.setattr(fitting, "write_pages", full_disk)
        with pytest.raises(StorageError, match="disk is full"):
            call("fit", photos, *options, *other, "--overwrite")
    assert (out / "adapter.safetensors").read_bytes() == before and (out / "fit.json").stat().st_mtime_ns == stamp
    assert (out / "report.html").read_text() == "of the old model"
    with monkeypatch.context() as patch:
        patch.setattr(fitting, "write_pages", lambda *_: None)  # as where a page cannot be made
        call("fit", photos, *options, *other, "--overwrite")
    assert not (out / "report.html").exists()  # it would speak of the old model
    assert (out / "adapter.safetensors").read_bytes() != before
    assert "MIT" in call("info", out)


def test_a_fit_that_was_cut_off_goes_on_where_it_was(photos, tmp_path, monkeypatch):
    from vitadapt.classifier import model_selection as selection

    config = FitConfig(str(photos), "random:tiny", recipe=Recipe(epochs=2, probe_epochs=2), folds=2)
    whole = fit_folder(config, tmp_path / "whole", Environment())
    trained, real = [], selection.fold_answers

    def counted(task, recipe, fold, number, label):
        if len(trained) == 1:
            raise KeyboardInterrupt
        trained.append(label)
        return real(task, recipe, fold, number, label)

    monkeypatch.setattr(selection, "fold_answers", counted)
    with pytest.raises(KeyboardInterrupt):
        fit_folder(config, tmp_path / "cut", Environment())
    assert sorted(path.name for path in (tmp_path / "cut").iterdir()) == [".unfinished", "adapter.safetensors"]
    again: list[str] = []
    monkeypatch.setattr(selection, "fold_answers", lambda *a: (again.append(a[-1]), real(*a))[1])
    resumed = fit_folder(config, tmp_path / "cut", Environment())
    assert again and trained[0] not in again
    assert resumed["test"]["probabilities"] == whole["test"]["probabilities"]
    assert [r["score"] for r in resumed["ladder"]] == [r["score"] for r in whole["ladder"]]


def test_the_test_images_decide_nothing(photos, tmp_path):
    """With other labels on the test part, the same candidate is kept and the same adapter is written."""
    settings = {"backbone": "random:tiny", "recipe": Recipe(epochs=1, probe_epochs=2), "folds": 2}
    for name, turn in {"right": 0, "wrong": 1}.items():
        for c, colour in enumerate(COLOURS):
            shutil.copytree(photos / colour, tmp_path / name / "train" / colour)
            (tmp_path / name / "test" / COLOURS[(c + turn) % 3]).mkdir(parents=True)
            picture(99, c).save(tmp_path / name / "test" / COLOURS[(c + turn) % 3] / "new.png")
        fit_folder(FitConfig(str(tmp_path / name), **settings), tmp_path / f"{name}-model", Environment())
    made = [(tmp_path / f"{name}-model" / "adapter.safetensors").read_bytes() for name in ("right", "wrong")]
    assert made[0] == made[1]


def test_a_class_with_one_image_is_trained_on_and_named(photos, tmp_path):
    shutil.copytree(photos, tmp_path / "rare")
    for i in range(1, 6):
        (tmp_path / "rare" / "red" / f"{i}.png").unlink()
    messages: list[str] = []
    record = fit_folder(
        FitConfig(str(tmp_path / "rare"), "random:tiny"), tmp_path / "m", Environment(), messages.append
    )
    assert record["data"]["train"][2] == 1 and record["data"]["test"] == [2, 2, 0] and record["folds"] == 0
    assert "no images to test with can be spared of red; all of them are used for training" in messages
    assert all("too few different images" in row["note"] for row in record["ladder"])
    assert "no candidates are compared: there is one image of red (near-duplicates count as one)" in messages
    record = fit_folder(
        FitConfig(str(folder_of(tmp_path / "few", each=1)), "random:tiny"), tmp_path / "n", Environment()
    )
    assert record["data"]["train"] == [1, 1, 1] and record["test"]["accuracy"] is None


def test_two_images_per_class_are_enough_and_measured_with_by_cross_validation_or_held_out(tmp_path):
    photos = folder_of(tmp_path / "few", each=2)
    record = fit_folder(FitConfig(str(photos), "random:tiny"), tmp_path / "m", Environment())
    assert record["data"]["train"] == record["data"]["delivered"] == [2, 2, 2]
    assert record["data"]["measured_by"] == "cross-validation" and record["test"]["count"] == 6
    record = fit_folder(FitConfig(str(photos), "random:tiny", keep_holdout=True), tmp_path / "n", Environment())
    assert record["data"]["train"] == record["data"]["delivered"] == [1, 1, 1] and record["test"]["count"] == 3
    assert record["ladder"][0]["kept"] and "too few different images" in record["ladder"][0]["note"]


def test_many_images_are_measured_with_apart_and_then_trained_on(tmp_path):
    """The measure is that of a model which never saw the images held out; the delivered one is trained on all."""
    photos, made = folder_of(tmp_path / "photos", each=60), {}
    for keep in (True, False):
        config = FitConfig(str(photos), "random:tiny", effort="quick", folds=2, keep_holdout=keep)
        made[keep] = fit_folder(config, tmp_path / f"{keep}", Environment())
    kept, refitted = (made[keep]["test"]["probabilities"] for keep in (True, False))
    np.testing.assert_allclose(kept, refitted, atol=1e-5)
    assert made[True]["test"]["count"] >= 30
    assert sum(made[False]["data"]["delivered"]) == 180 > sum(made[True]["data"]["delivered"])
    assert (tmp_path / "True" / "adapter.safetensors").read_bytes() != (
        tmp_path / "False" / "adapter.safetensors"
    ).read_bytes()
    assert "trained on all 180 pictures" in (tmp_path / "False" / "README.md").read_text()


def test_a_first_model_is_there_before_the_dear_candidates_begin(hard, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Task, "with_views", stop)
    config = FitConfig(str(hard), "random:tiny", folds=2)
    with pytest.raises(KeyboardInterrupt):
        fit_folder(config, tmp_path / "m", Environment())
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == [".unfinished", "adapter.safetensors"]
    assert load_model(tmp_path / "m").info.method == Discriminant()


def test_a_candidate_for_which_there_is_no_time_is_not_tried(hard, tmp_path, monkeypatch):
    monkeypatch.setattr(competition, "seconds_per_image", lambda *_: 1.0)
    messages: list[str] = []
    config = FitConfig(str(hard), "random:tiny", folds=2, time_limit=1.0)
    record = fit_folder(config, tmp_path / "m", Environment(), messages.append)
    assert [row["score"] is None for row in record["ladder"]] == [False, False, True]
    assert "more than the time limit leaves" in record["ladder"][-1]["note"]
    assert any(line.startswith("estimate: ") and "for 2 candidates" in line for line in messages)


def broken(root: Path, how: str) -> Path:
    photos = folder_of(root / "photos", each=3)
    if how == "one class":
        for name in COLOURS[1:]:
            shutil.rmtree(photos / name)
    elif how == "an empty class":
        (photos / "yellow").mkdir()
    elif how == "a class that cannot be read":
        for path in (photos / "red").iterdir():
            path.write_text("no image")
    elif how == "nothing":
        shutil.rmtree(photos)
    elif how == "a picture":
        return photos / "red" / "0.png"
    return photos


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("one class", "at least two classes"),
        ("an empty class", "yellow has no images"),
        ("a class that cannot be read", "no readable image to train on of red"),
        ("nothing", "no such file or folder"),
        ("a picture", "give a folder of class folders"),
    ],
)
def test_data_that_cannot_be_used_are_told_in_one_line_and_leave_nothing(how, message, tmp_path):
    with pytest.raises(VitadaptError, match=message) as caught:
        call("fit", broken(tmp_path, how), "-b", "random:tiny", "--out", tmp_path / "m", "--no-cache")
    assert "\n" not in str(caught.value) and not (tmp_path / "m").exists()


def test_fit_in_the_folder_of_the_photos_works_twice(photos, tmp_path, monkeypatch):
    shutil.copytree(photos, tmp_path / "photos")
    monkeypatch.chdir(tmp_path / "photos")
    command = ("fit", ".", "-b", "random:tiny", "--recipe", FAST, "--folds", 2, "--no-cache")
    call(*command)
    stamp = Path("my-model/fit.json").stat().st_mtime_ns
    found = call(*command, fails=True)
    assert found.exit_code == 0 and "nothing to do" in found.stderr
    assert Path("my-model/fit.json").stat().st_mtime_ns == stamp
    assert "accuracy on 18 labelled images" in call("evaluate", "my-model", ".")


def test_all_commands_walk_folders_alike(model, photos, tmp_path):
    """Linked folders are followed, hidden ones are not, pictures that cannot be read are counted."""
    (tmp_path / "linked").mkdir()
    for name in COLOURS:
        (tmp_path / "linked" / name).symlink_to(photos / name)
    (tmp_path / "linked" / ".ipynb_checkpoints").mkdir()
    shutil.copy(photos / "red" / "0.png", tmp_path / "linked" / ".ipynb_checkpoints" / "0-checkpoint.png")
    rows = json.loads(call("predict", model[0], tmp_path / "linked", "--json"))
    printed = json.loads(call("evaluate", model[0], tmp_path / "linked", "--json"))
    data = train_test_split(tmp_path / "linked")
    assert [row["image"] for row in rows] == printed["paths"] and len(rows) == 18
    assert sorted(ref.name for part in (data.train, data.test) for ref in part.refs) == printed["paths"]
    shutil.copytree(photos, tmp_path / "mixed")
    for i in range(5):
        (tmp_path / "mixed" / "red" / f"{i}.CR2").write_bytes(b"raw")
    found = call("predict", model[0], tmp_path / "mixed", "--json", fails=True)
    fitted = call("fit", tmp_path / "mixed", "--out", tmp_path / "m", "-b", "random:tiny", "--recipe", FAST, fails=True)
    for stderr in (found.stderr, fitted.stderr):
        assert "skipped 5 files that may be pictures but cannot be read (5 .cr2); save them as JPEG or PNG" in stderr


def test_corrupt_images_are_left_out_and_named(photos, tmp_path):
    mine = tmp_path / "mine"
    shutil.copytree(photos, mine)
    (mine / "red" / "torn.png").write_bytes((mine / "red" / "0.png").read_bytes()[:60])
    images = train_test_split(mine)
    assert any("torn.png" in note and "left out" in note for note in images.notes)
    assert len(images.train) + len(images.test) == 18


def test_near_duplicates_are_never_on_both_sides(photos, tmp_path):
    mine = tmp_path / "mine"
    shutil.copytree(photos, mine)
    for name in COLOURS:
        for i in range(3):
            image = Image.open(mine / name / f"{i}.png")
            image.resize((37, 37)).save(mine / name / f"copy-of-{i}.jpg", quality=80)
    images = train_test_split(mine)

    def scenes(part):
        return {(Path(ref.name).parent.name, re.findall(r"\d+", Path(ref.name).stem)[0]) for ref in part.refs}

    assert len(images.train) + len(images.test) == 27 and len(images.test)
    assert not scenes(images.train) & scenes(images.test)


def test_groups_stay_together_and_every_class_keeps_something_to_learn_from():
    rng = np.random.default_rng(0)
    for _ in range(30):
        labels, groups = rng.integers(0, 3, 20), rng.integers(0, 9, 20)
        train, test = hold_out_groups([f"{i}" for i in range(20)], labels, groups)
        assert sorted([*train, *test]) == list(range(20))
        assert not set(groups[train]) & set(groups[test])
        assert set(labels[train]) == set(labels)
    labels = np.repeat([0, 1, 2], [20, 20, 2])
    train, test = hold_out_groups([f"{i}" for i in range(42)], labels, np.arange(42), least=2)
    assert folds_for(labels[train], train) == 2 and len(test) == 8  # of the small class both stay
    labels, groups = np.repeat([0, 1], 6), np.arange(12) // 2
    assert folds_for(labels, groups) == 3 and folds_for(labels, labels) == 0
    fold = grouped_folds(labels, groups, 3, seed=1)
    assert all(len(set(fold[groups == g])) == 1 for g in groups)
    assert np.bincount(fold).tolist() == [4, 4, 4]


def test_folders_with_other_things_and_folders_in_use_are_refused(photos, tmp_path):
    from filelock import FileLock

    config = FitConfig(str(photos), "random:tiny")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("x")
    with pytest.raises(StorageError, match="holds other things"):
        fit_folder(config, tmp_path / "thesis", Environment())
    (tmp_path / "m" / ".unfinished").mkdir(parents=True)
    with FileLock(tmp_path / "m" / ".unfinished" / "lock"), pytest.raises(CellBusy, match="another process"):
        fit_folder(config, tmp_path / "m", Environment())


def test_a_change_of_the_recipe_leaves_its_other_fields_as_they_are_without_it():
    for effort in ("quick", "best"):
        plain, changed = (
            candidate_configs(FitConfig("x", "random:tiny", effort=effort, changes=changes), "cpu", 300, False)
            for changes in ({}, {"label_smoothing": 0.25})
        )
        last = list(plain)[2 if effort == "best" else 1 :]
        for name, config in changed.items():
            usual = plain[name].recipe
            assert config.recipe == (replace(usual, label_smoothing=0.25) if name in last else usual)


def test_a_cpu_looks_at_half_of_a_large_size():
    small, large = load_backbone("random:tiny"), load_backbone("random:tiny", image_size=224)
    assert usual_size(small, "cpu") == 32 and usual_size(large, "cpu") == 112 and usual_size(large, "cuda") == 224


def test_predict_in_its_three_forms(model, photos):
    out, _ = model
    table = call("predict", out, photos / "red" / "0.png", photos / "blue", "--top", 2)
    assert table.count(".png") == 7
    rows = json.loads(call("predict", out, photos, "--json", "--top", 3))
    assert len(rows) == 18 and all(abs(sum(row["top"].values()) - 1) < 1e-5 for row in rows)
    lines = call("predict", out, photos / "red", "--csv", "--top", 2, fails=True).stdout.splitlines()
    assert lines[0] == "image,class,rank,label,probability,unknown" and len(lines) == 13
    unsure = json.loads(call("predict", out, photos / "red", "--json", "--threshold", 1))
    assert all(row["class"] is None for row in unsure)
    assert "unsure" in call("predict", out, photos / "red" / "0.png", "--threshold", 1)


def test_predict_reads_images_as_it_goes_and_its_table_is_one(model, photos, monkeypatch):
    images = sorted((photos / "red").iterdir()) + sorted((photos / "blue").iterdir())
    whole = call("predict", model[0], *images)
    monkeypatch.setattr("vitadapt.classifier.batches.BATCH", 2)
    monkeypatch.setattr("vitadapt.cli.classifier.ROWS", 5)
    assert call("predict", model[0], *images) == whole
    refs = [*map(FileRef, images[:2]), "not an image"]
    answers, unreadable = next(predict_images(load_model(model[0]), refs))
    assert [row["image"] for row in answers] == [ref.name for ref in refs[:2]] and not unreadable


def test_predict_goes_on_after_an_image_that_cannot_be_read(model, photos, tmp_path):
    torn = tmp_path / "torn.png"
    torn.write_text("x")
    found = call("predict", model[0], torn, photos / "red" / "0.png", "--csv", fails=True)
    assert found.exit_code == 1 and "torn.png cannot be read" in found.stderr
    assert len(found.stdout.splitlines()) == 2
    with pytest.raises(DataError, match="no such file"):
        call("predict", model[0], tmp_path / "absent.png")
    assert call("predict", model[0], torn, "--threshold", 7, fails=True).exit_code == 2
    with pytest.raises(VitadaptError, match=r"no adapter.safetensors"):
        call("predict", tmp_path, torn)


def test_a_sound_picture_is_used_though_one_with_a_similar_name_is_damaged(tmp_path):
    photos = folder_of(tmp_path / "photos")
    damaged = photos / "red" / "0.png (1).png"
    damaged.write_text("junk")
    pictures = train_test_split(photos)
    used = {ref.name for part in (pictures.train, pictures.test) for ref in part.refs}
    assert str(photos / "red" / "0.png") in used and str(damaged) not in used and len(used) == 18


@pytest.mark.parametrize("cached", [True, False])
def test_every_picture_is_read_and_decoded_once(photos, tmp_path, monkeypatch, cached):
    reads = Counter()

    def counted(ref, read=FileRef.data):
        reads[ref.name] += 1
        return read(ref)

    monkeypatch.setattr(FileRef, "data", counted)
    monkeypatch.setattr(fitting, "write_pages", lambda *_: None)  # which show some of the pictures
    environment = Environment(cache=tmp_path / "cache" if cached else None)
    config = FitConfig(str(photos), "random:tiny", LoRA(), folds=2, recipe=Recipe(epochs=1))
    record = fit_folder(config, tmp_path / "model", environment)
    assert len(reads) == 18 and set(reads.values()) == {1} and record["test"]["count"] > 0


def test_evaluate_matches_classes_by_name(model, photos, tmp_path):
    out, _ = model
    mine = tmp_path / "mine"
    for name, other in {"red": "Red", "blue": "BLUE", "green": "violet"}.items():
        shutil.copytree(photos / name, mine / other)
    found = call("evaluate", out, mine, "--json", fails=True)
    assert found.exit_code == 0 and "violet" in found.stderr
    printed = json.loads(found.stdout)
    assert printed["count"] == 12 and printed["per_class"][1] is None
    truth = ["blue" if "BLUE" in path else "red" for path in printed["paths"]]
    answers = [printed["classes"][np.argmax(row)] for row in printed["probabilities"]]
    assert printed["accuracy"] == pytest.approx(100 * np.mean([a == t for a, t in zip(answers, truth, strict=True)]))
    assert "95 % interval" in call("evaluate", out, photos)
    shutil.rmtree(mine / "Red")
    (mine / "BLUE").rename(mine / "cyan")
    with pytest.raises(DataError, match="none of its classes"):
        call("evaluate", out, mine)


def test_evaluate_takes_all_images_however_few_and_leaves_out_unreadable_ones(model, photos, tmp_path):
    out, _ = model
    folder_of(tmp_path / "one", each=1)
    folder_of(tmp_path / "single", each=4, colours=("blue",))
    folder_of(tmp_path / "tested" / "test", each=2)
    (tmp_path / "one.csv").write_text(f"path,label,split\n{photos}/red/0.png,red,test\n{photos}/red/1.png,red,test\n")
    folder_of(tmp_path / "broken", each=4)
    (tmp_path / "broken" / "red" / "9.png").write_text("junk")
    for name, count in {"one": 3, "single": 4, "tested": 6, "one.csv": 2, "broken": 12}.items():
        found = call("evaluate", out, tmp_path / name, "--json", fails=True)
        assert found.exit_code == 0 and json.loads(found.stdout)["count"] == count, name
    assert "left out: " in found.stderr and "9.png cannot be read" in found.stderr
    with pytest.raises(DataError, match="none to train on"):
        call("fit", tmp_path / "tested", "--out", tmp_path / "m", "-b", "random:tiny")


def test_info_shows_the_rate_that_trained_and_random_weights_are_named(photos, tmp_path):
    options = ("-b", "random:tiny", "-m", "linear-probe", "--recipe", "epochs=2,lr=0.5,head_lr=0.02", "--no-cache")
    found = call("fit", photos, "--out", tmp_path / "m", *options, fails=True)
    training = json.loads(call("info", tmp_path / "m", "--json"))["training"]
    assert training["lr"] == 0.02 and training["steps"] > 0 and "recipe" not in training
    note = "random:tiny has random weights: its scores mean nothing"
    assert note in found.stderr and note in json.loads((tmp_path / "m" / "fit.json").read_text())["data"]["notes"][0]
    assert all("scores mean nothing" in (tmp_path / "m" / name).read_text() for name in ("README.md", "report.html"))


def test_info_needs_no_backbone(model, monkeypatch):
    monkeypatch.setattr("vitadapt.training.features.load_backbone", None)
    printed = json.loads(call("info", model[0], "--json"))
    assert printed["classes"] == list(COLOURS) and printed["format"] == "vitadapt-adapter/4" and "accuracy" in printed


def test_a_model_that_answers_otherwise_when_read_back_is_not_left_silently(photos, tmp_path, monkeypatch):
    real = fitting.load_model

    def damaged(*arguments, **options):
        made = real(*arguments, **options)
        with torch.no_grad():
            made.classifier.head.linear.weight.mul_(-1)
        return made

    monkeypatch.setattr(fitting, "load_model", damaged)
    config = FitConfig(str(photos), "random:tiny", recipe=Recipe(epochs=1, probe_epochs=1), folds=2)
    with pytest.raises(StorageError, match="answers otherwise"):
        fit_folder(config, tmp_path / "m", Environment())
    assert not (tmp_path / "m" / "fit.json").exists()


def test_a_last_training_that_diverges_gives_way_to_the_next_best(photos, tmp_path, monkeypatch):
    config = FitConfig(str(photos), "random:tiny", LoRA(), recipe=Recipe(epochs=2, probe_epochs=2), folds=2)
    messages = []

    def train(task, recipe):
        if task.config.method == chosen:
            raise Diverged("the loss is no number")
        return train_final(task, recipe)

    fit_folder(config, tmp_path / "first", Environment())
    chosen = load_model(tmp_path / "first").info.method
    monkeypatch.setattr(competition, "train_final", train)
    fit_folder(config, tmp_path / "second", Environment(), messages.append)
    assert any(line == "the loss is no number; the next best one is taken instead" for line in messages)
    assert load_model(tmp_path / "second").info.method != chosen

    def never(task, recipe):
        raise Diverged("the loss is no number")

    monkeypatch.setattr(competition, "train_final", never)
    with pytest.raises(Diverged, match="no number"):
        fit_folder(config, tmp_path / "third", Environment())
    assert not (tmp_path / "third" / "fit.json").exists()
