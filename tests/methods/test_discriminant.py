"""The discriminant against scikit-learn's, and what its head reads."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from families import build, random_images
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

import vitadapt as va
from vitadapt.methods import METHODS, Discriminant, Support, class_statistics
from vitadapt.methods.discriminant import SPREAD, discriminants
from vitadapt.nn.head import backbone_of
from vitadapt.utils.errors import ConfigError


def clusters(count: int, classes: int = 3, width: int = 8, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(N, E) points around the centre of their class, and their classes (N,)."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count * classes) % classes
    return rng.normal(0, 3, (classes, width))[labels] + rng.normal(0, 1, (len(labels), width)), labels


@pytest.mark.parametrize(("count", "width"), [(30, 8), (4, 40)], ids=["more images", "more features"])
@pytest.mark.parametrize("shrinkage", [0.01, 0.5, 0.95])
def test_it_is_the_shrunk_discriminant_of_scikit_learn(count: int, width: int, shrinkage: float) -> None:
    x, y = clusters(count, width=width)
    ((weight, bias),) = discriminants(Support(x, y, 3), (shrinkage,))
    theirs = LinearDiscriminantAnalysis("lsqr", shrinkage=shrinkage, priors=[1 / 3] * 3).fit(x, y)
    factor = len(x) / (len(x) - 3)  # their covariance divides by N, ours by N - C
    ours, other = (x @ weight.T + bias) * factor, theirs.decision_function(x)
    difference = (ours - ours.mean(axis=1, keepdims=True)) - (other - other.mean(axis=1, keepdims=True))
    assert np.abs(difference).max() < 1e-6 * np.abs(other).max()


def test_one_image_of_some_classes_gives_a_row_for_every_class() -> None:
    x = np.random.default_rng(0).normal(size=(2, 8))
    weight, bias = Discriminant().solve_head(Support(x, np.array([3, 1]), 4)).linear()
    assert weight.shape == (4, 8) and np.argmax(x @ weight.T + bias, axis=1).tolist() == [3, 1]
    assert set(np.argmax(-x @ weight.T + bias, axis=1)) <= {1, 3}


def test_images_left_out_choose_an_honest_temperature() -> None:
    """Where labels are noise every class gets about the same probability; where they are plain, one gets nearly all."""
    noise, y = np.random.default_rng(1).normal(0, 1, (90, 8)), np.arange(90) % 3
    plain, _ = clusters(30)
    for x, low, high in ((noise, 0.33, 0.5), (plain, 0.95, 1.0)):
        weight, bias = Discriminant().solve_head(Support(x, y, 3)).linear()
        logits = torch.from_numpy(x @ weight.T + bias)
        assert low <= float(logits.softmax(dim=1).amax(dim=1).mean()) < high


def test_a_class_without_images_is_never_answered_and_single_images_are_enough() -> None:
    x, y = clusters(5)
    weight, bias = Discriminant().solve_head(Support(x, y, 4)).linear()
    assert np.isfinite(weight).all() and np.isfinite(bias).all()
    assert not ((x @ weight.T + bias).argmax(axis=1) == 3).any()
    weight, bias = Discriminant().solve_head(Support(x[:3], y[:3], 3)).linear()
    assert ((x[:3] @ weight.T + bias).argmax(axis=1) == y[:3]).all()


def test_the_scale_of_a_head_changes_no_answer() -> None:
    x, y = clusters(5)
    plain, scaled = va.Head(8, 3), va.Head(8, 3, va.HeadSpec(scale=100.0))
    for head in (plain, scaled):
        head.set_solution(Discriminant().solve_head(Support(x, y, 3)))
    features = torch.from_numpy(x).float()
    torch.testing.assert_close(scaled(features), plain(features), atol=1e-4, rtol=1e-4)


def test_several_labels_per_image_are_refused() -> None:
    with pytest.raises(ConfigError, match="one label per image"):
        Discriminant().solve_head(Support(np.zeros((2, 4)), np.zeros((2, 3)), 3))


@pytest.mark.parametrize("family", ["clip-like", "dinov2-like", "gap-like"])
def test_the_features_are_those_of_the_last_blocks_and_of_the_mirror_image(family: str) -> None:
    vit, images = build(family), random_images(2)
    depth = vit.config.depth
    tokens, expected = vit.embed(images), []
    for block in vit.blocks:
        tokens = block(tokens)
        expected.append(vit.pool(tokens))
    for blocks in (1, 2, depth + 3):
        count = min(blocks, depth)
        read = backbone_of(vit, va.HeadSpec(blocks=blocks))
        assert read.features == count * vit.features
        torch.testing.assert_close(read(images), torch.cat(expected[depth - count :], dim=1), atol=1e-5, rtol=1e-4)
    mirrored = backbone_of(vit, va.HeadSpec(mirror=True))
    torch.testing.assert_close(mirrored(images), (vit(images) + vit(images.flip(-1))) / 2, atol=1e-5, rtol=1e-4)
    assert vit.config.pooled_blocks == 1 and not vit.config.mirror


def test_a_saved_model_gives_the_same_answers(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
    images[::2] //= 2
    model = va.ImageClassifier("random:tiny", Discriminant()).fit(images, np.arange(12) % 2)
    loaded = va.ImageClassifier.load(model.save(tmp_path / "m"))
    assert np.array_equal(model.predict_proba(images), loaded.predict_proba(images))
    assert (model.predict(images) == np.arange(12) % 2).mean() > 0.8


def test_versions_add_their_covariance_about_the_mean_of_each_image():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(12, 5)), np.arange(12) % 3
    versions = x + rng.normal(size=(4, 12, 5))
    within = np.mean([np.cov(v, rowvar=False) for v in versions.swapaxes(0, 1)], axis=0)  # divided by V - 1
    means = np.array([x[y == c].mean(axis=0) for c in range(3)])
    scatter = (x - means[y]).T @ (x - means[y]) / (12 - 3) + SPREAD * within
    shrunk = 0.7 * scatter + 0.3 * np.trace(scatter) / 5 * np.eye(5)
    ((weight, bias),) = discriminants(Support(x, y, 3, versions), (0.3,))
    np.testing.assert_allclose(weight, np.linalg.solve(shrunk, means.T).T, atol=1e-8)
    np.testing.assert_allclose(bias, -0.5 * (weight * means).sum(axis=1), atol=1e-8)
    many = rng.normal(size=(3, 40))  # fewer rows than features take the other way
    ((weight, _),) = discriminants(Support(many, np.array([0, 1, 1]), 2, np.stack([many, many + 1])), (0.3,))
    assert weight.shape == (2, 40) and np.isfinite(weight).all()


@pytest.mark.parametrize("method", ["discriminant", "gda-clip", "text-discriminant"])
@pytest.mark.parametrize("versions", [0, 3])
def test_how_many_images_are_worked_on_at_a_time_does_not_matter(
    method: str, versions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = clusters(20)
    many = x + np.random.default_rng(1).normal(size=(versions, *x.shape)) if versions else None
    support = Support(x.astype(np.float32), y, 3, many, text=np.eye(3, 8))
    whole = METHODS[method]().solve_head(support).linear()
    for chunk in (1, 7, 59):
        monkeypatch.setattr(class_statistics, "CHUNK", chunk)
        for one, other in zip(METHODS[method]().solve_head(support).linear(), whole, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9)


def test_memory_does_not_hold_the_images_in_double_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(class_statistics, "CHUNK", 64)
    x, y = clusters(1000, width=40)
    support = Support(x.astype(np.float32), y, 3, x[None].astype(np.float32))
    tracemalloc.start()
    try:
        list(discriminants(support, (0.3,)))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < x.nbytes / 2
