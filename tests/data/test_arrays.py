"""Datasets made of what is in memory, and the nouns: references, examples, datasets."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitadapt.data import Dataset, Geometry, from_arrays, open_pixels
from vitadapt.data.examples import ArrayRef, Examples, ImageObjectRef
from vitadapt.utils.errors import DataError, VitadaptError

IMAGES = np.random.default_rng(0).integers(0, 256, (4, 6, 5, 3), dtype=np.uint8)


def pixels(dataset: Dataset) -> np.ndarray:
    return open_pixels(dataset.splits["train"], Geometry(4), None).gather(np.arange(4)).numpy()


def test_arrays_tensors_pil_images_and_paths_give_the_same_pixels(tmp_path: Path) -> None:
    import torch

    objects = [Image.fromarray(image) for image in IMAGES]
    for i, image in enumerate(objects):
        image.save(tmp_path / f"{i}.png")
    forms = [
        IMAGES,
        list(IMAGES),
        IMAGES.astype(np.float32) / 255,
        torch.from_numpy(IMAGES).permute(0, 3, 1, 2),
        [torch.from_numpy(image).permute(2, 0, 1) for image in IMAGES],
        torch.from_numpy(IMAGES).permute(0, 3, 1, 2).float() / 255,
        objects,
        [tmp_path / f"{i}.png" for i in range(4)],
        [str(tmp_path / f"{i}.png") for i in range(4)],
    ]
    expected = pixels(from_arrays(IMAGES, [0, 1, 0, 1], IMAGES, [0, 1, 0, 1]))
    for form in forms:
        np.testing.assert_array_equal(pixels(from_arrays(form, [0, 1, 0, 1], form, [0, 1, 0, 1])), expected)


def test_grey_bool_and_16_bit_arrays() -> None:
    grey = IMAGES[..., 0]
    forms = {
        "grey": grey,
        "one channel": grey[..., None],
        "16 bit": grey.astype(np.uint16) * 257,
    }
    expected = pixels(from_arrays(np.repeat(grey[..., None], 3, -1), [0, 1, 0, 1], grey, [0, 1, 0, 1]))
    for form in forms.values():
        np.testing.assert_array_equal(pixels(from_arrays(form, [0, 1, 0, 1], grey, [0, 1, 0, 1])), expected)
    mask = pixels(from_arrays(grey > 127, [0, 1, 0, 1], grey, [0, 1, 0, 1]))
    np.testing.assert_array_equal(
        mask, pixels(from_arrays((grey > 127).astype(np.uint8) * 255, [0, 1, 0, 1], grey, [0, 1, 0, 1]))
    )
    deep = IMAGES.astype(np.uint16) * 257
    np.testing.assert_array_equal(
        pixels(from_arrays(deep, [0, 1, 0, 1], grey, [0, 1, 0, 1])),
        pixels(from_arrays(IMAGES, [0, 1, 0, 1], grey, [0, 1, 0, 1])),
    )


def test_labels_of_arrays() -> None:
    def classes(train: object, test: object, names: list[str] | None = None) -> tuple[object, ...]:
        dataset = from_arrays(IMAGES, train, IMAGES, test, names)
        return dataset.classes, dataset.splits["train"].labels.tolist(), dataset.splits["test"].labels.tolist()

    assert classes([1, 3, 1, 3], [3, 3, 1, 1]) == (("1", "3"), [0, 1, 0, 1], [1, 1, 0, 0])
    assert classes(list("baba"), list("aabb")) == (("a", "b"), [1, 0, 1, 0], [0, 0, 1, 1])
    assert classes([0, 1, 0, 1], [1, 1, 0, 0], ["z", "y"]) == (("z", "y"), [0, 1, 0, 1], [1, 1, 0, 0])
    assert classes(list("yzyz"), list("zzzz"), ["z", "y"]) == (("z", "y"), [1, 0, 1, 0], [0] * 4)
    hot = [[1, 0], [1, 1], [0, 0], [0, 1]]
    assert classes(hot, hot, ["z", "y"]) == (("z", "y"), hot, hot)


GOOD = [0, 1, 0, 1]
WRONG = [
    ((IMAGES, [0, 1], IMAGES, GOOD), "4 train images, but labels of shape"),
    ((IMAGES, GOOD, IMAGES, [0, 1, 2, 1]), "test has labels outside the classes: 2"),
    ((IMAGES, [0, 0, 0, 0], IMAGES, GOOD), "at least two classes are needed"),
    ((IMAGES, GOOD, IMAGES, GOOD, ["a", "A"]), "are the same class name"),
    ((IMAGES, [0, 1, 2, 3], IMAGES, GOOD, ["a", "b"]), "train has labels outside the classes: 2, 3"),
    ((IMAGES * 2.0, GOOD, IMAGES, GOOD), r"train: floating-point images must lie in 0..1"),
    ((IMAGES / np.nan, GOOD, IMAGES, GOOD), r"train: floating-point images must lie in 0..1"),
    (
        (IMAGES.transpose(0, 3, 1, 2), GOOD, IMAGES, GOOD),
        r"train: images of shape \(4, 3, 6, 5\), expected \(N, H, W\)",
    ),
    ((IMAGES[0, 0], GOOD, IMAGES, GOOD), "train: images of shape"),
    ((["a.png", 3, 4, 5], GOOD, IMAGES, GOOD), r"train\[1\] is a int, not an array, a PIL image or a path"),
    (("a.png", GOOD, IMAGES, GOOD), "train: one image was given where a sequence of images was expected"),
    ((IMAGES, [[0, 2], [1, 0], [0, 1], [0, 1]], IMAGES, GOOD), "multi-hot labels other than 0 and 1"),
    ((IMAGES[:0], [], IMAGES, GOOD), "needed|no images"),
]


@pytest.mark.parametrize("case", range(len(WRONG)))
def test_arrays_that_do_not_fit_together_are_refused(case: int) -> None:
    arguments, message = WRONG[case]
    with pytest.raises(VitadaptError, match=message):
        from_arrays(*arguments)


def test_integer_arrays_of_unknown_scale_are_refused_when_they_are_read() -> None:
    dataset = from_arrays(IMAGES.astype(np.int64), GOOD, IMAGES, GOOD)
    with pytest.raises(
        DataError, match=r"4 images cannot be read: train\[0\] \(an array of int64, not uint8, uint16 or"
    ):
        pixels(dataset)


def test_examples_and_datasets_that_make_no_sense_are_refused() -> None:
    refs = tuple(ArrayRef(image, "x") for image in IMAGES)
    with pytest.raises(ValueError, match="do not match"):
        Examples(refs, np.array([0, 1]))
    good = Examples(refs, np.array(GOOD))
    with pytest.raises(DataError, match="the test split has no images"):
        Dataset("d", ("a", "b"), {"train": good})
    with pytest.raises(DataError, match="the val split has no images"):
        Dataset("d", ("a", "b"), {"train": good, "test": good, "val": good.take([])})
    with pytest.raises(DataError, match=r"labels 0..1, outside 0..0"):
        Dataset("d", ("a",), {"train": good, "test": good})
    hot = Examples(refs, np.eye(4, dtype=np.uint8))
    with pytest.raises(DataError, match="labels for 4 classes, expected 2"):
        Dataset("d", ("a", "b"), {"train": hot, "test": hot})
    with pytest.raises(IndexError, match="turn a mask into them"):
        good.take(np.array([True, False, True, False]))


def test_taking_keeps_images_and_labels_together() -> None:
    whole = Examples(tuple(ArrayRef(image, str(i)) for i, image in enumerate(IMAGES)), np.array([5, 6, 7, 8]))
    taken = whole.take(np.array([3, 0, 3]))
    assert ([ref.name for ref in taken.refs], taken.labels.tolist()) == (["3", "0", "3"], [8, 5, 8])


def test_the_digest_of_an_array_depends_on_its_bytes_shape_and_type() -> None:
    base = np.arange(12, dtype=np.uint8).reshape(3, 4)
    forms = [base, base + 1, base.reshape(4, 3), base.reshape(6, 2), base.view(np.uint16), base.astype(np.uint16)]
    digests = [ArrayRef(form, "x").digest() for form in forms]
    assert len(set(digests)) == len(forms)
    assert ArrayRef(np.asfortranarray(base), "other name").digest() == digests[0]


def test_the_digest_of_a_pil_image_depends_on_all_that_decides_its_look() -> None:
    indexed = [Image.new("P", (2, 2)) for _ in range(3)]
    for image, colour in zip(indexed, [(1, 2, 3), (3, 2, 1), (1, 2, 3)], strict=True):
        image.putpalette(colour)
    indexed[2].info["transparency"] = 0
    images = [*indexed, Image.new("L", (2, 2)), Image.new("L", (4, 1)), Image.new("L", (2, 2), 1)]
    digests = [ImageObjectRef(image, "x").digest() for image in images]
    assert len(set(digests)) == len(images)
    assert ImageObjectRef(images[3].copy(), "another name").digest() == digests[3]


def test_a_pil_image_that_was_opened_from_half_a_file_is_named() -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 50, 3), dtype=np.uint8)).save(buffer, "PNG")
    for use in (ImageObjectRef.read, ImageObjectRef.digest):
        half = Image.open(io.BytesIO(buffer.getvalue()[:2000]))
        with pytest.raises(DataError, match=r"train\[3\] cannot be read \(truncated\)"):
            use(ImageObjectRef(half, "train[3]"))
