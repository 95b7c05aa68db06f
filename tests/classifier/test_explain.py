"""`vitadapt explain` from a model file and a picture to a PNG."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from vitadapt.classifier.estimator import ImageClassifier
from vitadapt.classifier.explain import explain_file
from vitadapt.classifier.model import load_model
from vitadapt.cli.main import app
from vitadapt.methods import KAdaptation
from vitadapt.training.adapter_file import ADAPTER
from vitadapt.training.recipe import Recipe
from vitadapt.utils.errors import ConfigError, DataError, UnknownName, VitadaptError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model folder with a backbone of random weights, and a picture."""
    root = tmp_path_factory.mktemp("explain")
    pictures = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    model = ImageClassifier("random:tiny", KAdaptation(), recipe=Recipe(epochs=2, lr=0.01)).fit(
        pictures, ["cat", "dög"] * 4
    )
    model.save(root / "model")
    Image.fromarray(pictures[0]).resize((80, 60)).save(root / "picture.jpg")
    assert (root / "model" / ADAPTER).exists()
    return root


@pytest.mark.parametrize("kind", ["gradient", "rollout", "input"])
def test_a_heat_map_is_written_beside_what_the_model_sees(folder, kind, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["explain", str(folder / "model"), str(folder / "picture.jpg"), "--kind", kind])
    assert done.exit_code == 0, done.output
    assert "picture-heat.png" in done.output and "%)" in done.output
    image = Image.open("picture-heat.png")
    assert image.size == (2 * 448 + 12, 448) and kind in image.text["Description"]
    seen, heated = np.asarray(image)[:, :448], np.asarray(image)[:, 460:]
    assert np.abs(seen.astype(int) - heated).mean() > 10


def test_a_class_can_be_asked_for(folder, tmp_path):
    model = load_model(folder / "model")
    found = {
        name: explain_file(model, folder / "picture.jpg", tmp_path / f"{name}.png", name=name) for name in model.classes
    }
    assert {name: one.explained for name, one in found.items()} == {"cat": "cat", "dög": "dög"}
    assert sum(one.explained_probability for one in found.values()) == pytest.approx(1)
    assert (tmp_path / "cat.png").read_bytes() != (tmp_path / "dög.png").read_bytes()


def test_what_cannot_be_explained_is_told_in_one_line(folder, tmp_path):
    model, out = load_model(folder / "model"), tmp_path / "heat.png"
    with pytest.raises(UnknownName, match="did you mean cat"):
        explain_file(model, folder / "picture.jpg", out, name="cta")
    with pytest.raises(UnknownName, match="gradient"):
        explain_file(model, folder / "picture.jpg", out, kind="gradients")
    (tmp_path / "no.jpg").write_text("no image")
    with pytest.raises(DataError, match=r"no\.jpg"):
        explain_file(model, tmp_path / "no.jpg", out)
    assert not out.exists()
    for arguments, kind in ((["-o", "heat.jpg"], ConfigError), ([], VitadaptError)):
        place = folder / "model" if arguments else tmp_path / "nothing"
        done = CliRunner().invoke(app, ["explain", str(place), str(folder / "picture.jpg"), *arguments])
        assert isinstance(done.exception, kind)
