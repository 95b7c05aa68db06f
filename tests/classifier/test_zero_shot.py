"""search and zero-shot: the numbers of the library's own CLIP, tables that fit reads, sets as right as asked for."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import text_cases
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.special import softmax
from typer.testing import CliRunner

import vitadapt as va
from vitadapt.classifier.zero_shot import load_language_model
from vitadapt.cli.main import app
from vitadapt.data import open_dataset
from vitadapt.utils.errors import ConfigError, DataError, NotApplicable

CLASSES = ("red", "green", "blue")
EACH = 6


def call(*arguments, status=0):
    found = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if isinstance(found.exception, va.VitadaptError):
        raise found.exception
    assert found.exit_code == status, found.output
    return found.output


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """open_clip's own model of small sizes, and the name by which ours is loaded."""
    folder = tmp_path_factory.mktemp("clip")
    return text_cases.open_clip_clip(), text_cases.open_clip_folder(folder)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of pictures without labels, and the same in class folders; and the names of the classes."""
    root = tmp_path_factory.mktemp("photos")
    (root / "names.txt").write_text("\n".join(CLASSES))
    generator = np.random.default_rng(0)
    for i in range(EACH * len(CLASSES)):
        name = CLASSES[i % len(CLASSES)]
        pixels = generator.integers(0, 90, (32, 32, 3), dtype=np.uint8)
        pixels[..., i % 3] += 130
        for place in (root / "plain", root / "labelled" / name):
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(place / f"{i:02}.png")
    return root


def library_cosines(model, name, paths, sentences):
    """(N, C) by open_clip's own two towers, of what our tokeniser and our decoder give."""
    ours = load_language_model(name)
    images = va.load_images(paths, ours.embedder.network)
    with torch.no_grad():
        left = F.normalize(model.encode_image(ours.embedder.network.normalise(images)), dim=-1)
        right = F.normalize(model.encode_text(ours.tower.tokenise(sentences)), dim=-1)
    return (left @ right.T).numpy()


def test_search_ranks_by_the_cosine_of_the_librarys_own_towers(clip, photos, tmp_path):
    model, name = clip
    paths = sorted((photos / "plain").iterdir())
    expected = library_cosines(model, name, paths, ["a red thing"])[:, 0]
    page, file = tmp_path / "found.html", tmp_path / "f.npz"
    found = json.loads(
        call("search", "a red thing", photos / "plain", "-b", name, "--json", "--top", 5, "--html", page)
    )
    assert [row["image"] for row in found] == [str(paths[i]) for i in np.argsort(-expected)[:5]]
    np.testing.assert_allclose([row["similarity"] for row in found], np.sort(expected)[::-1][:5], atol=1e-4)
    assert page.read_text().count("data:image/jpeg") == 5 and "a red thing" in page.read_text()
    call("embed", photos / "plain", "-o", file, "-b", name)
    lines = call("search", "a red thing", file, "-b", name, "--csv").splitlines()
    assert [row["image"] for row in csv.DictReader(lines)][:5] == [row["image"] for row in found]


def test_zero_shot_suggests_the_nearest_class_in_a_table_that_fit_reads(clip, photos, tmp_path):
    model, name = clip
    paths, out, page = sorted((photos / "plain").iterdir()), tmp_path / "made" / "labels.csv", tmp_path / "page.html"
    out.parent.mkdir()
    sentences = [f"a photo of a {kind}." for kind in CLASSES]
    scale = load_language_model(name).tower.logit_scale or 100.0
    expected = softmax(scale * library_cosines(model, name, paths, sentences), axis=1)
    asked = ("zero-shot", photos / "plain", "--class-names", photos / "names.txt", "-o", out, "-b", name)
    found = json.loads(call(*asked, "--json", "--html", page))
    assert [one["label"] for one in found["suggestions"]] == [CLASSES[c] for c in expected.argmax(axis=1)]
    np.testing.assert_allclose([one["probability"] for one in found["suggestions"]], expected.max(axis=1), atol=1e-3)
    assert page.read_text().count("<figure") == len(paths)
    dataset = open_dataset(str(out), whole=True)
    labels = {ref.name: dataset.classes[c] for ref, c in zip(*_of(dataset), strict=True)}
    assert {str(path): one["label"] for path, one in zip(paths, found["suggestions"], strict=True)} == {
        str((out.parent / key).resolve()): value for key, value in labels.items()
    }
    with pytest.raises(ConfigError, match="exists already; replace it with --overwrite"):
        call(*asked)
    assert "17 of 18 images are left out" in call(
        *asked, "--overwrite", "--min-probability", np.sort(expected.max(1))[-1] - 1e-4
    )


def _of(dataset):
    train = dataset.splits["train"]
    return train.refs, train.labels.tolist()


def test_sets_are_set_and_measured_by_labelled_images(clip, photos, tmp_path):
    model, name = clip
    asked = ("zero-shot", photos / "plain", "--class-names", photos / "names.txt", "-b", name, "-o")
    more = ("--conformal", 0.8, "--calibration", photos / "labelled")
    found = json.loads(call(*asked, tmp_path / "a.csv", *more, "--json"))
    paths = sorted((photos / "labelled").glob("*/*.png"))
    sentences = [f"a photo of a {kind}." for kind in CLASSES]
    scale = load_language_model(name).tower.logit_scale or 100.0
    p = softmax(scale * library_cosines(model, name, paths, sentences), axis=1)
    own = p[np.arange(len(paths)), [CLASSES.index(path.parent.name) for path in paths]]
    limit = np.sort(1 - own)[int(np.ceil((len(paths) + 1) * 0.8)) - 1]
    assert found["calibration"]["limit"] == pytest.approx(limit, abs=1e-3)
    assert found["calibration"]["accuracy"] == pytest.approx(100 * np.mean(own == p.max(axis=1)))
    measured = found["calibration"]["coverage"]
    assert (measured["wanted"], measured["count"]) == (0.8, len(paths)) and 0.5 < measured["right"] / len(paths) <= 1
    by_name = {
        path.name: {CLASSES[c] for c in np.flatnonzero(1 - row <= limit + 1e-6)}
        for path, row in zip(paths, p, strict=True)
    }
    for one in found["suggestions"]:
        assert set(one["set"]) == by_name[one["image"].rpartition("/")[2]] | {one["label"]}
    assert f"held it in {100 * measured['right'] / len(paths):.1f} %" in call(*asked, tmp_path / "b.csv", *more)
    with pytest.raises(ConfigError, match=r"need at least 99 labelled images, and .* has 18"):
        call(*asked, tmp_path / "c.csv", "--conformal", 0.99, "--calibration", photos / "labelled")
    with pytest.raises(ConfigError, match="--conformal needs labelled images"):
        call(*asked, tmp_path / "c.csv", "--conformal", 0.9)


@pytest.mark.parametrize(
    ("names", "message"),
    [("cat", "at least two different names"), ("cat\ncat", "at least two different"), ("a|b\nc", "separate labels")],
)
def test_class_names_that_give_no_labels_are_refused(names, message, photos, tmp_path):
    (tmp_path / "names.txt").write_text(names)
    with pytest.raises(ConfigError, match=message):
        call("zero-shot", photos / "plain", "--class-names", tmp_path / "names.txt", "-o", tmp_path / "o.csv")


def test_unreadable_images_alone_and_what_has_no_words_are_refused(clip, photos, tmp_path):
    (tmp_path / "x.png").write_bytes(b"")
    for asked in (("search", "a cat"), ("zero-shot", "--class-names", photos / "names.txt", "-o", tmp_path / "o.csv")):
        with pytest.raises(DataError, match="none of the 1 images can be read; name others"):
            call(asked[0], *asked[1:], tmp_path / "x.png", "-b", clip[1])
    with pytest.raises(NotApplicable, match="has no text tower"):
        call("search", "a cat", photos / "plain", "-b", "random:tiny")
    with pytest.raises(ConfigError, match="the sentence is empty"):
        call("search", " ", photos / "plain")
