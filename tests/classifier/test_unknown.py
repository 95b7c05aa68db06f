"""Images that are unlike the training images, sets of classes, and what is measured about both."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import vitadapt as va
from vitadapt.classifier.answer import Rules, answer, can_refuse
from vitadapt.classifier.novelty import RATE, CrossValidated, Strangers, calibrate, novelty_of, strangers
from vitadapt.methods import Discriminant, Support
from vitadapt.methods.class_statistics import ClassStatistics
from vitadapt.metrics.conformal import typicality
from vitadapt.nn.backbone import backbone_digest
from vitadapt.nn.head import Classifier, Head
from vitadapt.nn.head_spec import HeadSpec
from vitadapt.training.adapter_file import AdapterInfo, adapter_bytes, load_adapter
from vitadapt.utils.errors import NotApplicable

WIDTH, CLASSES = 24, 4


def clusters(each: int = 30, seed: int = 0) -> tuple[torch.Tensor, np.ndarray]:
    """(N, E) features around the centre of their class, and their classes."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(5).normal(0, 2, (CLASSES, WIDTH))
    labels = np.arange(each * CLASSES) % CLASSES
    return torch.from_numpy(centres[labels] + rng.normal(0, 1, (len(labels), WIDTH))).float(), labels


def cross_validated(each: int = 30) -> CrossValidated:
    x, labels = clusters(each)
    fold = np.arange(len(labels)) // CLASSES % 5
    probabilities = np.zeros((len(labels), CLASSES))
    for number in range(5):
        rest = fold != number
        weight, bias = Discriminant().solve_head(Support(x[rest].numpy(), labels[rest], CLASSES)).linear()
        probabilities[~rest] = torch.from_numpy(x[~rest].numpy() @ weight.T + bias).softmax(dim=1).numpy()
    return CrossValidated(labels, fold, probabilities, [x] * 5)


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    """A classifier that knows what is unknown, on features as they are."""
    x, labels = clusters(150)
    head = Head(WIDTH, CLASSES, HeadSpec(length="unit"))
    head.standardise(x)
    head.set_solution(Discriminant().solve_head(Support(head.normalised(x).detach().numpy(), labels, CLASSES)))
    return calibrate(Classifier(torch.nn.Identity(), head), x, labels, cross_validated(150)).model  # type: ignore[arg-type]


def test_the_novelty_is_the_relative_mahalanobis_distance() -> None:
    """All axes kept, against the inverse of both covariances."""
    x, labels = clusters()
    x = x / 100  # features of unit length vary as little
    statistics, new = ClassStatistics.of(x.numpy(), labels, CLASSES), 3 * torch.randn(7, WIDTH) / 100
    means = np.stack([x[labels == c].numpy().mean(axis=0) for c in range(CLASSES)])
    share = WIDTH / (WIDTH + len(x) - 1)

    def inverse(inner: np.ndarray, degrees: int) -> np.ndarray:
        covariance = inner.T.astype(np.float64) @ inner / degrees
        return np.linalg.inv((1 - share) * covariance + share * np.trace(covariance) / WIDTH * np.eye(WIDTH))

    within = inverse(x.numpy() - means[labels], len(x) - CLASSES)
    total = inverse(x.numpy() - x.numpy().mean(axis=0), len(x) - 1)
    gaps, gap = new.numpy()[:, None] - means, new.numpy() - x.numpy().mean(axis=0)
    wanted = np.einsum("bce,ef,bcf->bc", gaps, within, gaps).min(axis=1) - np.einsum("be,ef,bf->b", gap, total, gap)
    found = novelty_of(statistics, np.zeros(0), np.zeros(0))(new).numpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-3)


def test_strangers_are_unknown_and_of_usual_images_only_the_stated_share(classifier: Classifier) -> None:
    known, usual = classifier.novelty, clusters(250, seed=1)[0]
    assert known is not None
    p = typicality(known.left_out_scores(), known(usual).numpy())
    for rate in (0.05, 0.2, 0.5):  # each left-out score is of a model of four fifths of the images: rather too few
        assert rate - 0.15 < (p <= rate).mean() < rate + 0.03
    far = 2 * torch.randn(200, WIDTH, generator=torch.Generator().manual_seed(0))
    assert (typicality(known.left_out_scores(), known(far).numpy()) <= RATE).mean() > 0.9


def test_an_answer_says_unknown_by_the_rules(classifier: Classifier) -> None:
    p = np.array([0.6, 0.3, 0.06, 0.04])
    names = AdapterInfo(va.LinearProbe(), "random:tiny", 32, ("a", "b", "c", "d"), "")
    known = classifier.novelty
    assert known is not None
    scores = known.left_out_scores()
    for novelty, unknown in ((scores.max() + 1, True), (float(np.median(scores)), False)):
        found = answer("x.png", names, p, Rules(conformal=0.9), known, float(novelty))
        assert (found["unknown"], found["class"]) == (unknown, "a") and 0 < found["typicality"] <= 1
        assert found["set"][0] == "a"
    assert answer("x.png", names, p, Rules(refuse=0), known, float(scores.max() + 1))["unknown"] is False
    assert answer("x.png", names, p, Rules(threshold=0.7), known, 0.0)["class"] is None
    without = answer("x.png", names, p, Rules())
    assert (without["unknown"], without["typicality"]) == (None, None) and "set" not in without
    with pytest.raises(NotApplicable, match="vitadapt fit"):
        answer("x.png", names, p, Rules(conformal=0.9))


def test_leaving_classes_out_tells_clusters_from_noise() -> None:
    apart = strangers(cross_validated())
    assert len(apart.auroc) == CLASSES and apart.auroc.mean() > 95
    low, high = apart.interval()
    assert 0 <= low < apart.auroc.mean() <= high <= 100 and high - low > 1
    few = Strangers(np.array([40.0, 50.0, 60.0]), np.zeros(3), 10**9)
    np.testing.assert_allclose(few.interval(), [50 - 24.84, 50 + 24.84], atol=0.01)  # 4.303 * 10 / sqrt(3)
    found = cross_validated()
    noise = CrossValidated(found.labels, found.fold, found.probabilities, [torch.randn(found.features[0].shape)] * 5)
    assert 35 < strangers(noise).auroc.mean() < 65


def test_without_cross_validation_nothing_is_refused() -> None:
    x, labels = clusters(1)
    head = Head(WIDTH, CLASSES)
    made = calibrate(Classifier(torch.nn.Identity(), head), x, labels, None)  # type: ignore[arg-type]
    assert not can_refuse(made.model.novelty) and made.record == {}


def test_a_saved_model_keeps_its_novelty(tmp_path: Path) -> None:
    backbone = va.load_backbone("random:tiny")
    features, labels = torch.randn(40, backbone.features), np.arange(40) % CLASSES
    head = Head(backbone.features, CLASSES)
    torch.nn.init.normal_(head.linear.weight)
    statistics = ClassStatistics.of(features.numpy(), labels, CLASSES)
    novelty = novelty_of(statistics, np.arange(5.0), np.arange(3.0))
    base = backbone_digest(backbone)
    info = AdapterInfo(va.LinearProbe(), "random:tiny", backbone.image_size, tuple("abcd"), base)
    path = tmp_path / "a.safetensors"
    path.write_bytes(adapter_bytes(Classifier(backbone, head.requires_grad_(True), novelty), info))
    loaded = load_adapter(path, backbone).novelty
    assert loaded is not None
    assert torch.equal(loaded(features), novelty(features)) and loaded.left_out_scores().tolist() == [0, 1, 2, 3, 4]
