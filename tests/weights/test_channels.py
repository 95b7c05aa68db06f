"""Backbones for images of more than three channels: the stated rule, and a whole fit with them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from picture_cases import tiff
from PIL import Image

import vitadapt as va
from vitadapt.utils.errors import ConfigError


def test_channels_that_repeat_red_green_and_blue_keep_the_features():
    rgb, six = va.load_backbone("random:tiny"), va.load_backbone("channels:6/random:tiny")
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(six(images.repeat(1, 2, 1, 1)), rgb(images), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("count", [1, 4, 5])
def test_the_filters_of_a_channel_are_those_of_its_colour_scaled(count):
    rgb, wide = va.load_backbone("random:tiny"), va.load_backbone(f"channels:{count}/random:tiny", image_size=64)
    assert wide.preprocess.channels == count and wide.image_size == 64
    for k in range(count):
        torch.testing.assert_close(wide.patches.weight[:, k] * count / 3, rgb.patches.weight[:, k % 3])
        assert wide.preprocess.mean[k] == rgb.preprocess.mean[k % 3]


@pytest.mark.parametrize("name", ["5", "0/random:tiny", "x/random:tiny", "65/random:tiny"])
def test_what_is_no_number_of_channels_is_refused(name):
    with pytest.raises(ConfigError, match="channels:K/NAME"):
        va.load_backbone(f"channels:{name}")


def test_a_fit_sees_what_only_the_fifth_channel_shows(vitadapt, tmp_path):
    rng = np.random.default_rng(0)
    for name, level in {"dark": 40, "light": 200}.items():
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(6):
            values = rng.integers(0, 256, (32, 32, 5), dtype=np.uint8)
            values[..., 4] = rng.integers(level - 30, level + 30, (32, 32))
            (tmp_path / "photos" / name / f"{i}.tif").write_bytes(tiff(values))
    words = ("fit", "photos", "-o", "m", "-b", "channels:5/random:tiny", "--effort", "quick", "--no-cache", "--json")
    done = vitadapt(*words)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["test"]["accuracy"] == 100
    done = vitadapt("predict", "m", "photos/light", "--json")
    assert {row["class"] for row in json.loads(done.stdout)} == {"light"}
    half = np.concatenate([np.full((32, 32, 5), 40, np.uint8), np.full((32, 32, 5), 200, np.uint8)], axis=1)
    (tmp_path / "half.tif").write_bytes(tiff(half))
    done = vitadapt("predict", "m", "half.tif", "--tiles", "1x2", "--top", "2", "--json")
    (answer,) = json.loads(done.stdout)
    parts = []
    for i, part in enumerate((half[:, :32], half[:, 32:])):
        (tmp_path / f"{i}.tif").write_bytes(tiff(part))
        (found,) = json.loads(vitadapt("predict", "m", f"{i}.tif", "--top", "2", "--json").stdout)
        parts.append(found["top"]["light"])
    assert answer["top"]["light"] == pytest.approx(np.mean(parts), abs=1e-5) and abs(parts[0] - parts[1]) > 0.1
    Image.new("RGB", (64, 64)).save(tmp_path / "rgb.png")
    for words in (("predict", "m", "rgb.png"), ("predict", "m", "rgb.png", "--tiles", "2x2")):
        done = vitadapt(*words)
        assert done.returncode == 1 and "3 channels, and the backbone is for 5" in done.stderr
    assert vitadapt("explain", "m", "photos/light/0.tif").returncode == 0
    assert "RGB" in vitadapt("export", "m", "--to", "onnx").stderr
