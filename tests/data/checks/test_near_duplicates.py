"""Pictures of the same thing end in one group, pictures of different things do not."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from vitadapt.data.checks import near_duplicates
from vitadapt.data.checks.images import scan
from vitadapt.data.checks.near_duplicates import groups
from vitadapt.data.examples import ImageObjectRef


def scene(seed, size=(200, 150)):
    """Soft blobs of colour with some edges: every seed another picture."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (7, 9, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    edges = Image.fromarray(rng.integers(0, 256, (11, 15, 3), dtype=np.uint8)).resize(size, Image.Resampling.NEAREST)
    return Image.blend(coarse, edges, 0.35).filter(ImageFilter.GaussianBlur(1))


def jpeg(image, quality):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(io.BytesIO(buffer.getvalue()))


def cut(image, left, top, right, bottom):
    width, height = image.size
    return image.crop((round(left * width), round(top * height), round(right * width), round(bottom * height)))


def frame(image):
    """The next frame of a burst: the camera moved a little, the light, too, and a part of the scene went elsewhere."""
    moved = cut(image, 0.03, 0.02, 0.99, 0.97).rotate(1, Image.Resampling.BICUBIC)
    part = cut(moved, 0.4, 0.4, 0.55, 0.6)
    moved.paste(part, (moved.width // 2, moved.height // 2))
    return ImageEnhance.Brightness(moved).enhance(1.05)


TWINS = {
    "smaller": lambda image: image.resize((67, 50)),
    "recompressed": lambda image: jpeg(image, 20),
    "cropped": lambda image: cut(image, 0.1, 0.1, 0.9, 0.9),
    "cropped at a corner": lambda image: cut(image, 0.28, 0.0, 1.0, 0.75),
    "squared": lambda image: ImageOps.fit(image, (100, 100)),
    "mirrored": ImageOps.mirror,
    "mirrored and cropped": lambda image: ImageOps.mirror(cut(image, 0.05, 0.1, 0.85, 0.95)),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.15),
    "of a burst": frame,
}


def grouped(images):
    refs = [ImageObjectRef(image, f"image {i}") for i, image in enumerate(images)]
    return groups(scan(refs).thumbnails, np.arange(len(refs))).tolist()


@pytest.mark.parametrize("change", TWINS.values(), ids=TWINS)
def test_a_changed_copy_joins_its_original_and_nobody_else(change):
    originals = [scene(seed) for seed in range(6)]
    assert grouped([*originals, *map(change, originals)]) == [0, 1, 2, 3, 4, 5] * 2


def test_different_pictures_stay_apart():
    count = 60
    assert grouped([scene(seed) for seed in range(count)]) == list(range(count))


def test_colour_alone_tells_pictures_apart():
    flags = [[(200, 0, 0), (255, 255, 255), (0, 0, 160)], [(0, 140, 0), (255, 255, 255), (200, 0, 0)]]
    images = [Image.fromarray(np.array([flag], dtype=np.uint8)).resize((90, 60), 0) for flag in flags]
    assert grouped(images) == [0, 1]


def test_groups_are_closed():
    image = scene(0)
    chain = [cut(image, 0, 0, 0.7, 1), cut(image, 0.15, 0, 0.85, 1), cut(image, 0.3, 0, 1, 1), image]
    assert grouped(chain) == [0, 0, 0, 0]


def test_pictures_without_contrast_are_equal_only_when_they_are():
    blank = [Image.new("RGB", (40, 40), colour) for colour in ("white", "black", "white", (254, 255, 255))]
    assert grouped(blank) == [0, 1, 0, 2]


def test_one_picture_and_none_are_fine():
    assert grouped([scene(0)]) == [0]
    assert grouped([]) == []


def test_order_decides_nothing_but_the_numbers():
    images = [scene(seed) for seed in range(5)] + [ImageOps.mirror(scene(seed)) for seed in range(3)]
    order = [6, 2, 0, 7, 5, 4, 1, 3]
    there, back = np.array(grouped(images)), np.array(grouped([images[i] for i in order]))
    assert ((there[order][:, None] == there[order]) == (back[:, None] == back)).all()
    assert list(dict.fromkeys(back)) == sorted(set(back))


def test_of_many_pictures_the_central_windows_are_compared(monkeypatch):
    originals = [scene(seed) for seed in range(6)]
    whole = grouped([*originals, *map(TWINS["cropped"], originals), *map(TWINS["mirrored"], originals)])
    monkeypatch.setattr(near_duplicates, "_COMPARISONS", 2 * 18**2 * 5)
    assert sorted(near_duplicates._places(18).tolist()[:4]) == [[0, 0], [2, 2], [5, 5], [8, 8]]
    few = grouped([*originals, *map(TWINS["cropped"], originals), *map(TWINS["mirrored"], originals)])
    assert few == whole == [0, 1, 2, 3, 4, 5] * 3
