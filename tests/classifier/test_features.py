"""embed, similar, transform and load_images: the same numbers on every way, and what goes wrong is named."""

from __future__ import annotations

import csv
import json

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from typer.testing import CliRunner

import vitadapt as va
from vitadapt.classifier import batches
from vitadapt.classifier.features_file import read_features
from vitadapt.cli.main import app
from vitadapt.methods import KAdaptation
from vitadapt.training.recipe import Recipe
from vitadapt.utils.errors import ConfigError, DataError, StorageError

TINY = ("-b", "random:tiny")


def call(*arguments, status=0):
    found = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if isinstance(found.exception, va.VitadaptError):
        raise found.exception
    assert found.exit_code == status, found.output
    return found.output


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Seven pictures in two class folders, one of them damaged."""
    folder = tmp_path_factory.mktemp("features") / "photos"
    rng = np.random.default_rng(0)
    for name, count in {"cats": 3, "dogs": 4}.items():
        (folder / name).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(folder / name / f"{i}.png")
    (folder / "cats" / "1.png").write_bytes(b"no picture")
    return folder


@pytest.fixture(scope="module")
def model(photos, tmp_path_factory):
    """A model whose backbone was changed by its training."""
    paths = [path for path in sorted(photos.glob("*/*.png")) if path != photos / "cats" / "1.png"]
    classifier = va.ImageClassifier("random:tiny", KAdaptation(), recipe=Recipe(epochs=2, probe_epochs=3, lr=0.1))
    fitted = classifier.fit(paths, [path.parent.name for path in paths])
    return fitted, paths, fitted.save(tmp_path_factory.mktemp("model") / "model").parent


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_embed_writes_what_the_backbone_makes_of_the_images_it_could_read(photos, tmp_path, suffix, monkeypatch):
    monkeypatch.setattr(batches, "BATCH", 4)  # the damaged one lies in the first of two batches
    out = tmp_path / f"new/features{suffix}"
    output = call("embed", photos, "-o", out, *TINY, status=1)
    assert "1.png" in output and "6 images" in output
    read = read_features(out)
    paths = [str(path) for path in sorted(photos.glob("*/*.png")) if path != photos / "cats" / "1.png"]
    assert list(read.path) == paths and list(read.label) == ["cats"] * 2 + ["dogs"] * 4 and set(read.split) == {""}
    backbone = va.load_backbone("random:tiny")
    with torch.no_grad():
        expected = backbone(va.load_images(paths, backbone)).numpy()
    np.testing.assert_allclose(read.features, expected, atol=1e-5)
    assert read.features.shape == (6, backbone.features) and read.features.std() > 0
    with pytest.raises(StorageError, match="--overwrite"):
        call("embed", photos, "-o", out, *TINY)
    call("embed", photos / "dogs", "-o", out, *TINY, "--overwrite")
    assert list(read_features(out).label) == [""] * 4  # a folder of pictures has no classes


def test_other_programs_read_the_files(photos, tmp_path):
    for name in ("f.npz", "f.parquet"):
        call("embed", photos / "dogs", "-o", tmp_path / name, *TINY)
    table = pd.read_parquet(tmp_path / "f.parquet")
    with np.load(tmp_path / "f.npz") as arrays:
        assert table["path"].tolist() == arrays["path"].tolist()
        np.testing.assert_array_equal(np.stack(table["features"]), arrays["features"])


def test_several_labels_and_splits_stand_beside_the_features(photos, tmp_path):
    table = photos.parent / "table.csv"
    rows = ["path,label,split", "photos/dogs/0.png,a|b,train", "photos/dogs/1.png,b,train", "photos/dogs/2.png,a,test"]
    table.write_text("\n".join(rows))
    call("embed", table, "-o", tmp_path / "f.npz", *TINY)
    read = read_features(tmp_path / "f.npz")
    assert (list(read.label), list(read.split)) == (["a|b", "b", "a"], ["train", "train", "test"])


def test_similar_ranks_by_cosine_and_leaves_the_picture_itself_out(photos, model, tmp_path):
    fitted, paths, folder = model
    page, file = tmp_path / "similar.html", tmp_path / "f.npz"
    picture = paths[-1]
    found = json.loads(call("similar", picture, photos / "dogs", "--model", folder, "--json", "--html", page))
    features = fitted.transform(paths)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    cosines = {str(path): float(one @ unit[-1]) for path, one in zip(paths, unit, strict=True) if "dogs" in str(path)}
    del cosines[str(picture)]
    assert [row["image"] for row in found] == sorted(cosines, key=lambda path: -cosines[path])
    np.testing.assert_allclose([row["similarity"] for row in found], sorted(cosines.values(), reverse=True), atol=1e-5)
    assert page.read_text().count("data:image/jpeg") == 1 + len(found)
    call("embed", photos / "dogs", "-o", file, "--model", folder)
    lines = call("similar", picture, file, "--model", folder, "--csv", "--top", 1).splitlines()
    assert [row["image"] for row in csv.DictReader(lines)] == [found[0]["image"]]
    assert call("similar", picture, photos, *TINY, status=1).count(".png") == 6  # one of them is damaged
    with pytest.raises(ConfigError, match="--model"):
        call("similar", picture, file, *TINY)


def test_a_copy_is_as_similar_as_can_be(photos, tmp_path):
    copy = tmp_path / "copy.png"
    copy.write_bytes((photos / "dogs" / "3.png").read_bytes())
    (first, *_) = json.loads(call("similar", copy, photos / "dogs", *TINY, "--json"))
    assert first["image"].endswith("3.png") and first["similarity"] == pytest.approx(1)


def test_transform_follows_scikit_learn(model):
    fitted, paths, folder = model
    features = fitted.transform(paths)
    assert features.shape == (6, len(fitted.get_feature_names_out())) and features.dtype == np.float32
    np.testing.assert_array_equal(fitted.transform(paths[0]), fitted.transform(paths[:1]))
    frozen = va.load_backbone("random:tiny")
    with torch.no_grad():
        assert not np.allclose(features, frozen(va.load_images(paths, frozen)).numpy(), atol=1e-4)  # it was adapted
    np.testing.assert_array_equal(va.ImageClassifier.load(folder).transform(paths), features)
    labels = [path.parent.name for path in paths]
    chain = make_pipeline(va.ImageClassifier("random:tiny", "linear-probe"), LogisticRegression()).fit(paths, labels)
    assert chain.predict(paths).shape == (6,)


def test_load_images_gives_the_pixels_that_a_model_predicts_from(model):
    fitted, paths, folder = model
    loaded = va.load_model(folder)
    images = va.load_images(paths, loaded)
    assert images.dtype == torch.uint8 and images.shape == (6, 3, 32, 32)
    with torch.no_grad():
        found = loaded.classifier(images).softmax(dim=1).numpy()
    np.testing.assert_allclose(found, fitted.predict_proba(paths), atol=1e-6)
    assert va.load_images([], "random:tiny").shape == (0, 3, 32, 32)
    assert torch.equal(va.load_images(paths[0], loaded.classifier.backbone), images[:1])


def test_wrong_use_is_told(photos, model, tmp_path):
    damaged, empty = tmp_path / "damaged.npz", tmp_path / "empty"
    damaged.write_bytes(b"PK\x03\x04 nothing")
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    (empty / "a").mkdir(parents=True)
    (empty / "a" / "x.png").write_bytes(b"")
    dog = photos / "dogs" / "0.png"
    wrong = {
        ("embed", dog, "-o", tmp_path / "f.csv", *TINY): ConfigError,
        ("embed", tmp_path / "none", "-o", tmp_path / "f.npz", *TINY): DataError,
        ("embed", empty, "-o", tmp_path / "f.npz", *TINY): DataError,  # not one can be read
        ("embed", dog, "-o", tmp_path / "f.npz", "--model", model[2], "--image-size", 32): ConfigError,
        ("similar", empty / "a" / "x.png", photos, *TINY): DataError,
        ("similar", dog, dog, *TINY): DataError,  # nothing is left to compare with
        ("similar", dog, empty / "a" / "x.png", *TINY): DataError,
        ("similar", dog, damaged, *TINY): StorageError,
        ("similar", dog, tmp_path / "other.npz", *TINY): StorageError,
        ("similar", dog, photos, "--csv", "--json", *TINY): ConfigError,
    }
    for words, error in wrong.items():
        with pytest.raises(error):
            call(*words)
    assert not (tmp_path / "f.npz").exists()
    with pytest.raises(ConfigError, match="load_backbone"):
        va.load_images(dog, torch.nn.Identity())
