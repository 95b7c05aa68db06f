"""ImageClassifier keeps the conventions of scikit-learn, whatever form the images and the labels have."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import check_get_params_invariance, check_no_attributes_set_in_init

import vitadapt as va
from vitadapt.classifier.estimator import ImageClassifier
from vitadapt.methods import KAdaptation, LinearProbe, LoRA
from vitadapt.training.recipe import Recipe
from vitadapt.utils.errors import DataError, VitadaptError

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
        "shape": (pictures, np.eye(3)[numbers]),
        "(?i)continuous": (pictures, numbers + 0.5),
        "floating-point": (pictures.astype(float), numbers),
        "no such file": ([tmp_path / "absent.png"] * 12, numbers),
    }
    for message, (X, y) in wrong.items():
        with pytest.raises((ValueError, DataError), match=message):
            probe().fit(X, y)
    with pytest.raises(VitadaptError, match="did you mean"):
        ImageClassifier("random:tinny").fit(pictures, numbers)
