"""Large pictures in parts: the answer is the mean of what the model says of each."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import vitadapt as va
from vitadapt.classifier.answer import Rules
from vitadapt.classifier.predict import predict_images, read_tiles, tiles_of
from vitadapt.data import FileRef, ImageObjectRef
from vitadapt.data.images import UnreadableImage
from vitadapt.methods import LinearProbe
from vitadapt.utils.errors import ConfigError


def noise(width, height, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (2, 3), (5, 7)])
def test_the_parts_laid_side_by_side_are_the_upright_image(rows, columns, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    noise(29, 53).save(tmp_path / "turned.png", exif=exif)
    parts = [np.asarray(part.read()) for part in tiles_of(FileRef(tmp_path / "turned.png"), rows, columns)]
    lines = [np.concatenate(parts[i * columns : (i + 1) * columns], axis=1) for i in range(rows)]
    whole = np.asarray(noise(29, 53).transpose(Image.Transpose.ROTATE_270))
    np.testing.assert_array_equal(np.concatenate(lines), whole)


def test_the_answer_is_the_mean_of_the_parts_and_small_pictures_are_named(tmp_path):
    images = [noise(40, 40, seed) for seed in range(4)]
    fitted = va.ImageClassifier("random:tiny", LinearProbe()).fit(images, ["a", "b"] * 2)
    model = va.load_model(fitted.save(tmp_path / "model").parent)
    picture = noise(96, 64, 9)
    refs = [ImageObjectRef(picture, "large"), ImageObjectRef(noise(1, 9), "thin")]
    ((answers, unreadable),) = predict_images(model, refs, Rules(top=2), tiles=(2, 3))
    parts = [picture.crop((x, y, x + 32, y + 32)) for y in (0, 32) for x in (0, 32, 64)]
    expected = dict(zip(model.classes, model.predict_proba(parts).mean(axis=0).tolist(), strict=True))
    assert answers[0]["top"] == pytest.approx(expected, abs=1e-5) and len(answers) == 1
    assert "thin" in unreadable[0] and "2 x 3 parts" in unreadable[0]
    with pytest.raises(UnreadableImage):
        tiles_of(refs[1], 2, 3)


@pytest.mark.parametrize("text", ["3", "0x3", "3x", "axb", "-1x2", "100x1", "3x3x3"])
def test_what_is_no_rows_and_columns_is_refused(text):
    with pytest.raises(ConfigError, match="3x3"):
        read_tiles(text)
    assert read_tiles("3x12") == (3, 12)
