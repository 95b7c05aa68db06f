"""New classes and other datasets: what is tested with which classes, and that nothing of them is trained."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from export_cases import typed
from PIL import Image
from text_cases import openai_file

from vitadapt.benchmark.analysis.parts import parts_of_scores
from vitadapt.benchmark.analysis.selection_bias import optimism_of
from vitadapt.benchmark.config import RunConfig
from vitadapt.benchmark.prepare import prepare
from vitadapt.benchmark.protocols.few_shot_clip import in_epochs
from vitadapt.benchmark.protocols.released import BEST, LAST
from vitadapt.benchmark.results.record import Record
from vitadapt.benchmark.results.store import Store
from vitadapt.benchmark.runner import run
from vitadapt.benchmark.sweep import check_names, expand
from vitadapt.benchmark.transfer import _named, halves, sentences_of, targets_of
from vitadapt.data import Dataset, from_arrays, open_dataset
from vitadapt.methods import LinearProbe, LoRA, ZeroShot
from vitadapt.nn.head_spec import ZERO, parse_head
from vitadapt.nn.surgery import Method
from vitadapt.training.cross_validation import train_final
from vitadapt.training.features import Environment
from vitadapt.training.recipe import Recipe
from vitadapt.utils.errors import ConfigError, NotApplicable, UnknownName

COLOURS = {"blue": (40, 60, 220), "green": (30, 200, 60), "red": (220, 40, 40), "white": (250, 250, 250)}
COLOURS |= {"yellow": (230, 230, 30)}
FAST = Recipe(epochs=3, batch_size=4, lr=1e-3, head_lr=0.3)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five classes of noisy coloured pictures, 2 for training and 4 for testing each."""
    root, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for label, colour in COLOURS.items():
        for part, count in (("train", 2), ("test", 4)):
            (root / part / label).mkdir(parents=True)
            for i in range(count):
                pixels = np.clip(np.array(colour) + rng.normal(0, 60, (32, 32, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(root / part / label / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    return openai_file(tmp_path_factory.mktemp("clip"))


def some(photos: Path, folder: Path, *labels: str) -> Path:
    """A copy with these classes only."""
    for part in ("train", "test"):
        for label in labels:
            shutil.copytree(photos / part / label, folder / part / label)
    return folder


def record_of(
    clip: str, dataset: Path, tmp_path: Path, method: Method | None = None, **fields: Any
) -> tuple[Record, Store]:
    values: dict[str, Any] = {"shots": 2, "recipe": FAST, "head": parse_head("text"), **fields}
    store = Store(tmp_path / "runs")
    config = RunConfig(clip, method or LinearProbe(), str(dataset), **values)
    return run(config, store, Environment(cache=tmp_path / "cache")), store


def numbered(count: int, order: tuple[int, ...] = ()) -> Dataset:
    images = np.arange(2 * count, dtype=np.uint8).repeat(4).reshape(-1, 2, 2)
    labels = [*range(count), *range(count)]
    made = from_arrays(images, labels, images, labels)
    return Dataset(made.name, made.classes, made.splits, order=order)


@pytest.mark.parametrize(("count", "base"), [(4, 2), (5, 3), (101, 51)])
def test_the_base_half_is_the_first_rounded_up_in_the_order_of_the_copy(count: int, base: int) -> None:
    order = tuple(np.random.default_rng(count).permutation(count).tolist())
    for given in ((), order):
        dataset = numbered(count, given)
        first, second = halves(dataset)
        names = [dataset.classes[i] for i in given or range(count)]
        assert (list(first.classes), list(second.classes)) == (names[:base], names[base:])
        for half in (first, second):
            for split, part in half.splits.items():
                for ref, label in zip(part.refs, part.labels.tolist(), strict=True):
                    row = [one.name for one in dataset.splits[split].refs].index(ref.name)
                    assert dataset.classes[dataset.splits[split].labels[row]] == half.classes[label]
            assert sum(len(part) for part in half.splits.values()) == 4 * len(half.classes)


def test_too_few_classes_or_several_labels_have_no_halves() -> None:
    with pytest.raises(ConfigError, match="needs four classes or more"):
        halves(numbered(3))
    images = np.zeros((4, 2, 2), np.uint8)
    with pytest.raises(ConfigError, match="one label per image"):
        halves(from_arrays(images, np.eye(4, dtype=int), images, np.eye(4, dtype=int)))


def test_base_to_new_is_the_harmonic_mean_of_two_classifiers(clip: str, photos: Path, tmp_path: Path) -> None:
    record, store = record_of(clip, photos, tmp_path, test="base-to-new")
    base, new = record.scores["base"], record.scores["new"]
    assert record.classes == ["blue", "green", "red"] and len(record.images["train"]) == 6
    assert record.score == pytest.approx(2 * base * new / (base + new) if base + new else 0)
    alone, _ = record_of(clip, some(photos, tmp_path / "base", *record.classes), tmp_path)
    assert base == alone.score  # as if the other classes did not exist
    texts, _ = record_of(clip, some(photos, tmp_path / "new", "white", "yellow"), tmp_path, ZeroShot(), head=None)
    assert new == texts.score  # a frozen backbone with the names of classes that it never saw
    probabilities, labels = store.predictions(record)
    assert probabilities.shape == (12, 3) and set(labels) == {0, 1, 2}
    parts = {part.name: part.mean for part in parts_of_scores([record])}
    assert parts == {"base": base, "new": new, "score": record.score}


def test_one_command_measures_base_and_new_classes_of_a_folder(clip: str, photos: Path, tmp_path: Path) -> None:
    out, (first, *others) = tmp_path / "runs", ("zero-shot", "tip-adapter", "coop:tokens=2", "clip-lora")
    methods = [word for name in (first, *others) for word in ("-m", name)]
    asked = ("-b", clip, "--shots", 2, "--recipe", "epochs=4,lr=0.05", "--test", "base-to-new")
    told = typed("run", "-d", photos, *methods, *asked, "-o", out)
    assert "score: the harmonic mean of base and new" in told and "results FOLDER --parts" in told
    rows = json.loads(typed("results", out, "--parts", "--format", "json"))
    found = {(row["method"], row["name"]): row["mean"] for row in rows}
    assert len(found) == 3 * len(methods) / 2
    assert found["tip-adapter", "new"] == found["zero-shot", "new"]  # the towers are as they were
    for part in Store(out).records()[0]:
        base, new = part.scores["base"], part.scores["new"]
        assert part.score == pytest.approx(2 * base * new / (base + new) if base + new else 0)


def test_a_folder_is_not_tested_on_the_images_that_it_trains(clip: str, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is trained on, and is tested anyway"):
        record_of(clip, photos / "test", tmp_path, test=str(photos / "train" / ".." / "test"))


def test_other_classes_are_told_by_their_names_and_the_same_ones_by_what_was_trained(
    clip: str, photos: Path, tmp_path: Path
) -> None:
    trained = some(photos, tmp_path / "trained", "blue", "green", "red")
    fewer = some(photos, tmp_path / "fewer", "blue", "red")
    other = some(photos, tmp_path / "other", "red", "white", "yellow")
    record, store = record_of(clip, trained, tmp_path, test=f"{trained}+{fewer}+{other}")
    own, same, subset, by_name = record.scores[str(trained)], *(record.scores[str(p)] for p in (trained, fewer, other))
    assert own == same and record.score == pytest.approx(np.mean([same, subset, by_name]))
    probabilities, labels = store.predictions(record)
    rows = labels != 1
    assert subset == pytest.approx(
        100 * np.mean(np.array([0, 2])[probabilities[rows][:, [0, 2]].argmax(1)] == labels[rows])
    )
    assert by_name == record_of(clip, other, tmp_path, ZeroShot(), head=None)[0].score
    assert record.notes[-1] == f"by a head of class names: {other}"


def test_the_adapted_tower_answers_for_new_classes(clip: str, photos: Path, tmp_path: Path) -> None:
    """A folder without a test part is tested whole; a training changes what is said of it."""
    other = tmp_path / "other"
    for label in ("white", "yellow", "red", "blue"):
        shutil.copytree(photos / "test" / label, other / f"a {label} thing")
    fields = {"test": str(other), "recipe": Recipe(epochs=4, lr=0.05, batch_size=4)}
    plain, _ = record_of(clip, photos, tmp_path, LoRA(targets=("q", "k", "v", "fc1", "fc2")), **fields)
    untouched, _ = record_of(clip, photos, tmp_path, **fields)
    assert plain.images["test_count"] == 20 and len(open_dataset(other, whole=True).splits["train"]) == 16
    assert plain.scores[str(other)] != untouched.scores[str(other)]


def test_class_names_are_read_by_the_text_tower_as_it_was_trained(clip: str, photos: Path, tmp_path: Path) -> None:
    """Of the trained classes that gives the weights that the training left; of new ones others than before."""
    method, recipe = LoRA(targets=("q", "v", "fc1"), towers="text"), Recipe(epochs=4, lr=0.1, batch_size=4)
    config = RunConfig(clip, method, str(photos), shots=2, recipe=recipe, test="base-to-new").resolved()
    environment = Environment(cache=tmp_path / "cache")
    ready = prepare(config, environment)
    trained = train_final(ready.task, ready.task.recipe)
    texts = sentences_of(config, open_dataset(photos), ready.dataset)
    head = _named("base", ready.dataset, texts, config, environment).classifier(trained).model.head
    torch.testing.assert_close(head.linear.weight, trained.model.head.linear.weight, atol=1e-5, rtol=1e-5)
    (new,) = targets_of(config, ready.dataset, environment)
    assert new.text is not None and len(new.text.features) == 2
    assert (new.classifier(trained).model.head.linear.weight - new.text.features).abs().max() > 1e-3


def test_without_a_text_tower_it_is_said_before_any_training(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(NotApplicable, match="test=base-to-new needs the names of new classes: random:tiny has no text"):
        record_of("random:tiny", photos, tmp_path, head=ZERO, test="base-to-new")
    assert not (tmp_path / "runs" / "records").exists() or not any((tmp_path / "runs" / "records").iterdir())


def test_a_set_to_test_on_is_not_trained_on(clip: str, tmp_path: Path) -> None:
    folder = tmp_path / "imagenetv2" / "imagenetv2-matched-frequency-format-val" / "0"
    folder.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(folder / "x.png")
    config = RunConfig(clip, LinearProbe(), "imagenet-v2", head=parse_head("text"))
    with pytest.raises(ConfigError, match="imagenet-v2 has images to test on alone"):
        run(config, Store(tmp_path / "runs"), Environment(data_root=tmp_path))


def test_the_field_is_an_axis_that_old_records_lack() -> None:
    cells = expand(
        {"backbone": "random:tiny", "dataset": "digits", "method": "lora", "test": ["base-to-new", "dtd+svhn"]}
    )
    assert [cell.test for cell in cells] == ["base-to-new", "dtd+svhn"]
    plain = RunConfig("random:tiny", LoRA(), "digits")
    assert "test" not in plain.to_dict() and len({plain.digest(), *(cell.digest() for cell in cells)}) == 3
    check_names(cells)
    for test in ("dtd+", "base-to-new+dtd"):
        with pytest.raises(ConfigError, match="write base-to-new, or names of datasets joined by"):
            check_names(expand({"backbone": "random:tiny", "dataset": "digits", "method": "lora", "test": test}))
    with pytest.raises(UnknownName, match="'svhm'; did you mean svhn"):
        check_names(expand({"backbone": "random:tiny", "dataset": "digits", "method": "lora", "test": "dtd+svhm"}))


@pytest.mark.parametrize(("classes", "shots"), [(2, 1), (10, 16), (1000, 4)])
def test_steps_grow_with_the_shots_and_not_with_the_classes(classes: int, shots: int) -> None:
    recipe = Recipe(epochs=500, batch_size=32)
    epochs = in_epochs(recipe, torch.arange(classes).repeat(shots)).epochs
    each = math.ceil(classes * shots / 32)
    assert epochs * each == pytest.approx(500 * shots, abs=each / 2)
    assert in_epochs(recipe, torch.zeros(0, dtype=torch.long)).epochs == 1


@pytest.mark.parametrize(
    ("protocol", "method"),
    [*(("few-shot-clip", method) for method in (LinearProbe(), LoRA(), ZeroShot())), ("fixed", LoRA())],
    ids=str,
)
def test_selection_is_the_best_epoch_of_the_honest_training(
    protocol: str, method: Method, clip: str, photos: Path, tmp_path: Path
) -> None:
    recipe = Recipe(epochs=2, batch_size=4, lr=1e-2, head_lr=0.5)
    made = [
        record_of(clip, photos, tmp_path, method, protocol=name, recipe=recipe, head=None)
        for name in (protocol, f"{protocol}-released")
    ]
    records = [record for record, _ in made]
    for record, store in made:  # one label per image: shares of one
        np.testing.assert_allclose(store.predictions(record)[0].sum(axis=1), 1, atol=1e-5)
    honest, released = records
    assert released.scores[LAST] == honest.score and released.scores[BEST] == released.score
    assert released.score == max(released.chosen["test_scores"]) >= honest.score
    assert released.caveat == "best epoch on the test set" and not honest.caveat
    (row,) = optimism_of(records)
    assert (row.best, row.last, row.honest, row.pairs) == (released.score, honest.score, honest.score, 1)
