"""Batches for the training loops of other programs are the images and labels that our own loop sees."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import vitadapt as va
from vitadapt.data import Examples, ImageObjectRef


@pytest.fixture
def examples():
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)) for _ in range(7)]
    refs = tuple(ImageObjectRef(picture, str(i)) for i, picture in enumerate(pictures))
    return Examples(refs, np.arange(7) % 3)


@pytest.mark.parametrize("cached", [False, True])
def test_batches_hold_every_image_once_with_its_label(examples, cached, tmp_path):
    backbone = va.load_backbone("random:tiny")
    expected = va.load_images([ref.image for ref in examples.refs], backbone)
    options = {"cache": tmp_path} if cached else {}
    batches = list(va.make_loader(examples, backbone, batch_size=3, **options))
    assert [len(labels) for _, labels in batches] == [3, 3, 1]
    assert torch.equal(torch.cat([images for images, _ in batches]), expected)
    assert torch.cat([labels for _, labels in batches]).tolist() == examples.labels.tolist()


def test_the_order_is_that_of_the_seed(examples):
    backbone = va.load_backbone("random:tiny")

    def order(seed):
        return torch.cat([labels for _, labels in va.make_loader(examples, backbone, 2, True, seed)]).tolist()

    assert order(0) == order(0) and sorted(order(1)) == sorted(examples.labels.tolist())
    assert len({tuple(order(seed)) for seed in range(5)}) > 1


def test_single_images_and_several_labels_are_served_too(examples):
    several = Examples(examples.refs, np.eye(3, dtype=np.uint8)[examples.labels])
    loader = va.make_loader(several, va.load_backbone("random:tiny"), num_workers=0)
    image, labels = loader.dataset[4]
    assert image.shape == (3, 32, 32) and image.dtype == torch.uint8 and labels.tolist() == [0, 1, 0]
