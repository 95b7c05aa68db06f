"""ImageClassifier keeps the conventions of scikit-learn, whatever form the images and the labels have."""

from __future__ import annotations

import io
import pickle
import warnings
from unittest import SkipTest

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import get_tags
from sklearn.utils.estimator_checks import (
    check_estimator,
    check_get_params_invariance,
    check_no_attributes_set_in_init,
    estimator_checks_generator,
)

import vitadapt as va
from vitadapt.classifier.estimator import ImageClassifier
from vitadapt.classifier.predict import model_facts
from vitadapt.methods import KAdaptation, LinearProbe, LoRA
from vitadapt.training.recipe import Recipe
from vitadapt.utils.errors import DataError, VitadaptError
from vitadapt.weights import write_state

FAST = Recipe(epochs=3, probe_epochs=5, head_lr=1e-2)
NAMES = np.array(["red", "green", "blue"])


@pytest.fixture(scope="module")
def images():
    """(12, 40, 40, 3) uint8 of three colours with noise, and their numbers."""
    numbers = np.arange(12) % 3
    pictures = np.random.default_rng(0).integers(0, 90, (12, 40, 40, 3), dtype=np.uint8)
    pictures[np.arange(12), :, :, numbers] += 130
    return pictures, numbers


def probe(**changes):
    return ImageClassifier("random:tiny", LinearProbe(), recipe=Recipe(epochs=30, head_lr=1e-2), **changes)


@pytest.fixture(scope="module")
def fitted(images):
    return ImageClassifier("random:tiny", KAdaptation(), recipe=FAST).fit(images[0], NAMES[images[1]])


def test_it_learns_and_answers_in_the_labels_it_was_given(images):
    pictures, numbers = images
    model = probe()
    assert model.fit(pictures, NAMES[numbers]) is model
    assert model.classes_.tolist() == ["blue", "green", "red"]
    assert model.score(pictures, NAMES[numbers]) == 1.0
    probabilities = model.predict_proba(pictures)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    assert (model.classes_[probabilities.argmax(axis=1)] == model.predict(pictures)).all()
    assert probe().fit(pictures, numbers + 5).predict(pictures).tolist() == (numbers + 5).tolist()


def test_every_form_of_the_same_images_gives_the_same_answers(fitted, images, tmp_path):
    pictures, _ = images
    paths = [tmp_path / f"{i}.png" for i in range(len(pictures))]
    for path, picture in zip(paths, pictures, strict=True):
        Image.fromarray(picture).save(path)
    forms = {
        "array": pictures,
        "tensor": torch.from_numpy(pictures).permute(0, 3, 1, 2),
        "PIL": [Image.fromarray(picture) for picture in pictures],
        "paths": paths,
        "texts": [str(path) for path in paths],
        "array of texts": np.array([str(path) for path in paths]),
        "column of a table": pd.DataFrame({"path": paths})["path"],
    }
    expected = fitted.predict_proba(pictures)
    for name, form in forms.items():
        np.testing.assert_array_equal(fitted.predict_proba(form), expected, err_msg=name)


def test_parameters_come_back_and_are_cloned(fitted):
    check_get_params_invariance("ImageClassifier", probe())
    check_no_attributes_set_in_init("ImageClassifier", ImageClassifier())
    copy = clone(fitted)
    assert copy.get_params() == fitted.get_params() and not hasattr(copy, "classes_")
    changed = probe().set_params(method=LoRA(), method__rank=2, recipe__epochs=7, seed=3)
    assert (changed.method, changed.recipe.epochs, changed.seed) == (LoRA(rank=2), 7, 3)
    assert ImageClassifier().set_params(recipe__epochs=2).recipe.epochs == 2
    for wrong in ({"method__colour": 1}, {"nothing": 1}, {"other__rank": 1}):
        with pytest.raises(ValueError, match=r"colour|nothing|other"):
            probe().set_params(**wrong)


def test_the_same_training_gives_the_same_numbers(fitted, images):
    again = clone(fitted).fit(images[0], NAMES[images[1]])
    np.testing.assert_array_equal(again.predict_proba(images[0]), fitted.predict_proba(images[0]))


def test_it_works_inside_scikit_learns_tools(images):
    pictures, numbers = images
    scores = cross_val_score(probe(), pictures, numbers, cv=2)
    assert scores.shape == (2,) and scores.min() == 1.0
    dark = FunctionTransformer(lambda X: X // 2)
    pipeline = Pipeline([("dark", dark), ("model", probe())]).fit(pictures, numbers)
    assert pipeline.score(pictures, numbers) == 1.0
    short = Recipe(epochs=1, probe_epochs=5, head_lr=1e-2)
    search = GridSearchCV(ImageClassifier("random:tiny", LoRA(), recipe=short), {"method__rank": [1, 2]}, cv=2)
    search.fit(pictures, numbers)
    assert search.best_params_["method__rank"] == search.best_estimator_.method.rank
    names = [f"{i}" for i in range(3)]
    assert set(GridSearchCV(probe(), {"seed": [0]}, cv=2).fit(pictures, np.array(names)[numbers]).classes_) == set(
        names
    )


@pytest.mark.parametrize(
    "labels", [NAMES, np.array([7, 3, 5]), np.array([True, False, True])], ids=["str", "int", "bool"]
)
def test_what_is_saved_is_loaded_with_the_same_answers(images, labels, tmp_path):
    pictures, numbers = images
    model = ImageClassifier("random:tiny", KAdaptation(), recipe=FAST).fit(pictures, labels[numbers])
    path = model.save(tmp_path / "model")
    assert path == tmp_path / "model" / "adapter.safetensors"
    loaded = va.ImageClassifier.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.predict_proba(pictures), model.predict_proba(pictures))
    assert loaded.predict(pictures).dtype.kind == labels.dtype.kind
    np.testing.assert_array_equal(loaded.predict(pictures), model.predict(pictures))
    assert loaded.save(tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


def test_of_several_backbones_the_best_in_cross_validation_is_taken(images, tmp_path):
    pictures, numbers = images
    names = ["random:tiny-clip", "random:tiny", "file:/nowhere.pt"]
    model = probe(seed=2).set_params(backbone=names).fit(pictures, NAMES[numbers])
    check_get_params_invariance("ImageClassifier", probe().set_params(backbone=names))
    assert clone(model).backbone == names and not hasattr(clone(model), "backbone_")
    shares = {one.backbone: one.accuracy for one in model.comparison_}
    assert shares.keys() == set(names) and shares[names[2]] is None
    assert shares[model.backbone_] == max(shares[name] for name in names[:2])
    only = probe(seed=2).set_params(backbone=model.backbone_).fit(pictures, NAMES[numbers])
    np.testing.assert_array_equal(only.predict_proba(pictures), model.predict_proba(pictures))
    loaded = ImageClassifier.load(model.save(tmp_path))
    assert loaded.backbone == loaded.backbone_ == model.backbone_
    compared = model_facts(tmp_path)["training"]["compared"]
    assert compared[model.backbone_] == shares[model.backbone_] and "nowhere" in compared[names[2]]
    with pytest.raises(VitadaptError, match="backbone names none"):
        probe().set_params(backbone=[]).fit(pictures, numbers)
    with pytest.raises(VitadaptError, match=r"nowhere\.pt does not exist"):
        probe().set_params(backbone=names[2:]).fit(pictures, numbers)
    with pytest.raises(VitadaptError, match="every class needs at least 2 images"):
        probe().set_params(backbone=names).fit(pictures[:4], numbers[:4])


def test_a_fitted_one_can_be_pickled(fitted, images):
    np.testing.assert_array_equal(
        pickle.loads(pickle.dumps(fitted)).predict_proba(images[0]),  # noqa: S301 - our own bytes
        fitted.predict_proba(images[0]),
    )


def test_wrong_use_is_told_clearly(images, tmp_path):
    pictures, numbers = images
    with pytest.raises(NotFittedError, match="not fitted"):
        probe().predict(pictures)
    wrong = {
        "one label per image": (pictures, numbers[:5]),
        "one class": (pictures, np.zeros(12, dtype=int)),
        "no images": (pictures[:0], numbers[:0]),
        "y is None": (pictures, None),
        "shape": (pictures, 0.5 * np.eye(3)[numbers]),
        "(?i)continuous": (pictures, numbers + 0.5),
        "floating-point": (pictures.astype(float), numbers),
        "no such file": ([tmp_path / "absent.png"] * 12, numbers),
    }
    for message, (X, y) in wrong.items():
        with pytest.raises((ValueError, DataError), match=message):
            probe().fit(X, y)
    with pytest.raises(VitadaptError, match="did you mean"):
        ImageClassifier("random:tinny").fit(pictures, numbers)


@pytest.mark.parametrize("missing", [None, float("nan"), np.nan, pd.NA, pd.NaT, "", "  "])
def test_a_missing_label_is_refused_as_by_scikit_learn(images, missing):
    labels = [*NAMES[images[1]][:-1].tolist(), missing]
    for y in (labels, pd.Series(labels, dtype=object), np.array(labels, dtype=object)):
        with pytest.raises(ValueError, match=r"y contains NaN or empty labels: 1 of 12, the first in row 11"):
            probe().fit(images[0], y)
    with pytest.raises(ValueError, match="y contains NaN"):
        probe().fit(images[0], pd.read_csv(io.StringIO("label\n" + "a\nb\n" * 5 + 'a\n""\n'))["label"])
    with pytest.raises(ValueError, match="y contains NaN"):
        probe().fit(images[0], np.array([0.0] * 11 + [np.nan]))


def test_one_image_gives_one_answer(fitted, images, tmp_path):
    picture = images[0][0]
    Image.fromarray(picture).save(tmp_path / "a.png")
    expected = fitted.predict_proba(images[0][:1])
    tensor = torch.from_numpy(picture).permute(2, 0, 1)
    for one in (picture, Image.fromarray(picture), tmp_path / "a.png", str(tmp_path / "a.png"), tensor[None]):
        np.testing.assert_array_equal(fitted.predict_proba(one), expected)
        assert fitted.predict(one).shape == (1,)
    with pytest.raises(DataError, match=r"for one colour image give images\[None\]"):
        fitted.predict(tensor)


def test_seed_and_recipe_are_saved_with_the_model(images, tmp_path):
    pictures, numbers = images
    model = ImageClassifier("random:tiny", "lora:rank=2", recipe=FAST, seed=3).fit(pictures, numbers)
    loaded = ImageClassifier.load(model.save(tmp_path))
    assert (loaded.seed, loaded.recipe, loaded.method) == (3, FAST, LoRA(rank=2))
    again = clone(loaded).fit(pictures, numbers)
    np.testing.assert_array_equal(again.predict_proba(pictures), model.predict_proba(pictures))
    assert "recipe" not in model_facts(tmp_path)["training"]


def test_a_method_may_be_a_text(images):
    model = ImageClassifier("random:tiny", "lora").set_params(method__rank=2)
    assert model.method == LoRA(rank=2)
    with pytest.raises(VitadaptError, match="did you mean lora"):
        ImageClassifier("random:tiny", "loar").fit(images[0], images[1])


def test_a_backbone_in_a_file_is_found_from_other_folders_and_can_be_named_anew(images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_file(write_state(va.load_backbone("random:tiny"), "timm"), tmp_path / "vit.safetensors")
    pictures, numbers = images
    name = "file:vit.safetensors?heads=2&mean=imagenet"
    model = ImageClassifier(name, LinearProbe(), recipe=FAST).fit(pictures, numbers)
    model.save("mine/model")
    expected = model.predict_proba(pictures)
    monkeypatch.chdir("/")
    np.testing.assert_array_equal(va.load_model(tmp_path / "mine" / "model").predict_proba(pictures), expected)
    (tmp_path / "vit.safetensors").rename(tmp_path / "mine" / "vit.safetensors")  # beside the model folder
    va.load_model(tmp_path / "mine" / "model")
    (tmp_path / "mine" / "vit.safetensors").rename(tmp_path / "elsewhere.safetensors")
    with pytest.raises(VitadaptError, match="--backbone file:PATH"):
        va.load_model(tmp_path / "mine" / "model")
    moved = f"file:{tmp_path}/elsewhere.safetensors?heads=2&mean=imagenet"
    loaded = va.load_model(tmp_path / "mine" / "model", backbone=moved)
    np.testing.assert_array_equal(loaded.predict_proba(pictures), expected)
    estimator = ImageClassifier.load(tmp_path / "mine" / "model", backbone=moved)
    np.testing.assert_array_equal(estimator.predict_proba(pictures), expected)
    with pytest.raises(VitadaptError, match="this backbone is another"):
        va.load_model(tmp_path / "mine" / "model", backbone="random:tiny@1")


def test_a_tensor_of_one_image_is_one_image_and_a_masked_label_is_missing(fitted, images):
    picture = images[0][0]
    np.testing.assert_array_equal(fitted.predict_proba(torch.tensor(picture)), fitted.predict_proba(picture))
    with pytest.raises(ValueError, match="NaN or empty labels: 1 of 12, the first in row 0"):
        probe().fit(images[0], np.ma.array(images[1], mask=[True] + [False] * 11))


class Rows(va.ImageClassifier):
    """Says of itself that it takes rows of numbers, so that scikit-learn tries all of its checks."""

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        return tags


NOT_FOR_US = {"check_parameters_default_constructible": "a method is a frozen dataclass, which no function can change"}


def test_scikit_learns_checks_hold_up_to_their_numbers_that_are_no_images():
    """Every check passes, or ends where its X, rows of numbers, is refused as no images."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_estimator(va.ImageClassifier())  # which says that it takes no rows
        tried = list(estimator_checks_generator(Rows("random:tiny", LinearProbe())))
        passed = set()
        for estimator, check in tried:
            name = check.func.__name__ if hasattr(check, "func") else check.__name__
            try:
                check(estimator)
                passed.add(name)
            except SkipTest:
                continue
            except (AssertionError, DataError) as error:
                causes = (error, error.__cause__, error.__context__)
                assert any(isinstance(cause, DataError) for cause in causes) or name in NOT_FOR_US, name
    assert {"check_set_params", "check_get_params_invariance", "check_estimators_unfitted"} <= passed
    assert {"check_no_attributes_set_in_init", "check_mixin_order", "check_transformers_unfitted"} <= passed
    tags = get_tags(va.ImageClassifier())
    assert tags.estimator_type == "classifier" and tags.input_tags.string and not tags.input_tags.two_d_array
