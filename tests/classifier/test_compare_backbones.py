"""Backbones compared on one's images: the better one comes first, and what cannot be had says why."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitadapt.classifier.compare_backbones import compare_backbones
from vitadapt.nn.setting import Setting
from vitadapt.utils.errors import ConfigError


def folder(path: Path, each: int) -> str:
    """Two classes of small images: dark and bright."""
    generator = np.random.default_rng(0)
    for name, level in (("dark", 40), ("bright", 200)):
        (path / name).mkdir(parents=True)
        for i in range(each):
            pixels = generator.integers(level, level + 40, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(path / name / f"{i}.png")
    return str(path)


def test_the_better_backbone_is_first_and_what_is_not_cached_says_why(tmp_path: Path) -> None:
    names = ["file:/nowhere.pt", "random:tiny", "random:tiny"]
    first, last = compare_backbones(folder(tmp_path, 6), names, Setting())
    assert first.backbone == "random:tiny" and first.accuracy is not None and first.low is not None
    assert first.high is not None and 0.9 <= first.accuracy <= 1 and first.low < first.accuracy <= first.high
    assert first.milliseconds and first.parameters and last.accuracy is None and "nowhere" in last.note


def test_classes_of_one_image_cannot_be_compared(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at least 2 images"):
        compare_backbones(folder(tmp_path, 1), ["random:tiny"], Setting())
    with pytest.raises(ConfigError, match="name the backbones"):
        compare_backbones("digits", [], Setting())
