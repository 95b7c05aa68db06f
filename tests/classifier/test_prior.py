"""Another prior than that of the training images: a shift of the logits, and what it does to answers and scores."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import vitadapt as va
from vitadapt.classifier import fit as fitting
from vitadapt.classifier.fit import FitConfig, fit_folder
from vitadapt.classifier.prior import Prior, assumed, read_prior, reweighted
from vitadapt.cli.main import app
from vitadapt.methods import Discriminant, LinearProbe
from vitadapt.metrics.scores import accuracy, mean_per_class
from vitadapt.nn.head import Head
from vitadapt.nn.head_spec import HeadSpec
from vitadapt.utils.errors import ConfigError, UnknownName

FAST = ("-b", "random:tiny", "-m", "linear-probe", "--folds", 2, "--no-cache", "--recipe", "epochs=30,head_lr=0.03")
CLASSES, SHARES = ("common", "rare"), np.array([0.75, 0.25])


def call(*arguments):
    found = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if found.exception is not None:
        raise found.exception
    return found.stdout


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Eighteen pictures of one class and six of another, which look alike."""
    root = tmp_path_factory.mktemp("prior") / "photos"
    for name, count, level in (("common", 18, 0), ("rare", 6, 12)):
        (root / name).mkdir(parents=True)
        for i in range(count):
            pixels = np.random.default_rng([i, level]).integers(0, 200, (8, 8, 3), dtype=np.uint8) + np.uint8(level)
            Image.fromarray(pixels).resize((40, 40), Image.Resampling.NEAREST).save(root / name / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def models(photos):
    """Fitted as the data are, and with a uniform prior; and what the latter command said."""
    plain, uniform = photos.parent / "plain", photos.parent / "uniform"
    call("fit", photos, "--out", plain, *FAST)
    return plain, uniform, call("fit", photos, "--out", uniform, "--prior", "uniform", *FAST)


def test_a_wrong_prior_is_refused_before_an_image_is_read(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(fitting, "train_test_split", None)
    (tmp_path / "prior.json").write_text('{"common": 0.9, "rare": 0.2}')
    with pytest.raises(ConfigError, match="they must add up to 1"):
        fit_folder(FitConfig(str(photos), "random:tiny", prior=str(tmp_path / "prior.json")), tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_a_uniform_prior_is_a_shift_of_the_bias_and_nothing_else(models, photos):
    plain, uniform, said = models
    assert any("--prior uniform" in note for note in json.loads((uniform / "fit.json").read_text())["data"]["notes"])
    paths = sorted(photos.glob("*/*.png"))
    before, after = (va.load_model(folder) for folder in (plain, uniform))
    with torch.no_grad():
        images = va.load_images(paths, before)
        moved = (after.classifier(images) - before.classifier(images)).numpy()
    counts = np.array(json.loads((plain / "fit.json").read_text())["data"]["train"])
    expected = np.log(0.5 / (counts / counts.sum()))
    np.testing.assert_allclose(moved - moved.mean(axis=1, keepdims=True), [expected - expected.mean()] * 24, atol=1e-4)
    record = json.loads((uniform / "fit.json").read_text())
    assert record["prior"]["target"] == [0.5, 0.5] and "prior" not in json.loads((plain / "fit.json").read_text())
    cross = record["cross_validation"]
    kept = next(row for row in record["ladder"] if row["kept"])
    assert kept["score"] == pytest.approx(
        100 * mean_per_class(np.array(cross["labels"]), np.array(cross["probabilities"])), abs=1e-6
    )
    assert "balanced accuracy" in said
    assert "prior" in call("info", uniform) and "prior" not in call("info", plain)


def test_predict_shifts_as_fit_does_and_back(models, photos):
    plain, uniform, _ = models
    paths = sorted(photos.glob("rare/*.png"))
    answers = {
        (folder, prior): [
            row["top"]["rare"]
            for row in json.loads(
                call("predict", folder, *paths, "--top", 2, "--json", *(() if prior is None else ("--prior", prior)))
            )
        ]
        for folder, prior in (
            *((plain, None), (plain, "uniform"), (plain, "data")),
            *((uniform, None), (uniform, "data")),
        )
    }
    np.testing.assert_allclose(answers[plain, "uniform"], answers[uniform, None], atol=1e-5)
    np.testing.assert_allclose(answers[uniform, "data"], answers[plain, None], atol=1e-5)
    np.testing.assert_allclose(answers[plain, "data"], answers[plain, None], atol=1e-6)
    assert (np.array(answers[uniform, None]) > np.array(answers[plain, None])).all()


def test_a_discriminant_counts_on_equal_shares_until_told_otherwise():
    prior = read_prior("data", CLASSES, SHARES)
    np.testing.assert_allclose(prior.shift(LinearProbe()), 0)
    np.testing.assert_allclose(prior.shift(Discriminant()), np.log(SHARES / 0.5))
    np.testing.assert_allclose(read_prior("uniform", CLASSES, SHARES).shift(Discriminant()), 0, atol=1e-12)
    assert assumed(Discriminant(), SHARES).tolist() == [0.5, 0.5]


@pytest.mark.parametrize("spec", [HeadSpec(), HeadSpec(length="unit", scale=7.0)])
def test_shifted_logits_are_reweighted_probabilities(spec):
    head = Head(5, 2, spec)
    torch.nn.init.normal_(head.linear.weight, generator=torch.Generator().manual_seed(0))
    features = torch.randn(6, 5, generator=torch.Generator().manual_seed(1))
    prior = Prior("uniform", np.array([0.5, 0.5]), SHARES)
    with torch.no_grad():
        before = head(features).softmax(dim=1).numpy()
        head.shift_logits(prior.shift(LinearProbe()))
        after = head(features).softmax(dim=1).numpy()
    np.testing.assert_allclose(prior.applied(LinearProbe(), before), after, atol=1e-5)
    np.testing.assert_allclose(reweighted(after, prior.target, SHARES), before, atol=1e-5)


def test_the_measure_is_the_accuracy_to_expect_under_the_prior():
    labels = np.array([0, 0, 0, 1])
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.4, 0.6]])
    assert Prior("data", SHARES, SHARES).measure(labels, probabilities) == pytest.approx(
        accuracy(labels, probabilities)
    )
    assert Prior("uniform", np.array([0.5, 0.5]), SHARES).measure(labels, probabilities) == pytest.approx(
        mean_per_class(labels, probabilities)
    )


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ('{"common": 0.5, "rarr": 0.5}', UnknownName, "did you mean rare"),
        ('{"common": 0.5}', ConfigError, "no probability for rare"),
        ('{"common": 0.5, "rare": 0.6}', ConfigError, r"add up to 1\.1"),
        ('{"common": 1, "rare": 0}', ConfigError, "between 0 and 1"),
        ('{"common": "half", "rare": 0.5}', ConfigError, "between 0 and 1"),
        ("[0.5, 0.5]", ConfigError, "no JSON object"),
        ("half", ConfigError, "is no prior"),
        (None, ConfigError, "no such file"),
    ],
)
def test_a_file_that_is_no_prior_is_refused(text, error, says, tmp_path):
    path = tmp_path / "prior.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(error, match=says):
        read_prior(str(path), CLASSES, SHARES)


def test_a_file_gives_the_shares(tmp_path):
    (tmp_path / "prior.json").write_text('{"rare": 0.1, "common": 0.9}')
    assert read_prior(str(tmp_path / "prior.json"), CLASSES, SHARES).target.tolist() == pytest.approx([0.9, 0.1])
