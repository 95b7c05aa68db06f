"""Folders of small pictures."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Two classes of noisy coloured pictures, 3 for training and 5 for testing each."""
    root, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for label, colour in {"cat": (40, 60, 220), "dog": (220, 40, 40)}.items():
        for part, count in (("train", 3), ("test", 5)):
            folder = root / part / label
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = np.clip(np.array(colour) + rng.normal(0, 60, (32, 32, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    return root
