"""The published toolkit's own checkpoints, and networks that are no ViTs: their features, and what is refused."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import weights_cases as cases
from pairs import turns
from torch import Tensor
from weights_cases import images, largest

import vitadapt as va
from vitadapt.methods import METHODS
from vitadapt.nn.backbone import backbone_digest
from vitadapt.nn.surgery import State, seeded, trainable
from vitadapt.nn.vit import ViT
from vitadapt.utils.errors import NotApplicable, WeightsError
from vitadapt.weights import FeatureExtractor, load_backbone

STAGES = {"embed_dim": 32, "depths": (2, 2), "num_heads": (2, 4), "window_size": 4}


def load(state: State, folder: Path, query: str = "") -> Any:
    torch.save({"model": state}, folder / "model.pth.tar")
    return load_backbone(f"file:{folder / 'model.pth.tar'}{query}")


def of_declip(text: str) -> tuple[Any, State]:
    """CLIP's image tower, and a checkpoint with it as DeCLIP's code base writes it."""
    clip = cases.open_clip_model(quick=True)
    state = {f"module.visual.{name}": tensor for name, tensor in clip.visual.state_dict().items()}
    beside = ("token_embedding.weight", "text_projection.bias", "transformer.resblocks.0.ln_1.bias")
    state |= {f"module.{text}.{name}": torch.zeros(4, 4) for name in beside}
    in_training = ("logit_scale", "predictor_sim.linear1.weight", "nn_replacer_text.bank", "image_mapping.weight")
    return clip, state | {f"module.{name}": torch.zeros(1) for name in in_training}


@pytest.mark.parametrize("text", ["encode_text", "text_encoder"])
def test_declip_and_its_siblings_tell_their_activation_by_their_text_tower(text: str, tmp_path: Path) -> None:
    pytest.importorskip("open_clip")
    clip, state = of_declip(text)
    vit, x = load(state, tmp_path, "?heads=4"), images()
    assert isinstance(vit, ViT) and vit.config.activation == "quick_gelu"
    with torch.no_grad():
        assert largest(clip.encode_image(vit.normalise(x)), vit(x)) <= 1e-5


def test_react_is_refused_by_its_gates_and_loads_without_them(tmp_path: Path) -> None:
    pytest.importorskip("open_clip")
    state = cases.model("open_clip quick gelu").state_dict()
    assert isinstance(load(state, tmp_path, "?heads=4&activation=quick_gelu"), ViT)
    gate = "visual.transformer.resblocks.1.gated_attn_block.alpha_attn"
    with pytest.raises(WeightsError, match=f"has the gated blocks of REACT .{gate[7:]}"):
        load(state | {gate: torch.zeros(())}, tmp_path, "?heads=4&activation=quick_gelu")


def clip_resnet() -> tuple[State, Any]:
    resnet = pytest.importorskip("open_clip.modified_resnet")
    network = cases.shaken(resnet.ModifiedResNet([1, 2, 1, 1], 24, 8, 64, 16))
    return {f"visual.{name}": t for name, t in network.state_dict().items()} | {"logit_scale": torch.ones(())}, network


@cache
def swin() -> Any:
    kind = pytest.importorskip("timm.models.swin_transformer").SwinTransformer
    with seeded(0):
        return cases.shaken(kind(img_size=64, patch_size=4, num_classes=5, **STAGES))


def plain_swin() -> tuple[State, Any]:
    """A Swin in its authors' names, in which the merging of patches ends a stage, with what their files hold beside."""
    network = swin()
    state = {name.replace("layers.1.downsample", "layers.0.downsample"): t for name, t in network.state_dict().items()}
    state["layers.0.blocks.1.attn_mask"] = torch.zeros(16, 16, 16)
    state["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(16, 16, dtype=torch.long)
    return state, lambda x: cases.timm_features(network, x)


def clip_swin() -> tuple[State, Any]:
    state, features = plain_swin()
    matrix = torch.randn(64, 12, generator=torch.Generator().manual_seed(2))
    whole = {f"visual.{name}": tensor for name, tensor in state.items()}
    whole |= {"vision_projection": matrix, "text_projection": torch.zeros(8, 12), "logit_scale": torch.ones(())}
    return whole | {"text.ln_final.weight": torch.zeros(8)}, lambda x: features(x) @ matrix


NETWORKS = {"CLIP ResNet": clip_resnet, "Swin": plain_swin, "Swin with projection": clip_swin}


@pytest.mark.parametrize("kind", NETWORKS)
def test_networks_that_are_no_vits_give_their_own_features(kind: str, tmp_path: Path) -> None:
    state, features = NETWORKS[kind]()
    network, x = load(state, tmp_path), images(64)
    assert isinstance(network, FeatureExtractor) and network.config.name == kind and network.image_size == 64
    with torch.no_grad():
        assert largest(network(x), features(network.normalise(x))) <= 1e-6
    with pytest.raises(NotApplicable, match="FeatureExtractor has none; use linear-probe"):
        va.adapt(network, va.LoRA())
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    assert backbone_digest(load(state, moved)) == backbone_digest(network), "the place of a file is not its identity"


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_tensor_too_many_too_few_or_of_another_shape_is_named(kind: str, tmp_path: Path) -> None:
    state, _ = NETWORKS[kind]()
    prefix = "visual." if f"visual.{'conv1.weight' if 'ResNet' in kind else 'norm.weight'}" in state else ""
    last = "layer4.0.bn3.bias" if "ResNet" in kind else "layers.1.blocks.1.mlp.fc2.bias"
    without = {name: tensor for name, tensor in state.items() if name != prefix + last}
    with pytest.raises(WeightsError, match=f"{last} is missing"):
        load(without, tmp_path)
    for strange, value in ((last, torch.zeros(3)), (last, state[prefix + last].to(torch.int8))):
        with pytest.raises(WeightsError, match=f"{strange} is torch"):
            load(state | {prefix + strange: value}, tmp_path)
    with pytest.raises(WeightsError, match="gate has no place in a"):
        load(state | {prefix + "gate": torch.zeros(3)}, tmp_path)
    if prefix:
        with pytest.raises(WeightsError, match="stands gate, which may change its features"):
            load(state | {"gate": torch.zeros(3)}, tmp_path)


_SMALL = {"image_size": 32, "patch_size": 4, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}
_CONV = {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "image_size": 32}


@pytest.mark.parametrize("kind", ["Swin", "Swinv2", "ConvNext", "ConvNextV2", "DINOv3ConvNext"])
def test_networks_of_transformers_that_pool_images(kind: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    if not hasattr(transformers, f"{kind}Model"):
        pytest.skip(f"this version has no {kind}")
    config = getattr(transformers, f"{kind}Config")(**(_SMALL if "Swin" in kind else _CONV))
    model = cases.shaken(getattr(transformers, f"{kind}Model")(config))
    model.save_pretrained(tmp_path)
    network, x = load_backbone(f"hf:{tmp_path}"), images()
    with torch.no_grad():
        assert largest(network(x), model(pixel_values=network.normalise(x)).pooler_output) <= 1e-6
    state: Any = model.state_dict()
    state.pop(next(name for name in state if name.endswith(".bias")))
    model.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(WeightsError, match="is missing; the file is damaged or of another network"):
        load_backbone(f"hf:{tmp_path}")


@cache
def hf_swin() -> Any:
    transformers = pytest.importorskip("transformers")
    config = transformers.SwinConfig(image_size=64, patch_size=4, num_labels=5, **{**STAGES, "depths": [2, 2]})
    with seeded(0):
        return cases.shaken(transformers.SwinForImageClassification(config))


def logits(model: Any, x: Tensor) -> Tensor:
    out = model(x)
    return out if isinstance(out, Tensor) else out.logits


@pytest.mark.parametrize(("method", "make"), turns(METHODS, [swin, hf_swin]))
def test_a_live_swin_takes_what_changes_linear_layers_and_names_the_rest(method: str, make: Any) -> None:
    live, x = make(), images(64)
    before = copy.deepcopy(live.state_dict())
    try:
        adapted = va.adapt(live, METHODS[method]())
    except NotApplicable as refusal:
        assert "\n" not in str(refusal) and method not in ("lora", "kadaptation", "dora", "lokr", "svd", "bitfit")
        return
    with torch.no_grad():
        torch.testing.assert_close(logits(adapted, x), logits(live, x), atol=1e-6, rtol=1e-6)
    inside = {n: p for n, p in trainable(adapted).items() if not n.startswith(("head.", "classifier."))}
    assert method in ("bitfit", "fine-tune", "attention") or not any("relative_position" in n for n in inside)
    for parameter in inside.values():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    wanted = logits(adapted, x)
    if inside:
        assert largest(wanted.detach(), logits(live, x).detach()) > 1e-4
        wanted.square().sum().backward()
        assert all(p.grad is not None and p.grad.any() for p in inside.values())
    merged = va.merge(adapted)
    assert merged.state_dict().keys() == live.state_dict().keys()
    assert [type(m) for m in merged.modules()] == [type(m) for m in live.modules()]
    torch.testing.assert_close(logits(merged, x), wanted, atol=1e-5, rtol=1e-5)
    assert all(torch.equal(t, before[name]) for name, t in live.state_dict().items())
